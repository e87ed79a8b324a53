"""Cutting off a client that does not read: ASGI has no word for it, so the server is looked for."""

from __future__ import annotations

import asyncio
from typing import Any

from anyio.lowlevel import checkpoint

__all__ = ["cut_off", "cut_off_later"]

_LAYERS = 10


async def cut_off(connection: Any) -> None:
    """
    Abort the transport of a client that is too slow, and drop what it was not sent.

    A server that is only told that the response is over waits until the client has read what was
    written, which it may never do; the socket and its buffer would stay, and be counted by nobody.
    """
    transport = _transport_of(connection)
    if transport is not None:
        transport.abort()
        await checkpoint()  # the server hears of it before the application returns


def cut_off_later(connection: Any, seconds: float) -> None:
    """The same, if the client has not read by then what is written now."""
    transport = _transport_of(connection)
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(seconds, _abort_unread, transport)


def _abort_unread(transport: asyncio.WriteTransport) -> None:
    if transport.get_write_buffer_size():
        transport.abort()


def _transport_of(connection: Any) -> asyncio.WriteTransport | None:
    """
    Of Starlette's request or WebSocket: uvicorn's, behind our own and others' `receive`.

    `None` where the server shows none, and where others share it, as streams of HTTP/2 do.
    """
    if not str(connection.scope.get("http_version", "")).startswith("1"):
        return None
    owner = connection
    for _ in range(_LAYERS):
        transport = getattr(owner, "transport", None)
        if hasattr(transport, "abort") and hasattr(transport, "get_write_buffer_size"):
            return transport  # uvloop's is of no class of asyncio
        owner = getattr(getattr(owner, "_receive", None), "__self__", None)
    return None
