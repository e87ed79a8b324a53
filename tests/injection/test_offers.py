"""What integrations offer: the scope's own session, and the connection that it answers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("aiosqlite")

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ringfence import (
    CaptiveProviderError,
    ConfigurationError,
    ContextClosedError,
    Identity,
    OwnershipError,
    ProviderError,
    Ringfence,
    SessionIsolationError,
    UserExecutionContext,
    child_context,
    current_context,
    current_scope,
)
from ringfence.injection import Container, Injected, Lifetime, inject
from ringfence.integrations.sqlalchemy import Database
from ringfence.integrations.starlette import UserContextMiddleware


class Repository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session


class OfOperation(Repository):
    pass


# --- sessions ---------------------------------------------------------------------------------


class Special(AsyncSession):
    pass


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def fence() -> AsyncIterator[Ringfence]:
    container = Container()
    container.provide(Repository)
    container.provide(OfOperation, lifetime=Lifetime.OPERATION)
    engine = create_async_engine("sqlite+aiosqlite://")
    database = Database(async_sessionmaker(engine, class_=Special))
    async with Ringfence(services=container, database=database) as fence:
        yield fence
    await engine.dispose()


async def test_a_session_is_that_of_where_the_object_lives(fence: Ringfence) -> None:
    @inject
    async def session_here(session: Injected[AsyncSession]) -> AsyncSession:
        return session

    async with fence.user_context("alice-1") as root:
        async with child_context("tool") as child:
            assert (await current_scope().get(Repository)).session is root.db_session
            assert (await current_scope().get(OfOperation)).session is child.db_session
            assert await session_here() is child.db_session
            assert child.db_session is not root.db_session
        assert await current_scope().get(Special) is root.db_session


async def test_what_outlives_the_request_may_not_hold_a_session() -> None:
    container = Container()
    container.provide(Repository, lifetime=Lifetime.APP)
    with pytest.raises(CaptiveProviderError, match="would hold a `AsyncSession`"):
        container.check()


async def test_a_session_that_is_smuggled_out_is_refused_at_use(fence: Ringfence) -> None:
    kept: list[AsyncSession] = []
    async with fence.user_context("alice-1"):
        kept.append((await current_scope().get(Repository)).session)
        async with fence.user_context("bob-22"):
            with pytest.raises(SessionIsolationError):
                await kept[0].execute(text("select 1"))
    async with fence.user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            await kept[0].execute(text("select 1"))


async def test_without_a_database_there_is_no_session() -> None:
    container = Container()
    container.provide(Repository)
    async with Ringfence(services=container).user_context("alice-1"):
        with pytest.raises(ConfigurationError, match="no database"):
            await current_scope().get(Repository)


# --- connections ------------------------------------------------------------------------------


class Agent:
    def __init__(self, request: Request) -> None:
        self.request = request


def identify(connection: HTTPConnection) -> Identity:
    return Identity(connection.headers["x-user"])


def _client(*routes: Any) -> TestClient:
    container = Container()
    container.provide(Agent)
    fence = Ringfence(services=container)
    app = Starlette(
        routes=list(routes),
        middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)],
        lifespan=fence.lifespan,
    )
    return TestClient(app, headers={"x-user": "alice-1"})


def test_the_request_that_is_answered() -> None:
    @inject
    async def described(agent: Injected[Agent], connection: Injected[HTTPConnection]) -> str:
        again = await current_scope().get(Agent)
        async with child_context("tool"):
            assert await current_scope().get(Request) is agent.request
        same = again.request is agent.request
        return f"{same} {agent.request.path_params} {connection.url.path} {await body(agent)}"

    async def body(agent: Agent) -> str:
        return (await agent.request.body()).decode()

    async def route(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await described())

    with _client(Route("/items/{id}", route, methods=["POST"])) as client:
        answer = client.post("/items/7", content="hello")
    assert answer.text == "True {'id': '7'} /items/7 hello"


def test_the_websocket_that_is_served() -> None:
    @inject
    async def greet(websocket: Injected[WebSocket]) -> None:
        await websocket.send_text(f"hello {current_context().user_id}")

    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        await greet()
        with pytest.raises(ProviderError, match="answers no `http` connection"):
            await current_scope().get(Request)
        await websocket.close()

    with _client(WebSocketRoute("/ws", serve)) as client, client.websocket_connect("/ws") as ws:
        assert ws.receive_text() == "hello alice-1"


def _heard_of(serve: Any) -> list[str]:
    """Connect, and hear what there is to hear until one of both closes."""
    heard: list[str] = []
    client = _client(WebSocketRoute("/ws", serve))
    with client, contextlib.suppress(WebSocketDisconnect), client.websocket_connect("/ws") as ws:
        while True:
            heard.append(ws.receive_text())
    return heard


async def _again(how: str, websocket: WebSocket) -> None:
    """Use it once more, its states set back as if it were open."""
    websocket.application_state = websocket.client_state = WebSocketState.CONNECTED
    await (websocket.send_text("again") if how == "send" else websocket.receive())


@pytest.mark.parametrize("closes", ["the injected", "the handler's"])
def test_a_websocket_that_was_closed_stays_closed(closes: str) -> None:
    states: list[WebSocketState] = []

    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        injected = await current_scope().get(WebSocket)
        await injected.send_text("one")
        await (injected if closes == "the injected" else websocket).close()
        again = await current_scope().get(WebSocket)
        states.append(again.application_state)
        with pytest.raises(RuntimeError, match="close message"):
            await again.send_text("two")
        with pytest.raises(ContextClosedError, match="has been closed"):
            await _again("send", injected)
        states.append(injected.application_state)

    assert _heard_of(serve) == ["one"]
    assert states == [WebSocketState.DISCONNECTED, WebSocketState.CONNECTED]


def test_a_websocket_whose_client_has_left_hears_nothing_more() -> None:
    seen: list[Any] = []

    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        injected = await current_scope().get(WebSocket)
        seen.append((await websocket.receive())["type"])
        seen.append((await current_scope().get(WebSocket)).client_state)
        with pytest.raises(ContextClosedError, match="has been closed"):
            await _again("receive", injected)
        seen.append("refused")

    with _client(WebSocketRoute("/ws", serve)) as client, client.websocket_connect("/ws"):
        pass
    assert seen == ["websocket.disconnect", WebSocketState.DISCONNECTED, "refused"]


def test_a_websocket_that_was_denied_is_not_taken_for_an_open_one() -> None:
    states: list[WebSocketState] = []

    async def serve(websocket: WebSocket) -> None:
        injected = await current_scope().get(WebSocket)
        await websocket.send_denial_response(PlainTextResponse("no", 418))
        states.append((await current_scope().get(WebSocket)).application_state)
        with pytest.raises(RuntimeError):
            await injected.send_text("hello")

    with _client(WebSocketRoute("/ws", serve)) as client:
        with pytest.raises(WebSocketDenialResponse):
            client.websocket_connect("/ws").__enter__()
    assert states == [WebSocketState.CONNECTING]


async def test_a_connection_that_was_kept_is_refused_in_another_request_and_after_its_own() -> None:
    kept: list[Any] = []
    container = Container()
    fence = Ringfence(services=container)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(await current_scope().get(Request if scope["type"] == "http" else WebSocket))
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                await kept[-1].receive()

    async def receive() -> Any:
        raise AssertionError("it must not be asked")

    async def send(message: Any) -> None: ...

    middleware = UserContextMiddleware(app, fence=fence, identify=identify)
    headers = [(b"x-user", b"alice-1")]
    for kind in ("http", "websocket"):
        scope = {"type": kind, "method": "GET", "path": "/", "headers": headers}
        await middleware(scope, receive, send)
    async with fence.user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            await kept[0].body()
        for how in ("send", "receive"):
            with pytest.raises(ContextClosedError):
                await _again(how, kept[1])


async def test_a_scope_of_ones_own_answers_nothing() -> None:
    container = Container()
    container.provide(Agent)
    async with Ringfence(services=container).user_context("alice-1"):
        with pytest.raises(ProviderError, match="answers no `http` connection"):
            await current_scope().get(Agent)


async def test_an_ended_request_keeps_no_connection() -> None:
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(current_scope())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None: ...

    fence = Ringfence(services=Container())
    headers = [(b"x-user", b"alice-1")]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    await UserContextMiddleware(app, fence=fence, identify=identify)(scope, receive, send)
    assert kept[0].state == "closed"
    assert kept[0]._extras.connection is None


# --- who does without -------------------------------------------------------------------------


class Perhaps:
    def __init__(
        self,
        request: Request | None,
        websocket: WebSocket | None,
        session: AsyncSession | None,
        ctx: UserExecutionContext | None,
        identity: Identity | None,
        connection: HTTPConnection = "none",  # type: ignore[assignment]
    ) -> None:
        self.wishes = (request, websocket, session, ctx, identity, connection)


@inject
async def wishes_of_a_call(
    request: Injected[Request | None],
    websocket: Injected[WebSocket | None],
    session: Injected[AsyncSession | None],
    ctx: Injected[UserExecutionContext | None],
    identity: Injected[Identity | None],
    connection: Injected[HTTPConnection] = "none",  # type: ignore[assignment]
) -> tuple[object, ...]:
    return (request, websocket, session, ctx, identity, connection)


@inject
def wishes_of_a_plain_call(
    request: Injected[Request | None], ctx: Injected[UserExecutionContext | None]
) -> tuple[object, ...]:
    return request, ctx


async def _wishes() -> tuple[object, ...]:
    wishes = (await current_scope().get(Perhaps)).wishes
    assert await wishes_of_a_call() == wishes
    assert wishes_of_a_plain_call() == (wishes[0], wishes[3])
    return wishes


async def test_what_a_scope_has_not_is_none_or_the_default() -> None:
    container = Container()
    container.provide(Perhaps)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1") as ctx:
        identity = Identity("alice-1")
        assert await _wishes() == (None, None, None, ctx, identity, "none")
    async with fence.nobody():
        assert await _wishes() == (None, None, None, None, None, "none")


async def test_what_a_scope_has_is_given_though_it_may_be_missing(fence: Ringfence) -> None:
    @inject
    async def session_here(session: Injected[AsyncSession | None]) -> AsyncSession | None:
        return session

    async with fence.user_context("alice-1") as ctx:
        assert await session_here() is ctx.db_session


def test_a_wish_for_the_connection_that_is_answered() -> None:
    async def route(request: Request) -> PlainTextResponse:
        return PlainTextResponse(" ".join(type(wish).__name__ for wish in await _wishes()))

    container = Container()
    container.provide(Perhaps)
    fence = Ringfence(services=container)
    app = Starlette(
        routes=[Route("/", route)],
        middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)],
    )
    with TestClient(app, headers={"x-user": "alice-1"}) as client:
        answer = client.get("/").text
    assert answer == "Request NoneType NoneType UserExecutionContext Identity HTTPConnection"


UNIMPORTED = """
import asyncio, sys
from starlette.requests import Request
from starlette.websockets import WebSocket
from sqlalchemy.ext.asyncio import AsyncSession
from ringfence import Identity, Ringfence, current_scope, user_context
from ringfence.injection import Container
from ringfence.integrations.asgi import UserContextMiddleware

class Wishes:
    def __init__(self, r: Request | None, w: WebSocket | None, s: AsyncSession | None) -> None:
        self.names = [type(wish).__name__ for wish in (r, w, s)]

async def app(scope, receive, send):
    print(*(await current_scope().get(Wishes)).names)

async def main():
    container = Container()
    container.provide(Wishes)
    fence = Ringfence(services=container)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    ends = asyncio.Event().wait, asyncio.sleep
    await UserContextMiddleware(app, fence=fence, identify=lambda _: Identity("a-1"))(scope, *ends)
    async with user_context("a-1", db_session=AsyncSession(), fence=fence):
        await app({}, *ends)

for name in ("starlette", "sqlalchemy"):
    assert f"ringfence.integrations.{name}" not in sys.modules
asyncio.run(main())
"""


def test_what_is_offered_does_not_depend_on_what_was_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNIMPORTED], capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (
        ["Request NoneType NoneType", "NoneType NoneType AsyncSession"],
        "",
    )
