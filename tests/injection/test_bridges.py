"""FastAPI's `Depends` asks the container; those of dishka and svcs live as long as a scope."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import dishka
import pytest
import svcs
from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ringfence import ConfigurationError, Ringfence, UserExecutionContext, current_scope
from ringfence.injection import Container, Lifetime
from ringfence.integrations.fastapi import ScopedSession, UserContextMiddleware, from_container
from ringfence.integrations.sqlalchemy import Database

from ..integrations.asgi_driver import identify, ok

USERS = ("alice-1", "bob-2")
ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


class Orders:
    def __init__(self, ctx: UserExecutionContext) -> None:
        self.ctx = ctx


class Part:
    pass


# --- FastAPI ----------------------------------------------------------------------------------

Ours = Annotated[Orders, from_container(Orders)]
OnePart = Annotated[Part, from_container(Part)]


async def make(ctx: UserExecutionContext) -> Orders:
    await anyio.sleep(0)
    return Orders(ctx)


def application() -> FastAPI:
    container = Container()
    container.provide(make)
    container.provide(Part, lifetime=Lifetime.TRANSIENT)
    fence = Ringfence(services=container)
    return FastAPI(middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)])


async def whose(orders: Ours) -> Orders:
    return orders


@ASYNCIO
async def test_fastapi_asks_the_container(anyio_backend: Any) -> None:
    app = application()

    @app.get("/")
    async def route(orders: Ours, same: Annotated[Orders, Depends(whose)]) -> tuple[str, bool]:
        return orders.ctx.user_id, orders is same is current_scope().get_now(Orders)

    @app.get("/sync")
    def sync(orders: Ours) -> str:
        return orders.ctx.user_id

    @app.get("/parts")
    async def parts(one: OnePart, other: OnePart) -> bool:
        return one is other

    async with anyio.create_task_group() as tasks:

        async def ask(user: str) -> None:
            assert (await ok(app, user=user)).body == f'["{user}",true]'.encode()
            assert (await ok(app, "/sync", user=user)).body == f'"{user}"'.encode()

        for user in USERS:
            tasks.start_soon(ask, user)
    assert (await ok(app, "/parts", user="alice-1")).body == b"false"  # as their lifetime says
    assert not any(
        "parameters" in path["get"] or "requestBody" in path["get"]
        for path in app.openapi()["paths"].values()
    )


class OwnSession(AsyncSession):
    pass


def sync_route(session: Annotated[AsyncSession, from_container(AsyncSession)]) -> None: ...


def of_ones_own(session: Annotated[OwnSession, from_container(OwnSession)]) -> None: ...


def scoped(session: ScopedSession) -> None: ...


def made_of(session: Annotated[AsyncSession, from_container(AsyncSession)]) -> str:
    return type(session).__name__


def indirectly(made: Annotated[str, Depends(made_of)]) -> None: ...


async def async_route(made: Annotated[str, Depends(made_of)]) -> str:
    return made


def _with_route(route: Any, how: str, fence: Ringfence) -> FastAPI:
    identified = Middleware(UserContextMiddleware, fence=fence, identify=identify)
    app = FastAPI(middleware=[identified], lifespan=fence.lifespan)
    inner: Any = {"included": APIRouter(), "mounted": FastAPI()}.get(how, app)
    inner.get("/")(route)
    if how == "included":
        app.include_router(inner, prefix="/inner")
    elif how == "mounted":
        app.mount("/inner", inner)
    return app


@pytest.mark.parametrize("how", ["itself", "included", "mounted"])
@pytest.mark.parametrize("route", [sync_route, of_ones_own, indirectly, scoped])
def test_a_session_in_a_sync_route_is_refused_at_start(route: Any, how: str) -> None:
    app = _with_route(route, how, Ringfence(services=Container()))
    with pytest.raises(ConfigurationError, match=f"`{route.__name__}` asks for a session"):
        TestClient(app).__enter__()


def test_it_is_refused_by_its_first_request_where_no_lifespan_began(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = _with_route(sync_route, "itself", Ringfence(services=Container()))
    assert TestClient(app, headers={"x-user": "alice-1"}).get("/").status_code == 500
    assert "`sync_route` asks for a session" in caplog.text


def test_an_async_route_gets_its_session() -> None:
    database = Database(async_sessionmaker(class_=OwnSession))
    app = _with_route(async_route, "itself", Ringfence(services=Container(), database=database))
    with TestClient(app, headers={"x-user": "alice-1"}) as client:
        assert client.get("/").json() == "OwnSession"


# --- dishka -----------------------------------------------------------------------------------


@ASYNCIO
async def test_a_dishka_container_lives_as_long_as_the_scope(anyio_backend: Any) -> None:
    ended: list[str] = []

    async def theirs(ctx: UserExecutionContext) -> AsyncIterator[Orders]:
        yield Orders(ctx)
        ended.append(ctx.user_id)

    provider = dishka.Provider(scope=dishka.Scope.REQUEST)
    provider.provide(theirs)
    provider.from_context(UserExecutionContext, scope=dishka.Scope.REQUEST)
    app = dishka.make_async_container(provider)
    container = Container()

    @container.provide
    async def opened(ctx: UserExecutionContext) -> AsyncIterator[dishka.AsyncContainer]:
        async with app({UserExecutionContext: ctx}, lock_factory=asyncio.Lock) as request:
            yield request

    @container.provide
    async def orders(request: dishka.AsyncContainer) -> Orders:
        return await request.get(Orders)

    await _two_users_get_their_own(container, ended)
    await app.close()


# --- svcs -------------------------------------------------------------------------------------


async def test_a_svcs_container_lives_as_long_as_the_scope() -> None:
    ended: list[str] = []

    async def theirs(services: svcs.Container) -> AsyncIterator[Orders]:
        ctx = services.get(UserExecutionContext)
        yield Orders(ctx)
        ended.append(ctx.user_id)

    registry = svcs.Registry()
    registry.register_factory(Orders, theirs)
    container = Container()

    @container.provide
    async def opened(ctx: UserExecutionContext) -> AsyncIterator[svcs.Container]:
        async with svcs.Container(registry) as services:
            services.register_local_value(UserExecutionContext, ctx)
            yield services

    @container.provide
    async def orders(services: svcs.Container) -> Orders:
        return await services.aget(Orders)

    await _two_users_get_their_own(container, ended)
    await registry.aclose()


async def _two_users_get_their_own(container: Container, ended: list[str]) -> None:
    async with Ringfence(services=container) as fence:

        async def one(user: str) -> None:
            async with fence.user_context(user) as ctx:
                orders = await current_scope().get(Orders)
                await anyio.sleep(0.01)
                assert orders.ctx is ctx
                assert orders is await current_scope().get(Orders)
                assert user not in ended
            assert user in ended

        async with anyio.create_task_group() as tasks:
            for user in USERS:
                tasks.start_soon(one, user)
    assert sorted(ended) == list(USERS)
