"""openai-agents: whose work it is, what the user is told of it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import gc
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from agents import (
    Agent,
    AgentHooks,
    CustomTool,
    FunctionTool,
    MaxTurnsExceeded,
    RunConfig,
    RunContextWrapper,
    Runner,
    function_tool,
    handoff,
)
from agents.exceptions import ToolTimeoutError, UserError
from agents.lifecycle import AgentHooksBase, RunHooksBase
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
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
    task_group,
    user_context,
)
from ringfence.injection import Container, Injected, inject
from ringfence.integrations._openai_hooks import Observer
from ringfence.integrations.openai_agents import UserAgent, run, run_streamed

from .crowd import Crowd, crowd_fence, tree_faults

pytestmark = [
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
    # The SDK's own, of runs of plain agents that are cancelled as well.
    pytest.mark.filterwarnings("ignore:coroutine 'run_single_turn' was never:RuntimeWarning"),
]

QUIET = RunConfig(tracing_disabled=True)
Wrapper = RunContextWrapper[Any]
Drive = Callable[[Agent[Any], Any], Awaitable[object]]


@pytest.fixture
async def fence(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[Ringfence]:
    async with crowd_fence(tmp_path, services=Container()) as fence:
        yield fence


# --- models that answer by what they are asked, so that any number of users may ask --------------


def arguments(name: str) -> dict[str, str]:
    return {"input": "hello"} if name == "ask" else {}


def in_turn(*turns: list[str], times: int = 1, usage: Usage | None = None) -> ScriptedModel:
    """A model that calls the tools of each turn, named like their calls, and then says `done`."""

    def answer(call: Any) -> Any:
        items = call.input if isinstance(call.input, list) else []
        done = {item["call_id"] for item in items if item.get("type") == "function_call_output"}
        for names in turns:
            if not done.issuperset(names):
                return [function_call(name, arguments(name), call_id=name) for name in names]
        return [assistant_message("done")]

    steps = [ModelStep.respond(answer) for _ in range(times * (len(turns) + 1))]
    return ScriptedModel(steps, default_usage=usage)


def loud(function: Any, **options: Any) -> FunctionTool:
    return function_tool(failure_error_function=None, **options)(function)


def clerk_with(*tools: Any, **options: Any) -> UserAgent[Any]:
    names = [tool.name for tool in tools]
    options = {"name": "clerk", "model": in_turn(names), "tools": list(tools), **options}
    return UserAgent(**options)


# --- many users, one agent --------------------------------------------------------------------


async def by_run(agent: Agent[Any], context: Any) -> object:
    return (await run(agent, "hello", context=context, run_config=QUIET)).final_output


async def by_run_streamed(agent: Agent[Any], context: Any) -> object:
    async with run_streamed(agent, "hello", context=context, run_config=QUIET) as stream:
        async for _ in stream.stream_events():
            pass
        return stream.final_output


WAYS = [by_run, by_run_streamed]
CALLS = ["search", "recall", "count", "file", "dig", "close"]
KINDS = {
    "agent_started": 2,
    "agent_thinking": 6,
    "agent_handoff": 1,
    "tool_executing": 7,
    "tool_completed": 7,
    "agent_completed": 2,
}


def desk(crowd: Crowd, kind: type[Agent[Any]] = UserAgent) -> Agent[Any]:
    """An agent with tools of each kind, another agent among them, which hands off to a third."""

    async def dig(ctx: Wrapper) -> str:
        return await crowd.look_up("dig", ctx.context)

    async def close(ctx: Wrapper) -> str:
        return await crowd.look_up("close", ctx.context)

    async def search(ctx: Wrapper) -> str:
        return await crowd.look_up("search", ctx.context)

    async def recall(ctx: Wrapper) -> str:
        return await crowd.look_up("recall", ctx.context)

    def count(ctx: Wrapper) -> str:
        return crowd.note("count", ctx.context)

    @inject
    async def file(
        ctx: Wrapper, session: Injected[AsyncSession], whose: Injected[UserExecutionContext]
    ) -> str:
        assert session is current_context().db_session
        assert whose.user_id == current_context().user_id
        return crowd.note("file", ctx.context)

    many = len(crowd.users)
    digger = kind(name="digger", model=in_turn(["dig"], times=many), tools=[loud(dig)])
    closer = kind(name="closer", model=in_turn(["close"], times=many), tools=[loud(close)])
    first = [loud(tool) for tool in (search, recall, count, file)]
    ask = digger.as_tool("ask", "Ask the digger.", failure_error_function=None)
    turns = [tool.name for tool in [*first, ask]], ["transfer_to_closer"]
    return kind(
        name="clerk",
        model=in_turn(*turns, times=many),
        tools=[*first, ask],
        handoffs=[closer],
    )


@pytest.mark.parametrize("drive", WAYS)
@pytest.mark.parametrize("is_given", [True, False])
async def test_fifty_users_of_one_agent_are_fifty(
    fence: Ringfence, drive: Drive, is_given: bool
) -> None:
    crowd = Crowd.of(50)
    clerk = desk(crowd)
    await crowd.run(fence, lambda: drive(clerk, current_context() if is_given else None))
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    assert crowd.faults(CALLS, kinds) == []


@pytest.mark.parametrize("drive", WAYS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_whenever_they_are_cancelled_nothing_is_mixed_up(
    fence: Ringfence, drive: Drive, seed: int
) -> None:
    crowd = Crowd.of(20)
    clerk = desk(crowd)
    await crowd.run_and_cancel(fence, lambda: drive(clerk, None), seed)
    assert crowd.faults_of_any_ending() == []
    crowd.raised.clear()
    gc.collect()  # while the warning is ignored
    ends = Counter(told[-1]["kind"] for told in crowd.told.values() if told)
    assert ends["agent_failed"] > 1, ends


async def test_a_context_that_two_users_share_is_refused(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    clerk = clerk_with(model=in_turn(times=2))
    async with user_context("user-00") as shared:
        await crowd.run(fence, lambda: by_run(clerk, shared))
    assert {user: type(error) for user, error in crowd.raised.items()} == {
        "user-01": ContextMismatchError
    }
    assert crowd.told["user-01"] == []


async def test_a_plain_agent_shares_a_session_and_tells_nobody(fence: Ringfence) -> None:
    """What the tests above would find."""

    async def plainly(agent: Agent[Any], context: Any) -> None:
        await Runner.run(agent, "hello", context=context, run_config=QUIET)

    crowd = Crowd.of(2)
    clerk = desk(crowd, Agent)
    await crowd.run(fence, lambda: plainly(clerk, current_context()))
    faults = "\n".join(crowd.faults([], list(KINDS)))
    assert "calls shared a session" in faults
    assert "was not told of" in faults
    crowd = Crowd.of(2)
    clerk = desk(crowd, Agent)
    async with user_context("user-00") as shared:
        await crowd.run(fence, lambda: plainly(clerk, shared))
    assert any("told user-00, ran as user-01" in fault for fault in crowd.faults([]))


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_whoever_runs_it_its_tools_are_guarded(fence: Ringfence, is_streamed: bool) -> None:
    crowd = Crowd.of(10)
    clerk = desk(crowd)

    async def drive() -> None:
        options: Any = {"context": current_context(), "run_config": QUIET}
        if not is_streamed:
            await Runner.run(clerk, "hello", **options)
            return
        stream = Runner.run_streamed(clerk, "hello", **options)
        async for _ in stream.stream_events():
            pass

    await crowd.run(fence, drive)
    assert crowd.faults(CALLS) == []


# --- whose ------------------------------------------------------------------------------------


@attrs.define
class Passport:
    user_id: str


async def test_without_a_scope_nothing_runs(anyio_backend: Any) -> None:
    called: list[int] = []

    async def call() -> None:
        called.append(1)

    clerk = clerk_with(loud(call))
    with pytest.raises(NoContextError):
        await run(clerk, "hello", run_config=QUIET)
    with pytest.raises(NoContextError):
        async with run_streamed(clerk, "hello", run_config=QUIET):
            pass
    with pytest.raises(UserError) as caught:
        await Runner.run(clerk, "hello", run_config=QUIET)
    assert isinstance(caught.value.__cause__, NoContextError)
    assert not called


@pytest.mark.parametrize("drive", WAYS)
async def test_contexts_are_compared_at_each_tool(fence: Ringfence, drive: Drive) -> None:
    """The refusal is raised as it is, and no model gets to hear of it."""
    passport, seen = Passport("user-00"), []

    async def lose_it(ctx: Wrapper) -> None:
        ctx.context.user_id = "mallory"

    async def use_it(ctx: Wrapper) -> None:
        seen.append(ctx.context.user_id)

    tools = [function_tool(lose_it), function_tool(use_it)]
    clerk = clerk_with(*tools, model=in_turn(["lose_it"], ["use_it"]))
    told = await told_of(fence, lambda: drive(clerk, passport), ContextMismatchError)
    assert not seen
    assert told == of_tool("completed", FAILED, "lose_it")


@pytest.mark.parametrize("is_delegate", [False, True])
async def test_what_is_refused_in_a_tool_is_no_answer_for_the_model(
    fence: Ringfence, is_delegate: bool
) -> None:
    async with fence.user_context("bob") as bob:

        async def steal() -> object:
            return bob.db_session

        thief = clerk_with(function_tool(steal), name="thief")
        clerk = clerk_with(thief.as_tool("ask", "Ask.")) if is_delegate else thief
        with pytest.raises(SessionIsolationError):
            async with fence.user_context("user-00"):
                await by_run(clerk, None)


class OutOfOrderError(Exception):
    """What an application makes of a refusal."""


async def test_what_the_application_makes_of_a_refusal_is_its_own(fence: Ringfence) -> None:
    async def call() -> None:
        try:
            raise OwnershipError("Not yours.", "Leave it.")
        except OwnershipError as error:
            raise OutOfOrderError from error

    clerk = clerk_with(function_tool(call))
    assert await told_of(fence, lambda: by_run(clerk, None)) == of_tool("failed", DONE)

    async def read() -> None:
        async with run_streamed(clerk_with(), "hello", run_config=QUIET):
            raise OutOfOrderError from OwnershipError("Not yours.", "Leave it.")

    await told_of(fence, read, OutOfOrderError)


async def test_what_tools_of_a_tool_are_refused_is_found_in_their_group(fence: Ringfence) -> None:
    async with fence.user_context("bob") as bob:

        async def call() -> None:
            async with task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0)
                bob.db_session.new  # noqa: B018

        clerk = clerk_with(function_tool(call))
        await told_of(fence, lambda: by_run(clerk, None), SessionIsolationError)


async def test_a_state_is_taken_up_by_nobody_else(fence: Ringfence) -> None:
    async def call() -> str:
        return current_context().user_id

    tool = loud(call, needs_approval=True)
    clerk = clerk_with(tool, model=in_turn(["call"], times=2))
    async with fence.user_context("alice"):
        paused = await run(clerk, "hello", run_config=QUIET)
        state = paused.to_state()
        state.approve(paused.interruptions[0])
    async with fence.user_context("mallory"):
        with pytest.raises(ContextMismatchError):
            await run(clerk, state, run_config=QUIET)
    async with fence.user_context("alice"):
        done = await run(clerk, state, run_config=QUIET)
    assert [item.output for item in done.new_items if item.type == "tool_call_output_item"] == [
        "alice"
    ]


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
        if each["kind"] not in ("agent_thinking", "agent_handoff")
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


async def failing() -> None:
    raise LookupError


@pytest.mark.parametrize("drive", WAYS)
async def test_a_tool_that_fails_and_the_model_is_told(fence: Ringfence, drive: Drive) -> None:
    clerk = clerk_with(function_tool(failing, name_override="call"))
    assert await told_of(fence, lambda: drive(clerk, None)) == of_tool("failed", DONE)


@pytest.mark.parametrize("drive", WAYS)
async def test_a_tool_that_fails_and_so_the_run_does(fence: Ringfence, drive: Drive) -> None:
    clerk = clerk_with(loud(failing, name_override="call"))
    assert await told_of(fence, lambda: drive(clerk, None), UserError) == of_tool("failed", FAILED)


@pytest.mark.parametrize("drive", WAYS)
async def test_a_tool_that_takes_too_long(fence: Ringfence, drive: Drive) -> None:
    async def call() -> None:
        await asyncio.sleep(10)

    clerk = clerk_with(loud(call, timeout=0.02))
    assert await told_of(fence, lambda: drive(clerk, None)) == of_tool("cancelled", DONE)
    tool = loud(call, timeout=0.02, timeout_behavior="raise_exception")
    told = await told_of(fence, lambda: drive(clerk_with(tool), None), ToolTimeoutError)
    assert told == of_tool("cancelled", FAILED)


@pytest.mark.parametrize("drive", WAYS)
async def test_too_many_turns(fence: Ringfence, drive: Drive) -> None:
    async def call() -> None:
        return

    clerk = clerk_with(loud(call))

    async def once() -> None:
        if drive is by_run:
            await run(clerk, "hello", max_turns=1, run_config=QUIET)
        async with run_streamed(clerk, "hello", max_turns=1, run_config=QUIET) as stream:
            async for _ in stream.stream_events():
                pass

    assert await told_of(fence, once, MaxTurnsExceeded) == of_tool("completed", FAILED)


@pytest.mark.parametrize("drive", WAYS)
async def test_a_model_that_fails(fence: Ringfence, drive: Drive) -> None:
    clerk = clerk_with(model=ScriptedModel([ModelStep.raise_error(ConnectionError())]))
    told = await told_of(fence, lambda: drive(clerk, None), ConnectionError)
    assert told == [("agent_started", "clerk", None), ("agent_failed", "clerk", "failed")]


def endless(left: list[str]) -> Any:
    async def call() -> None:
        current_scope().callback(left.append, "call")
        await asyncio.sleep(10)

    return loud(call)


CANCELLED = of_tool("cancelled", ("agent_failed", "cancelled"))


@pytest.mark.parametrize("drive", WAYS)
async def test_a_run_that_is_cancelled_in_a_tool(fence: Ringfence, drive: Drive) -> None:
    left: list[str] = []
    clerk = clerk_with(endless(left))
    told = await told_of(
        fence, lambda: asyncio.wait_for(drive(clerk, None), timeout=0.1), TimeoutError
    )
    assert left == ["call"]
    assert told == CANCELLED


@pytest.mark.parametrize("drive", WAYS)
async def test_the_time_out_of_a_run(fence: Ringfence, drive: Drive) -> None:
    left: list[str] = []
    clerk = clerk_with(endless(left))

    async def once() -> None:
        if drive is by_run:
            await run(clerk, "hello", timeout=0.1, run_config=QUIET)
        async with run_streamed(clerk, "hello", timeout=0.1, run_config=QUIET) as stream:
            async for _ in stream.stream_events():
                pass

    told = await told_of(fence, once, TimeoutError)
    assert left == ["call"]
    assert told[-1] == ("agent_failed", "clerk", "timed_out")


async def test_a_stream_that_is_left_early_leaves_nothing(fence: Ringfence) -> None:
    left: list[str] = []
    clerk = clerk_with(endless(left))

    async def leave() -> None:
        async with run_streamed(clerk, "hello", run_config=QUIET) as stream:
            async for event in stream.stream_events():
                if getattr(event, "name", "") == "tool_called":
                    break
            await anyio.sleep(0.05)
            assert not left
        assert left == ["call"]
        assert stream.run_loop_task is not None
        assert stream.run_loop_task.done()
        assert current_context().operation_depth == 0

    assert await told_of(fence, leave) == CANCELLED


async def test_leaving_a_stream_waits_for_its_model(fence: Ringfence) -> None:
    asked, ended = anyio.Event(), []

    async def answer(call: Any) -> Any:
        try:
            asked.set()
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.1)
            ended.append(current_context().user_id)

    clerk = clerk_with(model=ScriptedModel([ModelStep.respond(answer)]))
    async with fence.user_context("alice"):
        async with run_streamed(clerk, "hello", run_config=QUIET):
            await asked.wait()
        assert ended == ["alice"]


async def test_a_failure_that_nobody_read_is_raised(fence: Ringfence) -> None:
    clerk = clerk_with(model=ScriptedModel([ModelStep.raise_error(ConnectionError())]))

    async def look_at_the_result_alone() -> None:
        async with run_streamed(clerk, "hello", run_config=QUIET) as stream:
            await anyio.sleep(0.05)
        assert stream.final_output is None

    told = await told_of(fence, look_at_the_result_alone, ConnectionError)
    assert told == [("agent_started", "clerk", None), ("agent_failed", "clerk", "failed")]


async def test_a_stream_that_fails_in_its_block(fence: Ringfence) -> None:
    left: list[str] = []
    clerk = clerk_with(endless(left))

    async def fail() -> None:
        async with run_streamed(clerk, "hello", run_config=QUIET):
            await anyio.sleep(0.05)
            raise LookupError

    assert await told_of(fence, fail, LookupError) == of_tool("cancelled", FAILED)
    assert left == ["call"]


async def test_a_failure_that_was_dealt_with_in_the_block_is_told_and_not_raised(
    fence: Ringfence,
) -> None:
    clerk = clerk_with(loud(failing, name_override="call"))

    async def deal_with_it() -> None:
        async with run_streamed(clerk, "hello", run_config=QUIET) as stream:
            with pytest.raises(UserError):
                async for _ in stream.stream_events():
                    pass

    assert await told_of(fence, deal_with_it) == of_tool("failed", FAILED)


@pytest.mark.parametrize("cancels", [0, 1, 3])
@pytest.mark.parametrize("drive", WAYS)
async def test_the_clean_up_of_tools_is_waited_for(
    fence: Ringfence, drive: Drive, cancels: int
) -> None:
    """Which the SDK itself does not, and whatever cancels the task that waits."""
    at_work, ended = anyio.Event(), []

    async def call() -> None:
        try:
            at_work.set()
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.1)
            await current_context().db_session.scalar(text("SELECT 1"))
            ended.append(current_context().user_id)

    clerk = clerk_with(loud(call))

    async def leave() -> None:
        if drive is by_run:
            with anyio.CancelScope() as here:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(by_run, clerk, None)
                    await at_work.wait()
                    here.cancel()
        else:
            async with run_streamed(clerk, "hello", run_config=QUIET):
                await at_work.wait()

    async def drive_it() -> None:
        task = asyncio.ensure_future(leave())
        await at_work.wait()
        await asyncio.sleep(0.02)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError) if cancels else contextlib.nullcontext():
            await task
        assert ended == ["user-00"]

    assert await told_of(fence, drive_it) == CANCELLED


async def test_the_clean_up_of_a_delegates_tools_is_waited_for(fence: Ringfence) -> None:
    at_work, ended = anyio.Event(), []

    async def call() -> None:
        try:
            at_work.set()
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.1)
            ended.append(current_context().user_id)

    inner = clerk_with(loud(call), name="inner")
    clerk = clerk_with(inner.as_tool("ask", "Ask."))

    async def leave() -> None:
        async with run_streamed(clerk, "hello", run_config=QUIET):
            await at_work.wait()
        assert ended == ["user-00"]

    told = await told_of(fence, leave)
    assert {outcome for _, _, outcome in told[4:]} == {"cancelled"}


async def test_what_outlives_its_scope_is_refused(fence: Ringfence) -> None:
    """Nobody holds the loop of `Runner.run_streamed`: what it still wants to do is refused."""
    called: list[int] = []
    closed = anyio.Event()

    async def wait() -> None:
        await closed.wait()

    async def call() -> None:
        called.append(1)

    clerk = clerk_with(loud(wait), loud(call), model=in_turn(["wait"], ["call"]))
    async with fence.user_context("alice"):
        stream = Runner.run_streamed(clerk, "hello", run_config=QUIET)
        await anyio.sleep(0.05)
    closed.set()
    with pytest.raises(UserError) as caught:
        async for _ in stream.stream_events():
            pass
    assert isinstance(caught.value.__cause__, ContextClosedError)
    assert not called


async def test_a_stream_does_not_carry_its_scope_out_of_a_generator(fence: Ringfence) -> None:
    clerk = clerk_with(model=in_turn(times=2))

    async def events() -> AsyncIterator[Any]:
        async with run_streamed(clerk, "hello", run_config=QUIET) as stream:
            async for event in stream.stream_events():
                yield event

    async with fence.user_context("alice"):
        with pytest.raises(ScopeInGeneratorError):
            async for _ in events():
                pass
        async with bound_stream(events()) as stream:
            depths = {current_context().operation_depth async for _ in stream}
    assert depths == {0}


async def test_the_end_says_what_was_used(fence: Ringfence) -> None:
    crowd = Crowd.of(1)
    usage = Usage(requests=1, input_tokens=7, output_tokens=3, total_tokens=10)

    async def call() -> None:
        return

    inner = clerk_with(loud(call), name="inner", model=in_turn(["call"], usage=usage))
    ask = inner.as_tool("ask", "Ask.")
    clerk = clerk_with(ask, model=in_turn(["ask"], usage=usage))
    await crowd.run(fence, lambda: by_run(clerk, None))
    (end,) = (
        each["data"]
        for each in crowd.told["user-00"]
        if each["kind"] == "agent_completed" and each["depth"] == 1
    )
    assert (end["requests"], end["input_tokens"], end["output_tokens"]) == (4, 28, 12)


# --- sessions ---------------------------------------------------------------------------------


async def test_what_a_tool_writes_is_kept_if_it_succeeds(fence: Ringfence) -> None:
    sessions: list[Any] = []

    async def write(body: str) -> None:
        session = current_context().db_session
        sessions.append(session)
        await session.execute(text("INSERT INTO note (body) VALUES (:body)"), {"body": body})

    async def keep() -> None:
        await write("of a tool that did not")

    async def fail() -> None:
        await write("of a tool that failed")
        raise LookupError

    clerk = clerk_with(function_tool(keep), function_tool(fail), model=in_turn(["keep"], ["fail"]))
    async with fence.user_context("alice") as ctx:
        await by_run(clerk, None)
        bodies = await ctx.db_session.scalars(text("SELECT body FROM note ORDER BY id"))
        assert bodies.all() == ["one", "two", "of a tool that did not"]
        assert len({id(session) for session in [*sessions, ctx.db_session]}) == 3
    for session in sessions:
        with pytest.raises((SessionIsolationError, OwnershipError, ContextClosedError)):
            await session.scalar(text("SELECT 1"))


# --- plain agents -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["itself", "handoff", "handoff of a handoff", "tool", "made up"])
async def test_a_plain_agent_is_refused(fence: Ringfence, how: str) -> None:
    called: list[int] = []

    async def call() -> None:
        called.append(1)

    plain = Agent(name="plain", model=in_turn(["call"]), tools=[loud(call)])
    clerk: Any = clerk_with(model=in_turn(["transfer_to_plain"]))
    if how == "itself":
        clerk = plain
    elif how == "handoff":
        clerk.handoffs.append(plain)
    elif how == "handoff of a handoff":
        clerk.handoffs.append(clerk_with(name="other", handoffs=[handoff(plain)]))
    elif how == "tool":
        clerk.tools.append(plain.as_tool("ask", "Ask."))
    else:  # it is seen when it is handed to
        made_up = handoff(plain)
        made_up._agent_ref = None
        clerk.handoffs.append(made_up)
    async with fence.user_context("alice"):
        with pytest.raises(ConfigurationError, match="`plain` is no `UserAgent`"):
            await by_run(clerk, None)
        if how not in ("itself", "made up"):
            with pytest.raises(ConfigurationError, match="`plain` is no `UserAgent`"):
                await Runner.run(clerk, "hello", run_config=QUIET)
    assert not called


async def test_agents_that_hand_off_to_each_other(fence: Ringfence) -> None:
    one, other = clerk_with(name="one"), clerk_with(name="other")
    one.handoffs.append(other)
    other.handoffs.append(one)
    async with fence.user_context("alice"):
        assert await by_run(one, None) == "done"


# --- hooks ------------------------------------------------------------------------------------


def noting(base: Any, heard: list[str]) -> Any:
    """Hooks that note which of them were called."""

    def method(name: str) -> Any:
        async def note(self: Any, *args: Any, **kwargs: Any) -> None:
            heard.append(name)

        return note

    names = [name for name in vars(base) if name.startswith("on_")]
    return type("Noting", (base,), {name: method(name) for name in names})()


async def test_hooks_of_the_application_are_called(fence: Ringfence) -> None:
    of_run: list[str] = []
    of_agent: list[str] = []
    of_tool: list[str] = []
    crowd = Crowd.of(1)
    clerk: Any = desk(crowd)
    clerk.hooks = noting(AgentHooksBase, of_agent)
    (ask,) = (tool for tool in clerk.tools if tool.name == "ask")
    inner = ask._agent_instance
    clerk.tools[clerk.tools.index(ask)] = inner.as_tool(
        "ask", "Ask.", hooks=noting(RunHooksBase, of_tool)
    )
    hooks = noting(RunHooksBase, of_run)
    await crowd.run(fence, lambda: run(clerk, "hello", hooks=hooks, run_config=QUIET))
    assert not crowd.raised
    assert set(of_run) == {name for name in vars(RunHooksBase) if name.startswith("on_")}
    assert {"on_start", "on_tool_start", "on_tool_end"} <= set(of_agent)
    assert {"on_llm_start", "on_tool_end"} <= set(of_tool)


async def test_every_hook_is_passed_on(anyio_backend: Any) -> None:
    hooks = [name for name in vars(RunHooksBase) if name.startswith("on_")]
    assert hooks
    for name in hooks:
        ours = inspect.signature(getattr(Observer, name)).parameters
        assert list(ours) == list(inspect.signature(getattr(RunHooksBase, name)).parameters)
        assert name in vars(Observer)


async def test_what_are_no_hooks_are_refused(fence: Ringfence) -> None:
    async with fence.user_context("alice"):
        with pytest.raises(TypeError, match="RunHooks"):
            await run(clerk_with(), "hello", hooks=AgentHooks())  # type: ignore[arg-type]


# --- what the SDK does with tools -------------------------------------------------------------


async def test_a_copy_of_a_guarded_tool_is_guarded(fence: Ringfence) -> None:
    async def call() -> str:
        return str(current_context().operation_depth)

    clerk = clerk_with(function_tool(call))
    (tool,) = await clerk.get_all_tools(RunContextWrapper(None))
    assert tool is not clerk.tools[0]
    assert clerk.tools[0].__wrapped__ is call  # type: ignore[union-attr]
    for copied in (copy.copy(tool), dataclasses.replace(tool)):  # type: ignore[type-var]
        plain = Agent(name="plain", model=in_turn(["call"]), tools=[copied])
        async with fence.user_context("alice"):
            done = await Runner.run(plain, "hello", run_config=QUIET)
        outputs = [i.output for i in done.new_items if i.type == "tool_call_output_item"]
        assert outputs == ["1"]


async def test_a_tool_is_guarded_once(fence: Ringfence) -> None:
    async def call() -> str:
        return str(current_context().operation_depth)

    async def by_hand(ctx: Any, arguments: str) -> str:
        return await call()

    made = FunctionTool("call", "Call.", {"type": "object", "properties": {}}, by_hand)
    for first in (function_tool(call), made):
        clerk = clerk_with(first)
        (tool,) = await clerk.get_all_tools(RunContextWrapper(None))
        again = clerk_with(tool, model=in_turn(["call"]))
        async with fence.user_context("alice"):
            done = await Runner.run(again, "hello", run_config=QUIET)
        outputs = [i.output for i in done.new_items if i.type == "tool_call_output_item"]
        assert outputs == ["1"]


async def test_who_must_be_asked_before_a_tool_runs_is_asked(fence: Ringfence) -> None:
    """Arguments that validation changes are never approved by a policy, guarded or not."""
    asked, called = [], []

    async def is_dangerous(ctx: Any, arguments: Any, call_id: str) -> bool:
        asked.append(arguments)
        return False

    async def call(count: int = 3) -> None:
        called.append(count)

    def model() -> ScriptedModel:
        step = [function_call("call", {"count": "4"}, call_id="call")]
        return ScriptedModel([step, [assistant_message("done")]])

    paused = []
    for kind in (Agent, UserAgent):
        tool = loud(call, needs_approval=is_dangerous, strict_mode=False)
        agent: Any = kind(name="clerk", model=model(), tools=[tool])
        async with fence.user_context("alice"):
            done = await Runner.run(agent, "hello", run_config=QUIET)
        paused.append(len(done.interruptions))
    assert paused == [1, 1]
    assert not called


async def test_tools_that_are_made_by_hand(fence: Ringfence) -> None:
    seen: list[Any] = []

    async def narrow(ctx: RunContextWrapper[Any], arguments: str) -> str:
        seen.append((type(ctx), current_context().operation_depth))
        return "done"

    tool = FunctionTool("call", "Call.", {"type": "object", "properties": {}}, narrow)
    async with fence.user_context("alice"):
        assert await by_run(clerk_with(tool), None) == "done"
    assert seen == [(RunContextWrapper, 2)]


async def test_custom_tools_are_guarded(fence: Ringfence) -> None:
    seen = []

    async def invoke(ctx: Any, text: str) -> str:
        seen.append(current_context().operation_depth)
        return text

    clerk = clerk_with(CustomTool("call", "Call.", invoke))
    async with fence.user_context("alice"):
        (tool,) = await clerk.get_all_tools(RunContextWrapper(None))
        assert isinstance(tool, CustomTool)
        assert await tool.on_invoke_tool(RunContextWrapper(None), "x") == "x"  # type: ignore[arg-type,misc]
    assert seen == [1]


async def test_it_needs_no_hub(anyio_backend: Any) -> None:
    crowd = Crowd.of(1)

    async def call() -> str:
        return str(current_context().operation_depth)

    other = clerk_with(loud(call), name="other")
    clerk = clerk_with(model=in_turn(["transfer_to_other"]), handoffs=[other])
    async with user_context("alice"):
        done = await run(clerk, "hello", run_config=QUIET)
    outputs = [i.output for i in done.new_items if i.type == "tool_call_output_item"]
    assert outputs == ["2"]
    assert crowd.calls == []


def imported(before: str, module: str) -> str:
    """What importing a module says in a new interpreter, after something was done to it."""
    program = f"{before}\nimport ringfence.integrations.{module}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50
    )
    assert done.returncode
    return done.stderr.splitlines()[-1]


async def test_what_is_missing_is_named(anyio_backend: Any) -> None:
    gone = "import sys; sys.modules['{}'] = None"
    assert imported(gone.format("agents"), "openai_agents").endswith(
        'Install it with `pip install "ringfence[openai-agents]"`.'
    )
    assert imported(gone.format("pydantic_ai"), "pydantic_ai").endswith(
        'Install it with `pip install "ringfence[pydantic-ai]"`.'
    )


async def test_a_release_that_calls_tools_otherwise_is_refused(anyio_backend: Any) -> None:
    other = "import agents.tool; del agents.tool._FailureHandlingFunctionToolInvoker"
    assert "in a way that is not known here" in imported(other, "openai_agents")
