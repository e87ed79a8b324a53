"""In FastAPI applications: parameters, rules, sync routes, `yield` dependencies and streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.middleware import Middleware
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    Identity,
    RequestScope,
    Ringfence,
    child_context,
    counters,
    current_context,
    current_scope,
)
from ringfence.integrations.fastapi import (
    CurrentContext,
    OptionalContext,
    ScopedSession,
    UserContextMiddleware,
    requires,
    scoped_session,
)

from .asgi_driver import Answer, call, ok
from .notes import Note, bodies, checked_out, fence_for, notes_engine

ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


def identify(connection: Any) -> Identity | None:
    """For tests only: plain headers are no identity."""
    user = connection.headers.get("x-user")
    claims = json.loads(connection.headers.get("x-claims", "{}"))
    return None if user is None else Identity(user, claims=claims)


def application(
    fence: Ringfence | None = None,
    *,
    around: tuple[Middleware, ...] = (),
    within: tuple[Middleware, ...] = (),
    **options: Any,
) -> FastAPI:
    options = {"fence": fence or Ringfence(), "identify": identify, **options}
    return FastAPI(middleware=[*around, Middleware(UserContextMiddleware, **options), *within])


async def claimed(app: Any, path: str = "/", user: str = "alice-1", **claims: Any) -> Answer:
    headers = [("x-claims", json.dumps(claims))]
    return await ok(app, path, user=user, headers=headers)


# --- parameters -------------------------------------------------------------------------------


async def test_the_context_is_a_parameter() -> None:
    app = application()

    @app.get("/async")
    async def of_async(ctx: CurrentContext) -> str:
        assert ctx is current_context()
        return ctx.user_id

    @app.get("/sync")
    def of_sync(ctx: CurrentContext) -> str:
        assert ctx is current_context()  # in a thread
        return ctx.user_id

    async with anyio.create_task_group() as tasks:
        answers: dict[str, set[bytes]] = {f"user-{number}": set() for number in range(10)}

        async def client(user: str) -> None:
            for path in ("/async", "/sync"):
                answers[user].add((await ok(app, path, user=user)).body)

        for user in answers:
            tasks.start_soon(client, user)
    assert answers == {user: {json.dumps(user).encode()} for user in answers}


async def test_nobody_has_no_context_but_may_have_an_optional_one() -> None:
    app = application(required=False)

    @app.get("/one")
    async def one(ctx: CurrentContext) -> None: ...

    @app.get("/maybe")
    async def maybe(ctx: OptionalContext) -> str:
        return "-" if ctx is None else ctx.user_id

    refused = await ok(app, "/one")
    assert (refused.status, refused.problem["type"]) == (401, "urn:ringfence:error:RF101")
    assert (await ok(app, "/maybe")).body == b'"-"'
    assert (await ok(app, "/maybe", user="alice-1")).body == b'"alice-1"'


@pytest.mark.parametrize(
    "kind", [CurrentContext, OptionalContext, ScopedSession], ids=["context", "optional", "session"]
)
async def test_without_a_middleware_nobody_is_assumed(kind: Any) -> None:
    app = FastAPI()

    async def route(it: Any) -> None:
        raise RuntimeError("it was called")

    route.__annotations__ = {"it": kind}
    app.get("/")(route)
    answer = await call(app)
    assert answer.status == 500
    assert type(answer.error).__name__ == "NoContextError"


def test_they_are_not_in_the_schema() -> None:
    app = application()

    @app.get("/", dependencies=[requires("admin")])
    async def route(a: int, ctx: CurrentContext, maybe: OptionalContext, db: ScopedSession) -> int:
        return a

    operation = app.openapi()["paths"]["/"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["a"]
    assert "requestBody" not in operation
    assert "security" not in operation


# --- sessions ---------------------------------------------------------------------------------


async def same(session: ScopedSession) -> Any:
    return session


@ASYNCIO
async def test_the_session_is_the_scope_s_own_and_committed_before_the_response(
    tmp_path: Path,
) -> None:
    async with notes_engine(tmp_path) as engine:
        app = application(fence_for(engine), required=False)

        @app.post("/notes/{body}", status_code=201)
        async def create(
            body: str, session: ScopedSession, again: Annotated[Any, Depends(same)]
        ) -> None:
            assert session is again is current_scope().db_session
            session.add(Note(body=body))

        assert (await ok(app, "/notes/three", user="alice-1", method="POST")).status == 201
        assert (await ok(app, "/notes/four", method="POST")).status == 201  # nobody may too
        assert await bodies(engine) == ["one", "two", "three", "four"]
        assert (await ok(app, "/notes/three", user="bob-22", method="POST")).status == 409
        assert checked_out(engine) == 0


async def test_without_a_database_it_says_what_is_missing() -> None:
    app = application()

    @app.get("/")
    async def route(session: ScopedSession) -> None: ...

    answer = await ok(app, user="alice-1")
    assert (answer.status, answer.problem["type"]) == (500, "urn:ringfence:error:RF801")


class Repository:
    def __init__(self, session: ScopedSession) -> None:
        self.session = session


def sync_repository(session: ScopedSession) -> Repository:
    return Repository(session)


async def async_user(session: ScopedSession) -> int:
    return int((await session.execute(text("SELECT 17"))).scalar_one())


class Callable_:
    def __call__(self, session: ScopedSession) -> int:
        return 1


def _sync(session: ScopedSession) -> int:
    return 1


def _sync_by_a_class(repository: Annotated[Repository, Depends()]) -> int:
    return 1


def _sync_by_sync(repository: Annotated[Repository, Depends(sync_repository)]) -> int:
    return 1


def _sync_generator(session: ScopedSession) -> Iterator[int]:
    yield 1


def _sync_by_async(user: Annotated[int, Depends(async_user)]) -> int:
    return user


async def _async(session: ScopedSession) -> int:
    return await async_user(session)


async def _async_by_sync(repository: Annotated[Repository, Depends(sync_repository)]) -> int:
    return await async_user(repository.session)


async def _async_generator(session: ScopedSession) -> AsyncIterator[int]:
    yield await async_user(session)


@ASYNCIO
@pytest.mark.parametrize("included", [False, True], ids=["direct", "included"])
@pytest.mark.parametrize(
    ("route", "is_refused"),
    [
        (_sync, True),
        (Callable_(), True),
        (_sync_by_a_class, True),
        (_sync_by_sync, True),
        (_sync_generator, True),
        (_sync_by_async, False),
        (_async, False),
        (_async_by_sync, False),
        (_async_generator, False),
    ],
)
async def test_a_sync_route_may_not_ask_for_a_session(
    route: Any, is_refused: bool, included: bool, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    async with notes_engine(tmp_path) as engine:
        app = application(fence_for(engine))
        router = APIRouter(prefix="/in")
        (router if included else app).get("/route")(route)
        app.include_router(router)
        answer = await ok(app, "/in/route" if included else "/route", user="alice-1")
        assert checked_out(engine) == 0
    if is_refused:
        assert (answer.status, answer.problem["type"]) == (500, "urn:ringfence:error:RF801")
        assert "async def" in caplog.text
    else:
        assert (answer.status, answer.body.strip(b"[]\n")) == (200, b"17")


# --- rules ------------------------------------------------------------------------------------


async def _slow_true(claims: Any) -> bool:
    await anyio.sleep(0)
    return True


async def _slow_false(claims: Any) -> bool:
    return False


@pytest.mark.parametrize(
    ("rules", "claims", "passes"),
    [
        (("admin",), {"roles": ["admin"]}, True),
        (("admin",), {"roles": ["user", "admin"]}, True),
        (("admin",), {"roles": "user admin"}, True),
        (("admin",), {"roles": "admin"}, True),
        (("admin", "user"), {"roles": ["user", "admin"]}, True),
        (("admin", "user"), {"roles": ["admin"]}, False),
        (("admin",), {}, False),
        (("admin",), {"roles": None}, False),
        (("admin",), {"roles": []}, False),
        (("admin",), {"roles": "not-admin"}, False),
        (("admin",), {"roles": ["not-admin"]}, False),
        (("admin",), {"roles": {"admin": False}}, False),
        (("admin",), {"scope": "admin"}, False),
        ((lambda claims: claims["plan"] == "pro",), {"plan": "pro"}, True),
        ((lambda claims: claims["plan"] == "pro",), {"plan": "free"}, False),
        ((lambda claims: "yes",), {}, False),
        ((_slow_true,), {}, True),
        ((_slow_false,), {}, False),
        (("admin", _slow_true), {"roles": ["user"]}, False),
    ],
)
async def test_rules(rules: Any, claims: dict[str, Any], passes: bool) -> None:
    app = application()
    called = []

    @app.get("/", dependencies=[requires(*rules)])
    async def route() -> None:
        called.append(1)

    answer = await claimed(app, **claims)
    assert bool(called) is passes
    if passes:
        assert answer.status == 200
    else:
        assert (answer.status, answer.problem["type"]) == (403, "urn:ringfence:error:RF104")
        assert counters.value("refused.RF104") == 1


async def test_roles_may_stand_in_another_claim() -> None:
    app = application()

    @app.get("/", dependencies=[requires("orders.read", claim="scope")])
    async def route() -> None: ...

    assert (await claimed(app, scope="openid orders.read")).status == 200
    assert (await claimed(app, roles="orders.read")).status == 403


async def test_rules_hold_for_sync_routes_routers_and_websockets() -> None:
    app = application()
    router = APIRouter(dependencies=[requires("admin")])

    @router.get("/sync")
    def sync() -> None: ...

    @router.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app.include_router(router)
    admin = [("x-claims", '{"roles": ["admin"]}')]
    assert (await ok(app, "/sync", user="alice-1")).status == 403
    assert (await ok(app, "/sync", user="alice-1", headers=admin)).status == 200
    denial = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    denied = await ok(app, "/talk", user="alice-1", **denial)
    assert (denied.status, denied.problem["type"]) == (403, "urn:ringfence:error:RF104")
    assert denied.problem["instance"] == f"urn:uuid:{denied.headers['x-request-id']}"
    closed = await ok(app, "/talk", user="alice-1", type="websocket")
    assert closed.messages[-1]["code"] == 1008
    passed = await ok(app, "/talk", user="alice-1", headers=admin, **denial)
    assert passed.messages[-1]["code"] == 1000


async def test_nobody_is_asked_to_sign_in() -> None:
    app = application(required=False)

    @app.get("/", dependencies=[requires(lambda claims: True)])
    async def route() -> None: ...

    assert (await ok(app)).status == 401


@pytest.mark.parametrize("rules", [(), ("",), (["admin"],), (None,), ("admin", 1)])
def test_what_is_no_rule_is_refused(rules: Any) -> None:
    with pytest.raises(ConfigurationError, match="requires"):
        requires(*rules)


# --- yield dependencies, background tasks, streams --------------------------------------------

seen: list[tuple[str, str, str]] = []


def note(where: str) -> None:
    scope = current_scope()
    seen.append((where, scope.context.user_id, scope.root.state))


async def kept() -> AsyncIterator[str]:
    note("before")
    yield current_context().user_id
    note("after")


def kept_sync() -> Iterator[str]:
    note("before, sync")
    yield current_context().user_id
    note("after, sync")


def streaming_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/kept")
    async def of_kept(
        background: BackgroundTasks,
        a: Annotated[str, Depends(kept)],
        b: Annotated[str, Depends(kept_sync)],
    ) -> str:
        async def later() -> None:
            await anyio.sleep(0)
            note("background")

        background.add_task(later)
        background.add_task(note, "background, sync")
        note("route")
        return a

    async def chunks() -> AsyncIterator[str]:
        for number in range(3):
            await anyio.sleep(0)
            note(f"chunk {number}")
            yield f"{current_context().user_id}\n"
        note("end")

    @router.get("/stream")
    async def stream(a: Annotated[str, Depends(kept)]) -> StreamingResponse:
        return StreamingResponse(chunks())

    @router.get("/jsonl")
    async def jsonl(a: Annotated[str, Depends(kept)]) -> AsyncIterator[str]:
        async for chunk in chunks():
            yield chunk

    @router.get("/sync-stream")
    def sync_stream(a: Annotated[str, Depends(kept)]) -> StreamingResponse:
        def sync_chunks() -> Iterator[str]:
            for number in range(3):
                note(f"chunk {number}")
                yield f"{current_context().user_id}\n"
            note("end")

        return StreamingResponse(sync_chunks())

    try:
        from fastapi.sse import EventSourceResponse
    except ImportError:  # before FastAPI 0.135
        return router

    @router.get("/sse", response_class=EventSourceResponse)
    async def sse(a: Annotated[str, Depends(kept)]) -> AsyncIterator[str]:
        async for chunk in chunks():
            yield chunk

    return router


async def _through(request: Any, call_next: Any) -> Any:
    return await call_next(request)


THROUGH = (Middleware(BaseHTTPMiddleware, dispatch=_through),)


@pytest.fixture(params=["plain", "within", "around", "both", "mounted", "mounted twice", "twice"])
def streaming_app(request: pytest.FixtureRequest) -> Any:
    seen.clear()
    kind = request.param
    fence = Ringfence()
    around = THROUGH if kind in ("within", "both") else ()
    within = THROUGH if kind in ("around", "both") else ()
    if kind == "twice":
        again = Middleware(UserContextMiddleware, fence=fence, identify=identify)
        within = (*THROUGH, again)
    app = application(fence, around=around, within=within)
    if not kind.startswith("mounted"):
        app.include_router(streaming_routes())
        return app, ""
    inner = application(fence) if kind == "mounted twice" else FastAPI()
    inner.include_router(streaming_routes())
    app.mount("/in", inner)
    return app, "/in"


async def test_the_scope_outlasts_background_tasks_and_yield_dependencies(
    streaming_app: Any,
) -> None:
    app, prefix = streaming_app
    answer = await ok(app, f"{prefix}/kept", user="alice-1")
    assert answer.body == b'"alice-1"'
    assert {(user, state) for _, user, state in seen} == {("alice-1", "open")}
    assert sorted(where for where, *_ in seen) == [
        "after", "after, sync", "background", "background, sync", "before", "before, sync", "route",
    ]  # fmt: skip
    assert answer.scope["ringfence"].state == "closed"
    assert counters.value("request.completed") == 1  # one scope, however often we are mounted


@pytest.mark.parametrize("path", ["/stream", "/jsonl", "/sync-stream", "/sse"])
async def test_the_scope_covers_the_body_to_its_end(streaming_app: Any, path: str) -> None:
    if path == "/sse":
        pytest.importorskip("fastapi.sse")
    app, prefix = streaming_app
    async with anyio.create_task_group() as tasks:
        answers: dict[str, Answer] = {}

        async def client(user: str) -> None:
            answers[user] = await ok(app, prefix + path, user=user)

        for number in range(5):
            tasks.start_soon(client, f"user-{number}")
    for user, answer in answers.items():
        assert (answer.status, answer.body.count(user.encode())) == (200, 3)
        assert answer.body.count(b"user-") == 3
        assert answer.outcome == "completed"
        own = [where for where, whose, _ in seen if whose == user]
        assert own == ["before", "chunk 0", "chunk 1", "chunk 2", "end", "after"]
    assert {state for *_, state in seen} == {"open"}


async def test_what_outlives_the_body_is_refused() -> None:
    """The control for the tests above: they would see a scope that ends too soon."""
    app = application()
    kept_scopes: list[RequestScope] = []

    @app.get("/")
    async def route() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            kept_scopes.append(current_scope())
            yield "x"

        return StreamingResponse(chunks())

    await ok(app, user="alice-1")
    with pytest.raises(ContextClosedError):
        _ = kept_scopes[0].context


async def test_a_client_that_leaves_a_stream_ends_it_within_the_scope() -> None:
    app = application()
    ended = []

    @app.get("/")
    async def route() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            try:
                while True:
                    yield "x"
                    await anyio.sleep(0.001)
            finally:
                ended.append(current_context().user_id)

        return StreamingResponse(chunks())

    answer = await ok(app, user="alice-1", incoming=[{"type": "http.disconnect"}])
    assert ended == ["alice-1"]
    assert answer.outcome == "client_disconnect"


async def operation() -> AsyncIterator[str]:
    async with child_context("operation") as child:
        opened.append(current_scope())
        yield child.request_id


opened: list[RequestScope] = []


async def test_a_yield_dependency_may_open_a_child_scope() -> None:
    app = application()
    opened.clear()

    @app.get("/")
    async def route(request_id: Annotated[str, Depends(operation)]) -> StreamingResponse:
        assert current_context().request_id == request_id

        async def chunks() -> AsyncIterator[str]:
            assert current_context().request_id == request_id
            yield current_context().user_id

        return StreamingResponse(chunks())

    answer = await ok(app, user="alice-1")
    assert answer.body == b"alice-1"
    assert [scope.state for scope in opened] == ["closed"]
    assert not opened[0].is_parent_closed


@ASYNCIO
async def test_a_stream_and_its_background_task_use_the_session(tmp_path: Path) -> None:
    async with notes_engine(tmp_path) as engine:
        app = application(fence_for(engine))

        @asynccontextmanager
        async def rows(session: Any) -> AsyncIterator[Any]:
            yield await session.stream_scalars(text("SELECT body FROM note ORDER BY id"))

        @app.get("/")
        async def route(session: ScopedSession, background: BackgroundTasks) -> StreamingResponse:
            async def chunks() -> AsyncIterator[str]:
                async with rows(session) as found:
                    async for body in found:
                        yield f"{body} "

            async def later() -> None:
                session.add(Note(body="later"))

            background.add_task(later)
            return StreamingResponse(chunks(), background=background)

        answer = await ok(app, user="alice-1")
        assert answer.body == b"one two "
        assert await bodies(engine) == ["one", "two", "later"]
        assert checked_out(engine) == 0


# --- the module -------------------------------------------------------------------------------


def test_a_session_class_of_one_s_own() -> None:
    app = application()

    @app.get("/")
    async def route(session: Annotated[Repository, Depends(scoped_session)]) -> None: ...

    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


def test_it_needs_fastapi_and_no_database() -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "try: import ringfence.integrations.fastapi\n"
        "except ImportError as error: print(error)\n"
        "del sys.modules['fastapi']; sys.modules['sqlalchemy'] = None\n"
        "import ringfence.integrations.fastapi\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "ringfence[fastapi]"' in done.stdout
