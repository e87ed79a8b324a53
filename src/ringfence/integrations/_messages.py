"""`each_message`: the messages of a WebSocket, each in a scope and with a session of its own."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..current import child_context, current_context
from ..errors import NoContextError
from ._exchange import CLOSE_CODES

__all__ = ["each_message"]

logger = logging.getLogger("ringfence.asgi")


async def each_message(websocket: WebSocket, handle: Callable[[Any], Awaitable[object]]) -> None:
    """
    Serve a WebSocket: call `handle` with each message, until the client leaves.

    Each message, a `str` or `bytes` as it was framed, gets a child scope named `message`: its own
    request id, session and clean-up, committed or rolled back when `handle` ends. One is handled
    after the other; one that is being handled when the client leaves is not cancelled. The
    connection is accepted if it is not yet, and closed with 4401 when the identity's
    `expires_at` has passed: before a message is handled, or while none comes::

        async def chat(websocket: WebSocket) -> None:
            async def handle(message: str) -> None:
                await websocket.send_text(f"{current_context().user_id}: {message}")

            await each_message(websocket, handle)

    What `handle` raises rolls its message back and ends the connection, but for the
    `WebSocketDisconnect` of a client that has left.

    Args:
        websocket: Starlette's, under `UserContextMiddleware`.
        handle: async; what it returns is dropped.

    Raises:
        NoContextError: the connection belongs to nobody.
    """
    expires_at = current_context().expires_at
    if websocket.application_state is WebSocketState.CONNECTING:
        await websocket.accept()
    while websocket.application_state is WebSocketState.CONNECTED:
        message = await _next_message(websocket, expires_at)
        if message is None:
            await _close_expired(websocket)
            return
        if message["type"] == "websocket.disconnect":
            return
        content = message.get("text")
        try:
            async with child_context("message"):
                await handle(message["bytes"] if content is None else content)
        except WebSocketDisconnect:
            return


async def _next_message(websocket: WebSocket, expires_at: dt.datetime | None) -> Any:
    """The next message; `None` once the identity has expired."""
    if expires_at is None:
        return await websocket.receive()
    message = None
    with anyio.move_on_after(_seconds_until(expires_at)):
        message = await websocket.receive()
    # A message that was there already is handed out by an expired time-out too.
    if message is not None and message["type"] != "websocket.disconnect":
        return None if _seconds_until(expires_at) <= 0 else message
    return message


def _seconds_until(time: dt.datetime) -> float:
    return (time - dt.datetime.now(dt.UTC)).total_seconds()


async def _close_expired(websocket: WebSocket) -> None:
    error = NoContextError("The identity has expired.", "Sign in again and reconnect.")
    logger.info("Request `%s` was closed: 4401, %s.", current_context().request_id, error.code)
    try:
        await websocket.close(CLOSE_CODES[401], "Unauthorized")
    except WebSocketDisconnect:
        pass
