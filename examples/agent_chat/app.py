"""The service: routes, middleware and database. How the parts are joined."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ringfence import InvalidContextError, Ringfence, child_context, current_context
from ringfence.integrations.jwt import BearerToken
from ringfence.integrations.sqlalchemy import Database
from ringfence.integrations.starlette import UserContextMiddleware

from . import planner
from .models import Base, Message, Note
from .validation import read_chat_request


async def chat(request: Request) -> Response:
    """Keep the user's message, then let the agent work on it."""
    said = await read_chat_request(request)
    root = current_context()  # opened by the middleware, for the user whom the token proves
    try:
        # Thread and run come in the body, so they are known only now: a child may name them.
        conversation = child_context("chat", thread_id=said.thread_id, run_id=said.run_id)
    except InvalidContextError as error:
        raise HTTPException(422, error.fact) from None

    async with conversation as ctx:
        ctx.db_session.add(
            Message(
                user_id=ctx.user_id, thread_id=ctx.thread_id, run_id=ctx.run_id, text=said.message
            )
        )
        await ctx.db_session.commit()  # before the tools, which use connections of their own
        plan = await planner.run(said.message)

    operations = planner.Operation.of("request", root)
    operations.children.append(plan)
    return JSONResponse(
        {
            "user_id": root.user_id,
            "thread_id": said.thread_id,
            "run_id": said.run_id,
            "operations": operations.to_json(),
            "notes": await own_notes(Note.run_id == said.run_id),
        }
    )


async def notes(request: Request) -> Response:
    return JSONResponse(await own_notes())


async def own_notes(*which: Any) -> list[dict[str, str]]:
    """The current user's notes, oldest first."""
    ctx = current_context()
    own = select(Note).where(Note.user_id == ctx.user_id, *which).order_by(Note.id)
    return [note.to_json() for note in await ctx.db_session.scalars(own)]


async def problem(request: Request, error: Exception) -> Response:
    """The client's errors, in the shape that ringfence's own answers have (RFC 9457)."""
    assert isinstance(error, HTTPException)
    document = {"type": "about:blank", "status": error.status_code, "detail": error.detail}
    return JSONResponse(
        document, error.status_code, error.headers, media_type="application/problem+json"
    )


def create_app(
    database: Path, identify: BearerToken, more_routes: Iterable[BaseRoute] = ()
) -> Starlette:
    engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(database)))
    fence = Ringfence(database=Database(async_sessionmaker(engine)))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            async with fence.lifespan(app):
                yield
        finally:
            await engine.dispose()

    app = Starlette(
        routes=[
            Route("/agent/chat", chat, methods=["POST"]),
            Route("/notes", notes),
            *more_routes,
        ],
        middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)],
        exception_handlers={HTTPException: problem},
        lifespan=lifespan,
    )
    app.state.fence, app.state.engine = fence, engine
    return app
