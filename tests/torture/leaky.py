"""
An application with a switch for each way to mix users up: the torture command must report them.

Notes, each user's own, behind ringfence. `LEAKY` in the environment names the defect; without it
the application is right. The defects stand where ringfence does not watch: in a session, a cache,
a variable or a worker of the application's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from ringfence import Identity, Ringfence, bound_stream, current_context, user_context
from ringfence.integrations.fastapi import each_message
from ringfence.integrations.sqlalchemy import Database
from ringfence.integrations.starlette import UserContextMiddleware
from ringfence.isolation import Claimant, registry

DEFECT = os.environ.get("LEAKY", "")

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)
acting: ContextVar[str | None] = ContextVar("acting", default=None)
engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['LEAKY_DATABASE']}")
session_of_all = AsyncSession(engine)
jobs: asyncio.Queue[tuple[str | None, str]] = asyncio.Queue()
cache: dict[str, Any] = {}
kept: list[Any] = []
last = ["nobody"]


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


# --- routes -----------------------------------------------------------------------------------


async def notes(request: Request) -> Response:
    ctx = current_context()
    if request.method == "POST":
        text = (await request.json())["text"]
        ctx.db_session.add(Note(user_id=ctx.user_id, text=text))
        return JSONResponse({"kept": text}, 201)
    if DEFECT == "shared_cache":
        if "notes" not in cache:
            cache["notes"] = await own_notes(ctx.db_session, ctx.user_id)
        return JSONResponse(cache["notes"])
    if DEFECT == "module_session":
        session_of_all.info["user_id"] = ctx.user_id
        await asyncio.sleep(0.001)  # it asks something else first
        return JSONResponse(await own_notes(session_of_all, session_of_all.info["user_id"]))
    return JSONResponse(await own_notes(ctx.db_session, ctx.user_id))


async def own_notes(session: AsyncSession, user_id: str) -> list[str]:
    newest = select(Note).where(Note.user_id == user_id).order_by(Note.id.desc()).limit(3)
    return [f"{note.user_id}: {note.text}" for note in await session.scalars(newest)]


class Agent:
    def __init__(self) -> None:
        self.user_id = current_context().user_id


async def me(request: Request) -> Response:
    user_id = current_context().user_id
    spoil_at_random(user_id)
    if DEFECT == "cached_object":
        user_id = cache.setdefault("agent", Agent()).user_id
    if DEFECT == "hanging":
        await asyncio.sleep(3600)
    if DEFECT == "open_scope":
        await user_context(user_id).__aenter__()
    if DEFECT == "open_connection" and len(kept) < 2:
        kept.append(await engine.connect())
    log.info("asked by %s", user_id)
    last[0] = user_id
    return JSONResponse({"user": user_id})


def spoil_at_random(user_id: str) -> None:
    """What one line more in a route does."""
    if DEFECT == "server_error":
        raise ZeroDivisionError
    if DEFECT == "ending":
        os._exit(3)
    if DEFECT == "registered_object":
        kept.append(Claimant(user_id))
        registry.claim(Agent(), kept[-1])
    if DEFECT == "last_in_log":
        log.info("the last was %s", last[0])
    if DEFECT == "last_in_print":
        print("the last was", last[0])


async def whoami(request: Request) -> Response:
    """Outside the fence."""
    user_id = acting.get() if DEFECT == "set_and_reset" else named_by(request)
    return JSONResponse({"user": user_id}, 200 if user_id else 401)


async def stream(request: Request) -> Response:
    if DEFECT == "generator_scope":
        return StreamingResponse(pumped(lines_while_acting(current_context().user_id)))
    return StreamingResponse(bound_stream(lines()))


async def lines() -> AsyncGenerator[str, None]:
    for number in range(3):
        await asyncio.sleep(0.002)
        yield f"{number} {current_context().user_id}\n"


async def start_job(request: Request) -> Response:
    text = (await request.json())["text"]
    if DEFECT == "lazy_worker" and "worker" not in cache:
        acting.set(current_context().user_id)
        cache["worker"] = asyncio.create_task(work())
    if DEFECT == "outliving_task" and len(kept) < 3:
        kept.append(asyncio.create_task(go_on_for_ever()))
    await jobs.put((None if DEFECT == "lazy_worker" else current_context().user_id, text))
    return JSONResponse({"accepted": text}, 202)


async def go_on_for_ever() -> None:
    await asyncio.sleep(3600)


async def work() -> None:
    """The worker: writes what it is told, as the user that the job names."""
    while True:
        user_id, text = await jobs.get()
        async with AsyncSession(engine) as session:
            session.add(Note(user_id=user_id or acting.get(), text=text))
            await session.commit()


async def talk(websocket: WebSocket) -> None:
    async def answer(message: str | bytes) -> None:
        said = f"{current_context().user_id}: {message!s}"
        before = cache.get("said", "")
        cache["said"] = said
        await websocket.send_text(before if DEFECT == "websocket_of_another" else said)

    await each_message(websocket, answer)


# --- a generator that acts for a user while it is not running -----------------------------------

streams: list[tuple[AsyncGenerator[str, None], asyncio.Queue[str | None]]] = []


async def lines_while_acting(user_id: str) -> AsyncGenerator[str, None]:
    token = acting.set(user_id)
    try:
        for number in range(3):
            yield f"{number} {acting.get()}\n"
    finally:
        acting.reset(token)


async def pumped(generator: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    said: asyncio.Queue[str | None] = asyncio.Queue()
    streams.append((generator, said))
    while (line := await said.get()) is not None:
        yield line


async def pump() -> None:
    """One task that runs everybody's generators by turns."""
    while True:
        await asyncio.sleep(0.005)
        for generator, said in list(streams):
            line = await anext(generator, None)
            said.put_nowait(line)
            if line is None:
                streams.remove((generator, said))


# --- how it is joined ---------------------------------------------------------------------------


def named_by(connection: Any) -> str | None:
    """Everybody is who they say: it is the mixing up that is tried here."""
    return connection.headers.get("authorization", "").removeprefix("Bearer ") or None


def identify(connection: Any) -> Identity | None:
    user_id = named_by(connection)
    return Identity(user_id) if user_id else None


class SetAndReset:
    """The middleware that everybody writes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user_id = named_by(HTTPConnection(scope)) if scope["type"] == "http" else None
        if user_id is None or DEFECT != "set_and_reset":
            await self.app(scope, receive, send)
            return
        token = acting.set(user_id)
        try:
            await self.app(scope, receive, send)
        finally:
            acting.reset(token)


fence = Ringfence(database=Database(async_sessionmaker(engine)))


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.exec_driver_sql("pragma journal_mode=wal")
        await connection.run_sync(Base.metadata.create_all)
    workers = [asyncio.create_task(pump())]
    if DEFECT != "lazy_worker":
        workers.append(asyncio.create_task(work()))
    async with fence.lifespan(app):
        yield
    for worker in workers:
        worker.cancel()
    await engine.dispose()


app = Starlette(
    routes=[
        Route("/notes", notes, methods=["GET", "POST"]),
        Route("/me", me),
        Route("/whoami", whoami),
        Route("/stream", stream),
        Route("/jobs", start_job, methods=["POST"]),
        WebSocketRoute("/ws", talk),
    ],
    lifespan=lifespan,
    middleware=[
        Middleware(SetAndReset),
        Middleware(UserContextMiddleware, fence=fence, identify=identify, exclude=("/whoami",)),
    ],
)
