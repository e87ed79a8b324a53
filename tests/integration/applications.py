"""What the servers serve: the same handlers behind ringfence, and behind what everybody writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from ringfence import (
    Identity,
    Ringfence,
    Settings,
    counters,
    current_context,
    current_context_or_none,
    current_scope,
)
from ringfence.integrations.asgi import OUTCOME, UserContextMiddleware
from ringfence.integrations.sqlalchemy import Database
from ringfence.integrations.starlette import each_message
from ringfence.isolation import registry
from ringfence.state import open_roots

from .journal import Journal

if TYPE_CHECKING:
    from .options import Options

_user: ContextVar[str] = ContextVar("user", default="-")


class Pool:
    """Connections to SQLite by SQLAlchemy's own pool; none on trio, where that does not run."""

    def __init__(self, path: Path, loop: str) -> None:
        self.engine: Any = None
        self.database: Any = None
        self.dropped = 0  # given back by nobody, and found when they were freed
        if loop == "trio":
            return
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}.sqlite", pool_size=20)
        self.database = Database(async_sessionmaker(self.engine))
        event.listen(self.engine.sync_engine, "reset", self._is_reset)

    def _is_reset(self, connection: Any, record: Any, state: Any) -> None:
        self.dropped += not state.asyncio_safe

    @property
    def checked_out(self) -> int:
        return 0 if self.engine is None else self.engine.pool.checkedout()

    async def aclose(self) -> None:
        if self.engine is not None:
            await self.engine.dispose()

    async def use(self, session: Any) -> None:
        """Check a connection out, until the session or connection is closed."""
        if self.engine is not None:
            await session.execute(text("select 1"))


# --- the two sides ----------------------------------------------------------------------------


class Fenced:
    """ringfence's side: whatever is registered on the scope, it runs."""

    def __init__(self, journal: Journal, pool: Pool) -> None:
        self._journal = journal
        self._pool = pool

    def user(self) -> str:
        ctx = current_context_or_none()
        return "-" if ctx is None else ctx.user_id

    @contextlib.asynccontextmanager
    async def work(self, name: str) -> AsyncIterator[None]:
        scope = current_scope()
        scope.callback(_note, self._journal, name, "callback")
        await scope.enter(_Noted(self._journal, name))
        await self._pool.use(scope.db_session)
        self._journal.write("begun", request=name, user=self.user())
        yield


class Plain:
    """The other side: `async with`, and a variable that is set and reset."""

    def __init__(self, journal: Journal, pool: Pool) -> None:
        self._journal = journal
        self._pool = pool

    def user(self) -> str:
        return _user.get()

    @contextlib.asynccontextmanager
    async def work(self, name: str) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_note, self._journal, name, "callback")
            await stack.enter_async_context(_Noted(self._journal, name))
            if self._pool.engine is not None:
                await self._pool.use(await stack.enter_async_context(self._pool.engine.connect()))
            self._journal.write("begun", request=name, user=self.user())
            yield


class SetAndReset:
    """The middleware that everybody writes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"]).get(b"x-user")
        token = None if user is None else _user.set(user.decode())
        scope[OUTCOME] = "cancelled"
        try:
            await self.app(scope, receive, send)
            scope[OUTCOME] = "completed"
        except Exception:
            scope[OUTCOME] = "error"
            raise
        finally:
            if token is not None:
                _user.reset(token)


async def _note(journal: Journal, name: str, which: str) -> None:
    """A finaliser that has to wait for something, as most do."""
    await anyio.sleep(0.01)
    journal.write("finalised", request=name, which=which)


class _Noted:
    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    async def __aenter__(self) -> None:
        await anyio.sleep(0)

    async def __aexit__(self, *exc: object) -> None:
        await _note(self._journal, self._name, "manager")


def identify(connection: Any) -> Identity | None:
    """For tests only: plain headers are no identity."""
    headers = dict(connection.scope["headers"])
    user, seconds = headers.get(b"x-user"), float(headers.get(b"x-seconds", b"60"))
    expires_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return None if user is None else Identity(user.decode(), expires_at=expires_at)


KEYS = {"Bearer key-of-alice": "alice-1", "Bearer key-of-bob": "bob-22"}


def identify_by_key(connection: Any) -> Identity | None:
    """Whose key is it, byte for byte?"""
    user = KEYS.get(connection.headers.get("authorization"))
    return None if user is None else Identity(user)


# --- the handlers -----------------------------------------------------------------------------


async def who(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """Who is it, at the beginning and at the end?"""
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        await websocket.send_text(side.user())
        await websocket.close()
        return
    while (await receive()).get("more_body"):
        pass
    before = side.user()
    await anyio.sleep(0)
    await JSONResponse([before, side.user()])(scope, receive, send)


async def slow(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """Answers after so many seconds, with what is asked after the `?`."""
    await anyio.sleep(_seconds(scope))
    await JSONResponse([side.user()])(scope, receive, send)


async def stream(side: Any, scope: Any, receive: Any, send: Any) -> None:
    async def chunks() -> AsyncIterator[str]:
        end = anyio.current_time() + _seconds(scope)
        while anyio.current_time() < end:
            yield f"{side.user()}\n"
            await anyio.sleep(0.005)

    await StreamingResponse(chunks())(scope, receive, send)


async def chat(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that pushes, and listens at the same time."""
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()

    async def listen() -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await websocket.receive_text()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while True:
            with contextlib.suppress(WebSocketDisconnect):
                await websocket.send_text(side.user())
            await anyio.sleep(0.005)


