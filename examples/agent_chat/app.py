"""The service: how routes, middleware and database are joined. Start reading here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from sqlalchemy.ext.asyncio import async_sessionmaker

from ringfence import Ringfence, Settings
from ringfence.events import EventHub
from ringfence.integrations.fastapi import UserContextMiddleware
from ringfence.integrations.jwt import BearerToken
from ringfence.integrations.sqlalchemy import Database

from . import chat, events, page, planner, problems, sign_in, stream, summary, websocket
from .agent import Work
from .database import create_tables, open_engine
from .validation import MAX_BODY, BodyLimit

NOBODYS = ("/", sign_in.PATH)  # paths for which nobody is asked who they are


def create_app(
    database_url: str,
    identify: BearerToken,
    *more: APIRouter,
    settings: Settings | None = None,
    hub: EventHub | None = None,
    work: Work = planner.work,
) -> FastAPI:
    """
    The service, its database and its events.

    Args:
        identify: who is asking.
        more: routers besides.
        hub: one that is not made as usual.
        work: what drives the tools.
    """
    engine, hub = open_engine(database_url), hub or EventHub()
    database = Database(async_sessionmaker(engine))
    fence = Ringfence(settings=settings, database=database, events=hub)

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
            Middleware(UserContextMiddleware, fence=fence, identify=identify, exclude=NOBODYS),
            Middleware(BodyLimit, max_size=MAX_BODY),
        ],
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
    )
    for part in (chat, stream, websocket, summary, page):
        app.include_router(part.router)
    for router in (events.router_of(hub), *more):
        app.include_router(router)
    app.state.fence, app.state.engine, app.state.work = fence, engine, work
    return app
