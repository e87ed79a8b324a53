"""`tool`: each call is a tool call, with a context of its own, and the signature stays."""

from __future__ import annotations

import functools
import inspect
import threading
import time
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    NoContextError,
    Ringfence,
    UserExecutionContext,
    WrongTypeError,
    bind,
    current_context,
    task_group,
    user_context,
)
from ringfence.agents import AgentRegistry, agent_run, tool
from ringfence.events import EventHub
from ringfence.injection import Container, Injected, Lifetime, inject

from .hearing import hearing, hub_of, outcomes


class Session:
    """As one of a database: of one operation."""

    def __init__(self) -> None:
        self.context = current_context()


async def open_session() -> Session:
    await anyio.lowlevel.checkpoint()
    return Session()


@pytest.fixture
def fence() -> Ringfence:
    container = Container()
    container.provide(open_session, lifetime=Lifetime.OPERATION)
    return Ringfence(events=EventHub(), services=container)


@tool
async def search(query: str, *, limit: int = 3) -> Any:
    """Find what was asked for."""
    assert limit
    return current_context()


@tool(name="read_file", timeout=5)
def read(path: str) -> tuple[UserExecutionContext, int]:
    """Read it."""
    assert path
    return current_context(), threading.get_ident()


@tool
async def load(session: Injected[Session], key: str = "k") -> Any:
    """Load it."""
    return session, key


@tool
def load_slowly(key: str, session: Injected[Session]) -> Any:
    """Load it in a thread."""
    return session, current_context()


async def test_each_call_has_a_context_of_its_own(fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann") as ctx:
        async with agent_run("triage") as run:
            first, second = await search("a"), await search("b", limit=1)
        assert first.request_id != second.request_id
        for seen in (first, second):
            assert (seen.parent_request_id, seen.operation_depth) == (run.context.request_id, 2)
        assert current_context() is ctx
    assert [d["data"]["name"] for d in found] == ["triage", *["search"] * 4, "triage"]
    outcomes(found)


async def test_what_is_not_async_runs_in_a_thread_as_the_same_user(fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann") as ctx:
        seen, thread = await read("/etc")
        assert thread != threading.get_ident()
        assert (seen.user_id, seen.parent_request_id) == ("ann", ctx.request_id)
    assert outcomes(found) == {"read_file": "completed"}


async def test_what_is_injected_is_of_the_call(fence: Ringfence) -> None:
    async with fence.user_context("ann") as ctx:
        (first, key), (second, _) = await load(key="x"), await load("y")
        assert key == "x"
        assert first is not second
        assert first.context.parent_request_id == ctx.request_id
        given = Session()
        assert (await load(given))[0] is not given  # by place it is the next visible one
        assert (await load(session=given))[0] is given


async def test_a_thread_gets_what_needs_an_await(fence: Ringfence) -> None:
    async with fence.user_context("ann"):
        session, seen = await load_slowly("x")
        assert session.context is seen
        given = Session()
        assert (await load_slowly(key="x", session=given))[0] is given


async def test_the_signature_is_what_a_caller_gives() -> None:
    assert str(inspect.signature(search)) == ("(query: 'str', *, limit: 'int' = 3) -> 'Any'")
    assert list(inspect.signature(load).parameters) == ["key"]
    assert list(inspect.signature(load_slowly).parameters) == ["key"]
    assert typing.get_type_hints(load)["key"] is str
    assert "session" not in typing.get_type_hints(load_slowly)
    assert (search.__name__, search.__doc__) == ("search", "Find what was asked for.")
    assert all(map(inspect.iscoroutinefunction, (search, read, load, load_slowly)))


async def test_inject_may_be_written_too(fence: Ringfence) -> None:
    @tool
    @inject
    async def beneath(session: Injected[Session]) -> UserExecutionContext:
        return session.context

    async with fence.user_context("ann"):
        seen = await beneath()
        assert seen.operation_depth == 1


async def test_methods(fence: Ringfence) -> None:
    class Shelf:
        name = "shelf"

        @tool
        async def look(self, session: Injected[Session]) -> tuple[str, int]:
            return self.name, session.context.operation_depth

        @tool(name="count")
        def count(self) -> str:
            return self.name

        @tool
        @staticmethod
        async def dust() -> int:
            return current_context().operation_depth

        @tool
        @classmethod
        async def kind(cls) -> str:
            return cls.name

    shelf = Shelf()
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        assert await shelf.look() == ("shelf", 1)
        assert await shelf.count() == "shelf"
        assert await Shelf.dust() == 1
        assert await Shelf.kind() == "shelf"
        assert await tool(shelf.count)() == "shelf"
    assert set(outcomes(found)) == {"look", "count", "dust", "kind"}


async def test_callables_of_other_kinds(fence: Ringfence) -> None:
    class Adder:
        async def __call__(self, more: int) -> int:
            return 1 + more

    def twice(number: int) -> int:
        return 2 * number

    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        assert await tool(Adder())(2) == 3
        assert await tool(functools.partial(twice, 4))() == 8
        assert await tool(name="times")(lambda n: 3 * n)(5) == 15
    assert set(outcomes(found)) == {"Adder", "twice", "times"}


async def steps() -> AsyncIterator[int]:
    yield 1


def plain_steps() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (steps, "is a generator.*bound_stream"),
        (plain_steps, "is a generator"),
        (Session, "is no tool"),
        ("search", "is no tool"),
    ],
)
async def test_what_is_no_tool(target: Any, said: str) -> None:
    for make in (tool, tool(name="x")):
        with pytest.raises(ConfigurationError, match=said):
            make(target)


