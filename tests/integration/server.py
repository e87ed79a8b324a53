"""A uvicorn of our own in a process of its own, and what talks to it byte by byte."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ringfence import Identity, Ringfence, counters, current_context_or_none

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"

# --- the applications -------------------------------------------------------------------------

_user: ContextVar[str] = ContextVar("user", default="-")


def identify(connection: Any) -> Identity | None:
    """For tests only: plain headers are no identity."""
    headers = dict(connection.scope["headers"])
    user, seconds = headers.get(b"x-user"), float(headers.get(b"x-seconds", b"60"))
    expires_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return None if user is None else Identity(user.decode(), expires_at=expires_at)


class Naive:
    """The middleware that everybody writes: set on the way in, reset on the way out."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"]).get(b"x-user")
        if user is None:
            await self.app(scope, receive, send)
            return
        token = _user.set(user.decode())
        try:
            await self.app(scope, receive, send)
        finally:
            _user.reset(token)


def _whoami(current: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": current()})
            await send({"type": "websocket.close"})
            return
        while (await receive()).get("more_body"):
            pass
        before = current()
        await asyncio.sleep(0)
        body = json.dumps([before, current()]).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _fenced_user() -> str:
    ctx = current_context_or_none()
    return "-" if ctx is None else ctx.user_id


async def _count(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps(counters.snapshot()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(scope: Any, receive: Any, send: Any) -> None:
    from starlette.responses import StreamingResponse

    async def chunks() -> Any:
        while True:
            yield _fenced_user()
            await asyncio.sleep(0.01)

    await StreamingResponse(chunks())(scope, receive, send)


async def _messages(scope: Any, receive: Any, send: Any) -> None:
    """Says to each message who sent it; pushes without end when it is told to."""
    from starlette.websockets import WebSocket

    from ringfence import current_context, current_scope
    from ringfence.integrations.starlette import each_message

    async def handle(message: str) -> None:
        current_scope().callback(counters.count, "test.cleaned_up")
        user, depth = current_context().user_id, current_context().operation_depth
        await websocket.send_text(f"{user} {depth} {message}")
        while message == "push":
            await websocket.send_text(user)
            await asyncio.sleep(0.001)

    websocket = WebSocket(scope, receive, send)
    await each_message(websocket, handle)


def applications() -> dict[str, Any]:
    """By the path that leads there."""
    from starlette.middleware.base import BaseHTTPMiddleware

    from ringfence.integrations.asgi import UserContextMiddleware

    async def through(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def fenced(app: Any, required: bool = False) -> Any:
        return UserContextMiddleware(app, fence=fence, identify=identify, required=required)

    fence = Ringfence()
    app = _whoami(_fenced_user)
    return {
        "/naive": Naive(_whoami(_user.get)),
        "/ringfence": fenced(app),
        "/around": BaseHTTPMiddleware(fenced(app), through),
        "/within": fenced(BaseHTTPMiddleware(app, through)),
        "/required": fenced(app, required=True),
        "/stream": fenced(_stream),
        "/messages": fenced(_messages, required=True),
        "/counters": _count,
    }


def main() -> None:
    """Serve until standard input ends, so that nothing outlives the tests."""
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--http", required=True)
    parser.add_argument("--loop", required=True)
    parser.add_argument("--ws", default="auto")
    options = parser.parse_args()
    apps = applications()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await apps[scope["path"]](scope, receive, send)

    config = uvicorn.Config(
        app, http=options.http, loop=options.loop, ws=options.ws, lifespan="off",
        log_level="critical",
    )  # fmt: skip
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.read()
        server.should_exit = True

    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=watch, daemon=True).start()
        server.run(sockets=[listener])


# --- the client -------------------------------------------------------------------------------


@contextlib.contextmanager
def serve(http: str, loop: str, ws: str = "auto") -> Iterator[int]:
    """The port of a server that runs within the block."""
    command = [sys.executable, "-m", "tests.integration.server"]
    command += ["--http", http, "--loop", loop, "--ws", ws]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Wire:
    """One connection, kept alive; requests may be sent before answers are read."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, *requests: bytes) -> None:
        """All in as few packets as the system makes of it."""
        self._socket.sendall(b"".join(requests))

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def answer(self) -> tuple[int, Any]:
        """The next answer: status, and its JSON document."""
        status, headers = self.head()
        return status, json.loads(self._file.read(int(headers["content-length"])))

    def users(self) -> set[str]:
        """Who the application saw in the next request, at its beginning and end."""
        status, seen = self.answer()
        assert status == 200, seen
        return set(seen)

    def reset(self) -> None:
        """When it is closed, it is reset, as when a cable is pulled."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def read(self, size: int) -> bytes:
        """Bytes of the body."""
        return self._file.read(size)


def request(path: str, user: str | None = None, body: int = 0, extra: str = "") -> bytes:
    """A request with a body of that many bytes."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: {HOST}\r\n{extra}"
    if user is not None:
        head += f"x-user: {user}\r\n"
    if body:
        head += f"content-length: {body}\r\n"
    return head.encode() + b"\r\n" + b"x" * body


UPGRADE = (
    "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)

if __name__ == "__main__":
    main()
