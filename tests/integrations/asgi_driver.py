"""Drives an ASGI application as a server does: each request in a task with a context of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

import anyio
import attrs

from ringfence import Identity, Ringfence
from ringfence.integrations.asgi import Connection, UserContextMiddleware
from ringfence.tasks import Job

Message = dict[str, Any]


def identify(connection: Connection) -> Identity | None:
    """For tests only: a plain header is no identity."""
    user = connection.headers.get("x-user")
    return None if user is None else Identity(user)


FENCE = Ringfence()
"""Of whoever names no other; never opened."""


def fenced(app: Any, **options: Any) -> UserContextMiddleware:
    return UserContextMiddleware(app, **{"fence": FENCE, "identify": identify, **options})


async def respond(send: Any, status: int = 200, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


@attrs.define
class Answer:
    """What came back: all messages, what the application raised, and the ASGI dict."""

    scope: Message
    messages: list[Message] = attrs.field(factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        start = self.messages[0]
        assert start["type"].endswith("response.start"), start
        assert [m["type"] for m in self.messages].count(start["type"]) == 1
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(n.decode(), v.decode()) for n, v in self.messages[0]["headers"]]
        assert len(dict(pairs)) == len(pairs), f"a header twice: {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)

    @property
    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["content-length"] == str(len(self.body))
        return json.loads(self.body)

    @property
    def outcome(self) -> str | None:
        return self.scope.get("ringfence.outcome")


def request(
    path: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    user: str | None = None,
    raw_headers: Any = None,
    **scope: Any,
) -> Message:
    raw = raw_headers
    if raw is None:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    if user is not None:
        raw.append((b"x-user", user.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": raw,
        "client": ("127.0.0.1", 1234),
        **scope,
    }


async def call(
    app: Any,
    path: str = "/",
    *,
    incoming: Iterable[Message] = (),
    send_error: Callable[[Message], BaseException | None] | None = None,
    context: Context | None = None,
    cancel_on: anyio.Event | None = None,
    **options: Any,
) -> Answer:
    """One request, to its end. Without more `incoming` messages `receive` waits."""
    scope = request(path, **options)
    first = "websocket.connect" if scope["type"] == "websocket" else "http.request"
    queue = [{"type": first}, *incoming]
    answer = Answer(scope)

    async def receive() -> Message:
        if not queue:
            await anyio.sleep_forever()
        return queue.pop(0)

    async def send(message: Message) -> None:
        error = None if send_error is None else send_error(message)
        if error is not None:
            raise error
        answer.messages.append(dict(message))

    async def serve() -> None:
        await app(scope, receive, send)

    job = Job(serve, "request", Context() if context is None else context)
    if cancel_on is not None:
        await cancel_on.wait()
        job.cancel()
    await job.done.wait()
    answer.error = job.error
    return answer


async def ok(app: Any, path: str = "/", **options: Any) -> Answer:
    """`call`, where the application must raise nothing."""
    answer = await call(app, path, **options)
    if answer.error is not None:
        raise answer.error
    return answer
