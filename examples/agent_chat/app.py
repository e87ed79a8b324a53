"""The service: how routes, middleware and database are joined. Start reading here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from sqlalchemy.ext.asyncio import async_sessionmaker

from ringfence import Ringfence, Settings
from ringfence.integrations.fastapi import UserContextMiddleware
from ringfence.integrations.jwt import BearerToken
from ringfence.integrations.sqlalchemy import Database

from . import chat, page, problems, stream, summary, websocket
from .database import create_tables, open_engine
from .validation import MAX_BODY, BodyLimit


def create_app(
    database_url: str,
    identify: BearerToken,
    *more: APIRouter,
    settings: Settings | None = None,
) -> FastAPI:
    engine = open_engine(database_url)
    fence = Ringfence(settings=settings, database=Database(async_sessionmaker(engine)))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await create_tables(engine)
        try:
            async with fence.lifespan(app):  # on leaving, waits for requests and jobs
                yield
        finally:
            await engine.dispose()

    app = FastAPI(
        title="agent chat",
        lifespan=lifespan,
        exception_handlers=problems.handlers,
        middleware=[
            Middleware(UserContextMiddleware, fence=fence, identify=identify, exclude=("/",)),
            Middleware(BodyLimit, max_size=MAX_BODY),
        ],
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
    )
    for part in (chat, stream, websocket, summary, page):
        app.include_router(part.router)
    for router in more:
        app.include_router(router)
    app.state.fence, app.state.engine = fence, engine
    return app
