"""Checked by `tests/test_typing.py` with `mypy --strict`; an unused `type: ignore` is an error."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Generic, Protocol, TypeVar, assert_type

import ringfence
from ringfence import (
    BoundStream,
    Detached,
    DrainReport,
    FinaliserReport,
    Identity,
    InvalidContextError,
    RequestScope,
    Ringfence,
    RingfenceError,
    ScopeCloseError,
    ScopeTaskGroup,
    Settings,
    UserExecutionContext,
    bind,
    bound_stream,
    child_context,
    clear_shared_object_registry,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    managed_user_context,
    nobody,
    owned,
    register_shared_object,
    run_as,
    task_group,
    user_context,
    validate_user_context,
)
from ringfence.agents import (
    AgentRegistry,
    Left,
    Run,
    RunRecord,
    agent_run,
    check_explicit,
    left,
    spend,
    thinking,
    tool,
    tool_call,
)
from ringfence.events import Event, EventHub, Resync, Subscription, emit, started, subscribe
from ringfence.injection import (
    Container,
    Edge,
    Injected,
    Lifetime,
    Node,
    ProviderGraph,
    Qualifier,
    inject,
)
from ringfence.integrations.redis import RedisLog
from ringfence.protocols import EventSink


class Connection:
    async def fetch(self) -> list[str]:
        return []


@contextlib.asynccontextmanager
async def connect() -> AsyncGenerator[Connection, None]:
    yield Connection()


@contextlib.contextmanager
def open_file() -> Any:
    yield 1


# --- blocks and readers -----------------------------------------------------------------------


async def blocks(ctx: UserExecutionContext, identity: Identity, fence: Ringfence) -> None:
    assert_type(user_context("u-17"), AbstractAsyncContextManager[UserExecutionContext])
    assert_type(nobody(), AbstractAsyncContextManager[RequestScope])
    async with user_context("u-17", thread_id="t-1", claims={"roles": ["admin"]}) as one:
        assert_type(one, UserExecutionContext)
    async with user_context(identity, timeout=1.5, transaction="read_only") as two:
        assert_type(two, UserExecutionContext)
    async with user_context(ctx, fence=fence) as three:
        assert_type(three, UserExecutionContext)
    async with child_context("tool", session="share", agent_context={"step": 1}) as child:
        assert_type(child, UserExecutionContext)
    async with nobody(request_id="q-1", in_generator=True) as scope:
        assert_type(scope, RequestScope)
    async with managed_user_context(ctx, cleanup_db_session=False) as managed:
        assert_type(managed, UserExecutionContext)
    async with fence.user_context("u-17") as four:
        assert_type(four, UserExecutionContext)
    async with fence.nobody() as five:
        assert_type(five, RequestScope)

    user_context(17)  # type: ignore[arg-type]
    user_context("u-17", "t-1", "r-1", None, object(), "ws-1", {}, {}, tenant_id="acme")
    user_context("u-17", transaction="sometimes")  # type: ignore[arg-type]
    child_context("tool", user_id="u-18")  # type: ignore[call-arg]
    managed_user_context("u-17")  # type: ignore[type-var]


def readers() -> None:
    assert_type(current_context(), UserExecutionContext)
    assert_type(current_scope(), RequestScope)
    assert_type(current_context_or_none(), UserExecutionContext | None)
    assert_type(current_scope_or_none(), RequestScope | None)
    current_context(None)  # type: ignore[call-arg]


# --- the context ------------------------------------------------------------------------------


class TeamContext(UserExecutionContext):
    def team(self) -> str:
        return self.user_id


def context(ctx: UserExecutionContext, request: object, obj: object) -> None:
    assert_type(ctx.user_id, str)
    assert_type(ctx.websocket_client_id, str | None)
    assert_type(ctx.tenant_id, str | None)
    assert_type(ctx.parent_request_id, str | None)
    assert_type(ctx.operation_depth, int)
    assert_type(ctx.created_at, dt.datetime)
    assert_type(ctx.expires_at, dt.datetime | None)
    assert_type(ctx.agent_context, dict[str, Any])
    assert_type(ctx.audit_metadata, dict[str, Any])
    assert_type(ctx.has_db_session, bool)
    assert_type(ctx.verify_isolation(), bool)
    assert_type(ctx.to_dict(), dict[str, Any])
    assert_type(ctx.get_correlation_id(), str)
    assert_type(ctx.get_audit_trail(), dict[str, Any])
    assert_type(validate_user_context(obj), UserExecutionContext)

    made = UserExecutionContext("u-17", "t-1", "r-1", None, object(), "ws-1", None, {}, {}, 0, None)
    assert_type(made, UserExecutionContext)
    team = TeamContext.from_request("u-17", "t-1", "r-1")
    assert_type(team, TeamContext)
    assert_type(TeamContext.from_fastapi_request(request, "u-17", "t-1", "r-1"), TeamContext)
    assert_type(team.create_child_context("tool", {"a": 1}, {"b": 2}), TeamContext)
    assert_type(team.with_db_session(object()), TeamContext)
    assert_type(team.with_websocket_connection("ws-1"), TeamContext)

    ctx.user_id = "u-18"  # type: ignore[misc]
    ctx.agent_context = {}  # type: ignore[misc]
    UserExecutionContext("u-17", "t-1")  # type: ignore[call-arg]


# --- the scope --------------------------------------------------------------------------------


async def scope(scope: RequestScope) -> None:
    assert_type(await scope.enter(connect()), Connection)
    assert_type(scope.callback(print, "bye"), Callable[[], None])
    assert_type(scope.own(Connection()), Connection)
    assert_type(scope.check([1]), list[int])
    assert_type(scope.context, UserExecutionContext)
    assert_type(scope.root, RequestScope)
    assert_type(scope.parent, RequestScope | None)
    assert_type(scope.children, tuple[RequestScope, ...])
    assert_type(scope.request_id, str)
    assert_type(scope.claims, Mapping[str, Any])
    assert_type(scope.deadline, float | None)
    assert_type(scope.report, tuple[FinaliserReport, ...])
    assert_type(scope.ended_well, bool)
    assert_type(scope.settings, Settings)
    await scope.enter(3)  # type: ignore[arg-type]


# --- concurrency ------------------------------------------------------------------------------


def add(one: int, *, two: str = "") -> float:
    return 1.0


async def fetch(name: str) -> int:
    return len(name)


async def tokens() -> AsyncGenerator[str, None]:
    yield "token"


async def concurrency(fence: Ringfence) -> None:
    async with task_group() as tasks:
        assert_type(tasks, ScopeTaskGroup)
        tasks.start_soon(fetch, "a", name="fetch a")
        tasks.start_soon(add, 1)  # type: ignore[arg-type]

    bound = bind(add)
    assert_type(bound(1, two="x"), float)
    bound("x")  # type: ignore[arg-type]

    assert_type(run_as("u-17", add, 1, two="x"), float)
    assert_type(run_as(Identity("u-17"), len, [1], fence=fence), int)
    run_as(17, add, 1)  # type: ignore[arg-type]

    stream = bound_stream(tokens())
    assert_type(stream, BoundStream[str])
    async for token in stream:
        assert_type(token, str)
    async with bound_stream(tokens()) as entered:
        assert_type(entered, BoundStream[str])
        assert_type(await anext(entered), str)
    bound_stream([1])  # type: ignore[arg-type]


async def application(fence: Ringfence) -> None:
    async with fence as opened:
        assert_type(opened, Ringfence)
        detached = fence.detach(fetch, "a")
        assert_type(detached, Detached)
        assert_type(detached.error, BaseException | None)
        assert_type(detached.request_id, str)
        assert_type(await detached.wait(), None)
        fence.detach(add, 1)  # type: ignore[arg-type]
    assert_type(fence.drain_report, DrainReport | None)
    assert_type(fence.lifespan(object()), contextlib._AsyncGeneratorContextManager[None])


# --- owned keeps the class it marks -----------------------------------------------------------


@owned
class Memory:
    def __init__(self, size: int) -> None:
        self.notes = [""] * size

    def last(self) -> str:
        return self.notes[-1]


def ownership() -> None:
    assert_type(Memory, type[Memory])
    assert_type(Memory(3), Memory)
    assert_type(Memory(3).last(), str)
    Memory("x")  # type: ignore[arg-type]
    owned(3)  # type: ignore[type-var]


# --- events -----------------------------------------------------------------------------------


async def events() -> None:
    fence = Ringfence(events=EventHub(RedisLog("redis://localhost/0", max_events=100)))
    assert_type(fence.events, EventSink | None)
    assert_type(await emit("order_placed", {"order": 17}, only_origin=True), str)
    await emit("order_placed", 17)  # type: ignore[arg-type]
    async with subscribe(last_id=None) as subscription:
        assert_type(subscription, Subscription)
        async for event in subscription:
            assert_type(event, Event | Resync)
            if isinstance(event, Event):
                assert_type(event.document["parent_request_id"], str | None)
    async with started("agent", "triage", step=1) as run:
        assert_type(run.data, dict[str, Any])
    started("robot", "triage")  # type: ignore[arg-type]


# --- injection --------------------------------------------------------------------------------

M = TypeVar("M")


class Reading(Protocol):
    def read(self) -> str: ...


class Store(Generic[M]):
    def __init__(self, kind: type[M]) -> None: ...


container = Container(max_users=3, user_idle=60)


@container.provide(lifetime=Lifetime.APP)
async def provided() -> AsyncIterator[Connection]:
    yield Connection()


@container.provide
def made(connection: Connection) -> Memory:
    return Memory(1)


@inject
async def lookup(query: str, connection: Injected[Connection]) -> int:
    assert_type(connection, Connection)
    return len(query)


@inject
class Handler:
    def __init__(self, reading: Injected[Reading]) -> None:
        assert_type(reading, Reading)


async def injection(scope: RequestScope, fake: Reading) -> None:
    container.provide(Store)
    assert_type(container.provide(value=3), int)
    assert_type(made(Connection()), Memory)
    container.provide(Memory, gives=Annotated[Memory, Qualifier("long")], enter=True)
    container.provide(3)  # type: ignore[call-overload]
    container.alias(Reading, Memory)
    assert_type(await scope.get(Connection), Connection)
    assert_type(await scope.get(Reading), Reading)
    assert_type(await scope.get(list[Reading]), list[Reading])
    assert_type(await scope.get(Store[int]), Store[int])
    assert_type(await scope.get(Annotated[Connection, Qualifier("main")]), Connection)
    assert_type(scope.get_now(Reading), Reading)
    assert_type(await scope.release(Connection), None)
    assert_type(await lookup("tea"), int)
    assert_type(Handler, type[Handler])
    with container.override(Reading, fake) as given:
        assert_type(given, Reading)
    graph = container.graph()
    assert_type(graph, ProviderGraph)
    assert_type(graph.nodes, tuple[Node, ...])
    assert_type(graph.edges, tuple[Edge, ...])
    Ringfence(services=container)


# --- values and errors ------------------------------------------------------------------------


def values() -> None:
    identity = Identity("u-17", "acme", expires_at=None, claims={"roles": ["admin"]})
    assert_type(identity.claims, Mapping[str, Any])
    assert_type(identity.is_expired(), bool)
    identity.user_id = "u-18"  # type: ignore[misc]
    assert_type(Settings(max_depth=3, id_placeholders={"guest"}).max_depth, int)
    assert_type(Settings.from_env({"RINGFENCE_MAX_DEPTH": "3"}), Settings)
    Settings(validation="lenient")  # type: ignore[arg-type]
    assert_type(register_shared_object(object()), None)
    assert_type(clear_shared_object_registry(), None)
    assert_type(ringfence.__version__, str)


def errors() -> None:
    try:
        current_context()
    except InvalidContextError as error:
        assert_type(error.code, str)
        assert_type(error.field, str | None)
    except ScopeCloseError as error:
        assert_type(error.exceptions, tuple[Exception | ExceptionGroup[Exception], ...])
        assert_type(error.request_id, str | None)
    except RingfenceError as error:
        assert_type((error.fact, error.remedy), tuple[str, str])


@tool
async def search(query: str, connection: Injected[Connection]) -> list[str]:
    return [query]


@tool(name="read_file", timeout=5)
def read(path: str) -> str:
    return path


class Agent:
    async def run(self, question: str) -> str:
        return question

    @tool
    def look(self) -> int:
        return 1


async def agents(registry: AgentRegistry) -> None:
    @registry.agent("triage")
    async def triage(question: str) -> str:
        return question

    assert_type(await triage("why"), str)
    assert_type(registry.register("agent", Agent), type[Agent])
    await registry.run("triage", "why", timeout=3, budget={"tokens": 100}, depth=2)
    assert_type(registry.running(), tuple[RunRecord, ...])
    assert_type(registry.recent()[0].error, str | None)
    assert_type(registry.load(), dict[str, int])
    registry.cancel("r-1")
    async with agent_run("triage", budget={"tokens": 1.5}, step=1) as run, tool_call("search"):
        assert_type(run, Run)
        run.data["tokens"] = 12
        await thinking()
    assert_type(await search("tea"), list[str])
    assert_type(await read("tea"), str)
    assert_type(await Agent().look(), int)
    assert_type(left(), Left)
    spend(tokens=12, dollars=0.5)
    assert_type(check_explicit(run.context), UserExecutionContext)
    sink: EventSink = registry
    Ringfence(events=sink)
