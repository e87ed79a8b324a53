"""pydantic-ai: whose work it is, what the user is told of it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from pydantic_ai import (
    Agent,
    AgentRunResultEvent,
    ApprovalRequired,
    DeferredToolRequests,
    ModelRetry,
    RunContext,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.capabilities import AbstractCapability, WrapperCapability
from pydantic_ai.exceptions import SkipToolExecution
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextMismatchError,
    NoContextError,
    OwnershipError,
    Ringfence,
    ScopeInGeneratorError,
    SessionIsolationError,
    UserExecutionContext,
    bound_stream,
    current_context,
    current_scope,
    user_context,
)
from ringfence.injection import Container, Injected, inject
from ringfence.integrations.pydantic_ai import RingfenceCapability

from .crowd import Crowd, crowd_fence, tree_faults

pytestmark = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])

Deps = UserExecutionContext
Drive = Callable[[Agent[Any, Any], Any], Awaitable[object]]


@pytest.fixture
async def fence(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[Ringfence]:
    async with crowd_fence(tmp_path, services=Container()) as fence:
        yield fence


def guarded(model: Any = None, **options: Any) -> Agent[Any, Any]:
    options = {"name": "clerk", "capabilities": [RingfenceCapability()], **options}
    return Agent(model or TestModel(), deps_type=object, **options)


# --- many users, one agent --------------------------------------------------------------------


async def by_run(agent: Agent[Any, Any], deps: Any) -> object:
    return (await agent.run("hello", deps=deps)).output


async def by_run_stream(agent: Agent[Any, Any], deps: Any) -> object:
    async with agent.run_stream("hello", deps=deps) as stream:
        return [text async for text in stream.stream_text(delta=True)]


async def by_run_stream_events(agent: Agent[Any, Any], deps: Any) -> object:
    async with agent.run_stream_events("hello", deps=deps) as events:
        last = [event async for event in events][-1]
        assert isinstance(last, AgentRunResultEvent)
        return last


async def by_iter(agent: Agent[Any, Any], deps: Any) -> object:
    async with agent.iter("hello", deps=deps) as run:
        return [node async for node in run]


WAYS = [by_run, by_run_stream, by_run_stream_events, by_iter]
CALLS = ["search", "recall", "count", "file", "dig"]
KINDS = {
    "agent_started": 2,
    "agent_thinking": 4,
    "tool_executing": 6,
    "tool_completed": 6,
    "agent_completed": 2,
}


def desk(crowd: Crowd, *capabilities: Any) -> Agent[Any, Any]:
    """An agent with tools of each kind, one of which asks another agent."""
    digger = Agent(TestModel(), name="digger", deps_type=object, capabilities=capabilities)
    clerk = Agent(TestModel(), name="clerk", deps_type=object, capabilities=capabilities)

    @digger.tool
    async def dig(ctx: RunContext[Any]) -> str:
        return await crowd.look_up("dig", ctx.deps)

    @clerk.tool
    async def search(ctx: RunContext[Any]) -> str:
        return await crowd.look_up("search", ctx.deps)

    @clerk.tool
    async def recall(ctx: RunContext[Any]) -> str:
        return await crowd.look_up("recall", ctx.deps)

    @clerk.tool
    def count(ctx: RunContext[Any]) -> str:
        return crowd.note("count", ctx.deps)

    @clerk.tool
    @inject
    async def file(
        ctx: RunContext[Any], session: Injected[AsyncSession], whose: Injected[Deps]
    ) -> str:
        assert session is current_context().db_session
        assert whose.user_id == current_context().user_id
        return crowd.note("file", ctx.deps)

    @clerk.tool
    async def ask(ctx: RunContext[Any]) -> object:
        return (await digger.run("dig", deps=ctx.deps, usage=ctx.usage)).output

    return clerk


@pytest.mark.parametrize("drive", WAYS)
async def test_fifty_users_of_one_agent_are_fifty(fence: Ringfence, drive: Drive) -> None:
    crowd = Crowd.of(50)
    clerk = desk(crowd, RingfenceCapability())
    await crowd.run(fence, lambda: drive(clerk, current_context()))
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    assert crowd.faults(CALLS, kinds) == []


@pytest.mark.parametrize("drive", WAYS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_whenever_they_are_cancelled_nothing_is_mixed_up(
    fence: Ringfence, drive: Drive, seed: int
) -> None:
    crowd = Crowd.of(20)
    clerk = desk(crowd, RingfenceCapability())
    await crowd.run_and_cancel(fence, lambda: drive(clerk, current_context()), seed)
    assert crowd.faults_of_any_ending() == []
    ends = Counter(told[-1]["kind"] for told in crowd.told.values() if told)
    assert ends["agent_failed"] > 1, ends


async def test_dependencies_that_two_users_share_are_refused(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    async with user_context("user-00") as shared:
        await crowd.run(fence, lambda: by_run(guarded(), shared))
    assert {user: type(error) for user, error in crowd.raised.items()} == {
        "user-01": ContextMismatchError
    }
    assert crowd.told["user-01"] == []


async def test_without_it_tools_share_a_session_and_nobody_is_told(fence: Ringfence) -> None:
    """What the tests above would find."""
    crowd = Crowd.of(2)
    clerk = desk(crowd)
    await crowd.run(fence, lambda: by_run(clerk, current_context()))
    faults = "\n".join(crowd.faults([], list(KINDS)))
    assert "calls shared a session" in faults
    assert "was not told of" in faults
    crowd = Crowd.of(2)
    async with user_context("user-00") as shared:
        clerk = desk(crowd)
        await crowd.run(fence, lambda: by_run(clerk, shared))
    assert any("told user-00, ran as user-01" in fault for fault in crowd.faults([]))


# --- whose ------------------------------------------------------------------------------------


@attrs.define
class Passport:
    user_id: str


async def test_without_a_scope_nothing_runs(anyio_backend: Any) -> None:
    called = []
    agent = guarded()
    agent.tool_plain(lambda: called.append(1), name="call")
    with pytest.raises(NoContextError):
        await agent.run("hello")
    assert not called


async def test_dependencies_are_compared_at_each_tool(fence: Ringfence) -> None:
    passport = Passport("user-00")
    agent = guarded(retries=0)
    seen = []

    @agent.tool(sequential=True)
    def lose_it(ctx: RunContext[Passport]) -> None:
        ctx.deps.user_id = "mallory"

    @agent.tool(sequential=True)
    def use_it(ctx: RunContext[Passport]) -> None:
        seen.append(ctx.deps.user_id)

    told = await told_of(fence, lambda: agent.run("hello", deps=passport), ContextMismatchError)
    assert not seen
    assert [name for name, *_ in told] == ["agent_started", "tool_executing", "tool_completed",
                                           "agent_failed"]  # fmt: skip


async def test_a_delegate_is_not_run_for_another_user(fence: Ringfence) -> None:
    agent, delegate = guarded(), guarded(name="delegate")

    @agent.tool_plain
    async def ask() -> object:
        return await delegate.run("hello", deps=Passport("mallory"))

    await told_of(fence, lambda: agent.run("hello", deps=None), ContextMismatchError)


async def test_a_run_does_not_go_on_in_another_users_scope(fence: Ringfence) -> None:
    agent = guarded()
    agent.tool_plain(lambda: None, name="call")
    async with fence.user_context("alice"):
        with pytest.raises(OwnershipError):
            async with agent.iter("hello") as run:
                async with fence.user_context("bob"):
                    async for _ in run:
                        pass


async def test_a_run_that_outlives_its_scope_is_refused(fence: Ringfence) -> None:
    agent, called = guarded(), []
    agent.tool_plain(lambda: called.append(1), name="call")
    async with fence.user_context("alice"):
        block = agent.iter("hello")
        run = await block.__aenter__()
    with pytest.raises(ContextClosedError) as caught:
        async for _ in run:
            pass
    assert not await block.__aexit__(type(caught.value), caught.value, None)
    assert not called


async def test_a_stream_that_outlives_its_scope_calls_no_tool(fence: Ringfence) -> None:
    """In the scope of another user as little as in none."""
    agent, called = guarded(), []
    agent.tool_plain(lambda: called.append(current_context().user_id), name="call")
    async with fence.user_context("alice"):
        block = agent.run_stream_events("hello", deps=current_context())
        events = await block.__aenter__()
    async with fence.user_context("bob"):
        with pytest.raises((ContextClosedError, ContextMismatchError)):
            async for _ in events:
                pass
        await block.__aexit__(None, None, None)
    assert not called


async def words(agent: Agent[Any, Any]) -> AsyncGenerator[str, None]:
    async with agent.run_stream("hello") as stream:
        async for text in stream.stream_text(delta=True):
            yield text


async def nodes(agent: Agent[Any, Any]) -> AsyncIterator[Any]:
    async with agent.iter("hello") as run:
        async for node in run:
            yield node


async def answers(agent: Agent[Any, Any]) -> AsyncIterator[Any]:
    async with agent.run_stream_events("hello") as events:
        async for event in events:
            yield event
    yield (await agent.run("hello")).output


@pytest.mark.parametrize("stream", [words, nodes])
async def test_a_run_does_not_carry_its_context_out_of_a_generator(
    fence: Ringfence, stream: Any
) -> None:
    async with fence.user_context("alice"):
        agent = guarded()
        with pytest.raises(ScopeInGeneratorError, match=stream.__name__):
            async for _ in stream(agent):
                pass
        async with bound_stream(stream(agent)) as items:
            depths = {current_context().operation_depth async for _ in items}
    assert depths == {0}


async def test_what_carries_nothing_out_may_stand_in_a_generator(fence: Ringfence) -> None:
    async with fence.user_context("alice"):
        depths = {current_context().operation_depth async for _ in answers(guarded())}
    assert depths == {0}


async def test_without_it_the_context_of_a_run_is_carried_out(anyio_backend: Any) -> None:
    """Why it is refused: what a capability sets is left to whoever takes the items."""

    class Setting(AbstractCapability[Any]):
        async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
            whose.set("alice's")
            return await handler()

    whose = contextvars.ContextVar("whose", default="bob's")
    stream = words(guarded(capabilities=[Setting()]))
    await anext(stream)
    assert whose.get() == "alice's"
    await stream.aclose()


class HalfThere(WrapperCapability[Any]):
    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        return await handler()


async def test_tools_are_not_run_outside_of_a_run_that_it_knows(fence: Ringfence) -> None:
    agent = guarded(capabilities=[HalfThere(RingfenceCapability())])
    async with fence.user_context("alice"):
        with pytest.raises(ContextClosedError, match="has not begun"):
            await agent.run("hello")


# --- every ending -----------------------------------------------------------------------------


async def told_of(
    fence: Ringfence, work: Callable[[], Awaitable[object]], raises: Any = None
) -> list[tuple[str, str, Any]]:
    """What one user is told while it runs: kind, name, outcome. The tree must be whole."""
    crowd = Crowd.of(1)
    await crowd.run(fence, work)
    error = crowd.raised.get("user-00")
    assert error is None if raises is None else isinstance(error, raises), error
    (told,) = crowd.told.values()
    assert tree_faults(told) == []
    return [
        (each["kind"], each["data"]["name"], each["data"].get("outcome"))
        for each in told
        if each["kind"] != "agent_thinking"
    ]


def of_tool(outcome: str, end: tuple[str, str], name: str = "call") -> list[Any]:
    kind, of_agent = end
    return [
        ("agent_started", "clerk", None),
        ("tool_executing", name, None),
        ("tool_completed", name, outcome),
        (kind, "clerk", of_agent),
    ]


FAILED, DONE = ("agent_failed", "failed"), ("agent_completed", "completed")


async def test_a_tool_that_fails(fence: Ringfence) -> None:
    agent = guarded()

    @agent.tool_plain
    async def call() -> None:
        raise LookupError

    told = await told_of(fence, lambda: agent.run("hello"), LookupError)
    assert told == of_tool("failed", FAILED)


async def test_a_tool_that_takes_too_long(fence: Ringfence) -> None:
    agent = guarded(once_and_then_text())

    @agent.tool_plain(timeout=0.02)
    async def call() -> None:
        await asyncio.sleep(10)

    assert await told_of(fence, lambda: agent.run("hello")) == of_tool("failed", DONE)


async def test_a_tool_that_asks_for_another_try(fence: Ringfence) -> None:
    agent = guarded(once_and_then_text())

    @agent.tool_plain
    async def call() -> None:
        raise ModelRetry("otherwise")

    assert await told_of(fence, lambda: agent.run("hello")) == of_tool("failed", DONE)


def once_and_then_text() -> FunctionModel:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(
            parts=[ToolCallPart("call", {}) if len(messages) == 1 else TextPart("no")]
        )

    return FunctionModel(answer)


async def test_a_model_that_fails(fence: Ringfence) -> None:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        raise ConnectionError

    agent = guarded(FunctionModel(answer))
    told = await told_of(fence, lambda: agent.run("hello"), ConnectionError)
    assert told == [("agent_started", "clerk", None), ("agent_failed", "clerk", "failed")]


async def test_a_limit_of_usage(fence: Ringfence) -> None:
    agent = guarded()
    agent.tool_plain(lambda: None, name="call")
    told = await told_of(
        fence,
        lambda: agent.run("hello", usage_limits=UsageLimits(request_limit=1)),
        UsageLimitExceeded,
    )
    assert told == of_tool("completed", FAILED)


@pytest.mark.parametrize("drive", WAYS)
async def test_a_run_that_is_cancelled_ends_its_tools_first(fence: Ringfence, drive: Drive) -> None:
    """Their clean-up runs to its end, in their own context."""
    agent, at_work = guarded(), anyio.Semaphore(0)
    left: list[str] = []

    async def work(name: str) -> None:
        current_scope().callback(left.append, "scope of " + name)
        try:
            at_work.release()
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.05)
            await current_context().db_session.scalar(text("SELECT 1"))
            left.append(name)

    @agent.tool_plain
    async def one() -> None:
        await work("one")

    @agent.tool_plain
    async def other() -> None:
        await work("other")

    async def cancel() -> None:
        run = asyncio.ensure_future(drive(agent, None))
        await at_work.acquire()
        await at_work.acquire()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    told = await told_of(fence, cancel)
    assert sorted(left) == ["one", "other", "scope of one", "scope of other"]
    assert left.index("one") < left.index("scope of one")
    assert sorted(told[3:5]) == [
        ("tool_completed", "one", "cancelled"),
        ("tool_completed", "other", "cancelled"),
    ]
    assert told[5:] == [("agent_failed", "clerk", "cancelled")]


async def test_a_run_that_is_left_early(fence: Ringfence) -> None:
    agent = guarded()
    agent.tool_plain(lambda: None, name="call")

    async def leave() -> None:
        async with agent.iter("hello") as run:
            async for _ in run:
                break
        assert current_context().operation_depth == 0

    assert await told_of(fence, leave) == [
        ("agent_started", "clerk", None),
        ("agent_failed", "clerk", "cancelled"),
    ]


async def test_a_tool_that_waits_for_approval_has_not_failed(fence: Ringfence) -> None:
    agent = guarded(output_type=[str, DeferredToolRequests])

    @agent.tool_plain
    async def call() -> None:
        raise ApprovalRequired

    told = await told_of(fence, lambda: agent.run("hello"))
    assert told == of_tool("completed", DONE)


class Skipping(AbstractCapability[Any]):
    async def before_tool_execute(self, ctx: Any, **_: Any) -> Any:
        raise SkipToolExecution("from a cache")


async def test_a_tool_that_is_skipped_has_not_failed(fence: Ringfence) -> None:
    agent = guarded(capabilities=[Skipping(), RingfenceCapability()])
    agent.tool_plain(lambda: None, name="call")
    assert await told_of(fence, lambda: agent.run("hello")) == of_tool("completed", DONE)


async def test_the_end_says_what_was_used(fence: Ringfence) -> None:
    crowd, agent = Crowd.of(1), guarded()
    used = []

    async def drive() -> None:
        usage = (await agent.run("hello")).usage
        used.append((usage.requests, usage.input_tokens, usage.output_tokens))
        usage = (await agent.run("again", usage=usage)).usage  # which they share

    await crowd.run(fence, drive)
    ends = [each["data"] for each in crowd.told["user-00"] if each["kind"] == "agent_completed"]
    counted = [(e["requests"], e["input_tokens"], e["output_tokens"]) for e in ends]
    assert counted == used * 2
    assert used[0][1] > 0


# --- sessions ---------------------------------------------------------------------------------


async def test_what_a_tool_writes_is_kept_if_it_succeeds(fence: Ringfence) -> None:
    agent, sessions = guarded(once_and_then_text()), []

    async def write(body: str) -> None:
        session = current_context().db_session
        sessions.append(session)
        await session.execute(text("INSERT INTO note (body) VALUES (:body)"), {"body": body})

    @agent.tool_plain
    async def call() -> None:
        await write("of a tool that failed")
        raise ModelRetry("otherwise")

    async with fence.user_context("alice") as ctx:
        await agent.run("hello")
        agent = guarded()
        agent.tool_plain(lambda: write("of a tool that did not"), name="call")
        await agent.run("hello")
        bodies = await ctx.db_session.scalars(text("SELECT body FROM note ORDER BY id"))
        assert bodies.all() == ["one", "two", "of a tool that did not"]
        assert len({id(session) for session in [*sessions, ctx.db_session]}) == 3
    for session in sessions:
        with pytest.raises((SessionIsolationError, ContextClosedError)):
            await session.scalar(text("SELECT 1"))


# --- among other capabilities -----------------------------------------------------------------


class Looking(AbstractCapability[Any]):
    def __init__(self) -> None:
        self.depths: list[int] = []

    async def wrap_tool_execute(self, ctx: Any, *, handler: Any, args: Any, **_: Any) -> Any:
        self.depths.append(current_context().operation_depth)
        return await handler(args)


async def test_it_is_around_the_others(fence: Ringfence) -> None:
    looking = Looking()
    agent = guarded(capabilities=[looking, RingfenceCapability()])
    agent.tool_plain(lambda: None, name="call")
    async with fence.user_context("alice"):
        await agent.run("hello")
    assert looking.depths == [2]


async def test_given_twice_it_is_there_once(fence: Ringfence) -> None:
    agent = guarded(capabilities=[RingfenceCapability(), RingfenceCapability()])
    agent.tool_plain(lambda: current_context().operation_depth, name="call")
    async with fence.user_context("alice"):
        done = await agent.run("hello", capabilities=[RingfenceCapability()])
    assert done.output == '{"call":2}'


async def test_it_needs_no_hub(anyio_backend: Any) -> None:
    agent = guarded()
    agent.tool_plain(lambda: current_context().operation_depth, name="call")
    async with user_context("alice"):
        assert (await agent.run("hello")).output == '{"call":2}'


async def test_it_cannot_wait_to_be_loaded(anyio_backend: Any) -> None:
    with pytest.raises(ConfigurationError, match="defer_loading"):
        RingfenceCapability(defer_loading=True, description="x")