async def push(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that pushes and does not listen."""
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()
    end = anyio.current_time() + _seconds(scope)
    while anyio.current_time() < end:
        await websocket.send_text(side.user())
        await anyio.sleep(0.005)
    await websocket.close()


async def idle(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that only listens, once it has said who it is."""
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()
    await websocket.send_text(side.user())
    with anyio.move_on_after(_seconds(scope)), contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()


async def messages(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """Says to each message who sent it; pushes without end when it is told to."""

    async def handle(message: str) -> None:
        current_scope().callback(counters.count, "test.cleaned_up")
        user, depth = current_context().user_id, current_context().operation_depth
        await websocket.send_text(f"{user} {depth} {message}")
        while message == "push":
            await websocket.send_text(user)
            await anyio.sleep(0.001)

    websocket = WebSocket(scope, receive, send)
    await each_message(websocket, handle)


async def stubborn(side: Any, scope: Any, receive: Any, send: Any) -> None:
    """Swallows a cancellation, as what retries after every error does."""
    with contextlib.suppress(asyncio.CancelledError):
        await anyio.sleep(60)
    await anyio.sleep(60)


HANDLERS = {
    "who": who, "slow": slow, "stream": stream, "chat": chat, "push": push, "idle": idle,
    "stubborn": stubborn, "messages": messages,
}  # fmt: skip


def _seconds(scope: Any) -> float:
    return float(scope["query_string"] or 60)


# --- the application --------------------------------------------------------------------------


class Application:
    """By the path: which side, then which handler. Everything is written to the journal."""

    def __init__(self, options: Options) -> None:
        self._journal = Journal(options.journal)
        self._pool = Pool(options.journal, options.configuration.loop)
        self._fence = Ringfence(
            settings=Settings(drain_timeout=options.drain), database=self._pool.database
        )
        self._is_fenced = not options.is_control
        fenced, plain = (side(self._journal, self._pool) for side in (Fenced, Plain))
        self._ways = {
            "plain": SetAndReset(self._route(plain)),
            "fenced": self._fenced(self._route(fenced)),
            "around": BaseHTTPMiddleware(self._fenced(self._route(fenced)), _through),
            "within": self._fenced(BaseHTTPMiddleware(self._route(fenced), _through)),
            "required": self._fenced(self._route(fenced), required=True),
            "keyed": self._fenced(self._route(fenced), required=True, identify=identify_by_key),
            "state": self._state,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        name = _name(scope)
        try:
            await self._ways[scope["path"].split("/")[1]](scope, receive, send)
        finally:
            if name != "-":
                self._journal.write("outcome", request=name, outcome=scope.get(OUTCOME))

    def _fenced(self, app: Any, required: bool = False, identify: Any = identify) -> Any:
        return UserContextMiddleware(app, fence=self._fence, identify=identify, required=required)

    def _route(self, side: Any) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            handler = HANDLERS[scope["path"].split("/")[2]]
            if (name := _name(scope)) == "-":
                await handler(side, scope, receive, send)
                return
            async with side.work(name):
                await handler(side, scope, receive, send)

        return app

    async def _state(self, scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse(self._now())(scope, receive, send)

    def _now(self) -> dict[str, Any]:
        return {
            "open_roots": len(open_roots()),
            "registry": len(registry),
            "checked_out": self._pool.checked_out,
            "dropped": self._pool.dropped,
            "counters": counters.snapshot(),
        }

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            async with self._fence.lifespan() if self._is_fenced else contextlib.nullcontext():
                self._journal.write("started")
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._journal.write("stopping", **self._now())
        finally:
            report = self._fence.drain_report
            self._journal.write(
                "stopped",
                report=None
                if report is None
                else [report.drained, report.cancelled, len(report.abandoned)],
                **self._now(),
            )
            await self._pool.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _name(scope: Any) -> str:
    return dict(scope["headers"]).get(b"x-name", b"-").decode()


async def _through(request: Any, call_next: Any) -> Any:
    return await call_next(request)
