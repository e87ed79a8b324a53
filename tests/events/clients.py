"""Clients of the endpoints: what a server hears and says, one message at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextvars import Context
from typing import Any

import anyio

from ringfence.tasks import Job

from ..integrations.asgi_driver import request
from .readers import PATIENCE


class Client:
    """One connection. Lives as long as the block of `connected`."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.job: Job | None = None
        self.is_reading = True
        self.error: Exception | None = None
        self._out, self._said = anyio.create_memory_object_stream[Any](10_000)
        self._say, self._in = anyio.create_memory_object_stream[Any](10_000)

    # --- what the server is given

    async def receive(self) -> Any:
        return await self._in.receive()

    async def send(self, message: Any) -> None:
        if self.error is not None:
            raise self.error
        if not self.is_reading:
            await anyio.sleep_forever()
        await self._out.send(dict(message))

    # --- what the client does

    async def hear(self) -> Any:
        """The next message of the server."""
        with anyio.fail_after(PATIENCE):
            return await self._said.receive()

    async def event(self) -> Any:
        """The next document that is no heartbeat, by either transport."""
        while True:
            message = await self.hear()
            text = message.get("text") or message["body"].decode()
            lines = [line for line in text.splitlines() if line.startswith("data: ")]
            if lines:
                text = lines[0][len("data: ") :]
            if text.startswith("{") and (document := json.loads(text))["kind"] != "heartbeat":
                return document

    def say(self, message: Any) -> None:
        self._say.send_nowait(message)

    def leave(self, code: int = 1006) -> None:
        kind = "http" if self.scope["type"] == "http" else "websocket"
        self.say({"type": f"{kind}.disconnect", "code": code})

    async def ended(self) -> BaseException | None:
        """Wait for the application to return; what it raised."""
        assert self.job is not None
        with anyio.fail_after(PATIENCE):
            await self.job.done.wait()
        return self.job.error

    @property
    def has_ended(self) -> bool:
        return self.job is not None and self.job.done.is_set()


@contextlib.asynccontextmanager
async def connected(
    app: Any, transport: str, user: str | None = "ann", query: str = "", **options: Any
) -> AsyncIterator[Client]:
    """A client whose request is being served; it leaves in the end."""
    path = "/socket" if transport == "websocket" else "/stream"
    scope = request(path, user=user, type=transport, query_string=query.encode(), **options)
    scope["scheme"] = options.get("scheme", "ws" if transport == "websocket" else "http")
    client = Client(scope)
    first = {"type": "websocket.connect" if transport == "websocket" else "http.request"}
    client.say({**first, "body": b"", "more_body": False})

    async def serve() -> None:
        await app(scope, client.receive, client.send)

    client.job = Job(serve, "request", Context())
    try:
        yield client
    finally:
        client.leave()
        client.is_reading = True
        await client.ended()
        for stream in (client._out, client._said, client._say, client._in):
            stream.close()


@contextlib.asynccontextmanager
async def listening(app: Any, transport: str, **options: Any) -> AsyncIterator[Client]:
    """The same, once it has been told that it is connected."""
    async with connected(app, transport, **options) as client:
        start = await client.hear()
        assert start["type"] in ("websocket.accept", "http.response.start"), start
        assert start.get("status", 200) == 200, start
        client.scope["ready"] = await client.event()
        assert client.scope["ready"]["kind"] == "ready"
        yield client