async def test_a_name_is_not_blank() -> None:
    for name in ("", " ", 3):
        with pytest.raises(ConfigurationError, match="blank"):
            tool(name=name)(read)  # type: ignore[arg-type]


async def test_endings(fence: Ringfence) -> None:
    @tool
    async def fails() -> None:
        raise LookupError("secret")

    @tool
    def fails_in_a_thread() -> None:
        raise LookupError("secret")

    @tool(timeout=0.01)
    async def late() -> None:
        await anyio.sleep(10)

    @tool(timeout=0.01)
    def late_in_a_thread() -> None:
        time.sleep(0.05)

    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        for failing in (fails, fails_in_a_thread):
            with pytest.raises(LookupError):
                await failing()
        for slow in (late, late_in_a_thread):
            with pytest.raises(TimeoutError):
                await slow()
    assert outcomes(found) == {
        "fails": "failed",
        "fails_in_a_thread": "failed",
        "late": "timed_out",
        "late_in_a_thread": "timed_out",
    }
    assert "secret" not in repr(found)


async def test_a_plain_function_that_gives_something_to_await_is_refused(fence: Ringfence) -> None:
    @tool
    def confused() -> Any:
        return anyio.sleep(0)

    async with fence.user_context("ann"):
        with pytest.raises(WrongTypeError, match="async def"):
            await confused()


async def test_outside_a_context_no_tool_runs(fence: Ringfence) -> None:
    for call in (search("a"), read("a"), load_slowly("a")):
        with pytest.raises(NoContextError):
            await call
    async with fence.user_context("ann"):
        late = bind(lambda: search("a"))
    with pytest.raises(ContextClosedError):
        late()


async def test_parallel_tools_have_sessions_of_their_own(fence: Ringfence) -> None:
    sessions: list[Session] = []

    async def use() -> None:
        sessions.append((await load())[0])

    async with fence.user_context("ann"), agent_run("triage"), task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(use)
    assert len({id(session) for session in sessions}) == 20
    assert len({session.context.request_id for session in sessions}) == 20


async def test_users_do_not_meet_in_one_tool() -> None:
    seen: list[tuple[str, str]] = []

    async def ask(user: str) -> None:
        async with user_context(user):
            for _ in range(5):
                context, _ = await read(user)
                seen.append((user, context.user_id))
                seen.append((user, (await search(user)).user_id))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, f"user-{number}")
    assert len(seen) == 200
    assert all(given == found for given, found in seen)


async def test_a_tool_may_be_registered_as_an_agent(fence: Ringfence) -> None:
    registry = AgentRegistry()
    registry.register("read", read)
    async with fence.user_context("ann"):
        seen, _ = await registry.run("read", "/etc")
        assert seen.operation_depth == 2


# --- what frameworks make of it ---------------------------------------------------------------

SCHEMAS = [(load, {"key"}), (search, {"query", "limit"}), (load_slowly, {"key"})]


def test_pydantic_ai_makes_the_right_schema() -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    for function, names in SCHEMAS:
        schema = pydantic_ai.Tool(function).function_schema.json_schema
        assert set(schema["properties"]) == names
    assert pydantic_ai.Tool(search).description == "Find what was asked for."


def test_openai_agents_makes_the_right_schema() -> None:
    agents = pytest.importorskip("agents")
    for function, names in SCHEMAS:
        made = agents.function_tool(function)
        assert set(made.params_json_schema["properties"]) == names
    assert agents.function_tool(search).description == "Find what was asked for."


def test_langchain_makes_the_right_schema() -> None:
    tools = pytest.importorskip("langchain_core.tools")
    for function, names in SCHEMAS:
        assert set(tools.tool(function).args) == names


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_pydantic_ai_runs_them_in_parallel(fence: Ringfence) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.test import TestModel

    ran: list[int] = []

    @tool
    async def one(key: str, session: Injected[Session]) -> str:
        ran.append(session.context.operation_depth)
        return key

    @tool
    def two(key: str, session: Injected[Session]) -> str:
        ran.append(session.context.operation_depth)
        return key

    agent = pydantic_ai.Agent(TestModel(), tools=[one, two])
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        await agent.run("go")
    assert ran == [1, 1]
    assert outcomes(found) == {"one": "completed", "two": "completed"}
