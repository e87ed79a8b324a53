"""`agent_run` and `tool_call`: a child context, told from its beginning to its one end."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextLimitError,
    InvalidContextError,
    NoContextError,
    Ringfence,
    ScopeInGeneratorError,
    Settings,
    child_context,
    current_context,
    current_scope,
    user_context,
)
from ringfence.agents import agent_run, thinking, tool_call
from ringfence.events import EventHub, MemoryLog

from .hearing import hearing, hub_of, outcomes, told


@pytest.fixture
def fence() -> Ringfence:
    return Ringfence(events=EventHub())


async def test_a_run_is_a_child_context_and_a_tool_beneath_it_too(fence: Ringfence) -> None:
    async with fence.user_context("ann") as ctx:
        async with agent_run("triage", thread_id="t-7", run_id="r-7") as run:
            assert run.context is current_context()
            assert (run.context.thread_id, run.context.run_id) == ("t-7", "r-7")
            assert run.context.parent_request_id == ctx.request_id
            async with tool_call("search") as call:
                assert call.context.operation_depth == 2
                assert call.context.parent_request_id == run.context.request_id
        assert current_context() is ctx


async def test_what_is_told(fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        async with agent_run("triage", step=1) as run:
            await thinking(name="model")
            async with tool_call("search", call_id="c-1") as call:
                call.data["found"] = 3
            run.data["tokens"] = 12
    kinds = [document["kind"] for document in found]
    assert kinds == [
        "agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"
    ]  # fmt: skip
    assert found[0]["data"] == {"name": "triage", "step": 1}
    assert found[2]["data"] == {"name": "search", "call_id": "c-1"}
    assert (found[3]["data"]["found"], found[4]["data"]["tokens"]) == (3, 12)
    assert found[1]["request_id"] == found[0]["request_id"]


@pytest.mark.parametrize("has_fence", [False, True])
async def test_without_a_hub_it_is_the_context_alone(has_fence: bool) -> None:
    block = Ringfence().user_context("ann") if has_fence else user_context("ann")
    async with block:
        async with agent_run("triage", step=1) as run, tool_call("search"):
            run.data["tokens"] = 12
            await thinking()
            assert current_context().operation_depth == 2


async def test_nobody_has_no_runs(fence: Ringfence) -> None:
    for block in (agent_run("triage"), tool_call("search")):
        with pytest.raises(NoContextError):
            async with block:
                pass
    with pytest.raises(NoContextError):
        await thinking()
    async with fence.nobody():
        with pytest.raises(NoContextError):
            async with agent_run("triage"):
                pass


async def test_a_time_out_is_its_own_or_one_above(fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(TimeoutError):
            async with agent_run("triage", timeout=0.02), tool_call("search", timeout=10):
                await anyio.sleep(10)
    assert outcomes(found) == {"triage": "timed_out", "search": "timed_out"}


@pytest.mark.parametrize("has_hub", [True, False])
async def test_a_refused_beginning_leaves_nothing_open(fence: Ringfence, has_hub: bool) -> None:
    found: list[Any] = []
    async with fence.user_context("ann") if has_hub else user_context("ann") as ctx:
        for name in ("", " "):
            with pytest.raises(InvalidContextError):
                async with agent_run(name):
                    found.append(name)
        if has_hub:
            with pytest.raises(InvalidContextError):
                async with agent_run("triage", lock=object()):
                    found.append("lock")
        assert not found
        assert current_context() is ctx
        assert current_scope().children == ()


async def test_as_deep_as_the_settings_allow() -> None:
    fence = Ringfence(settings=Settings(max_depth=2), events=EventHub())
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(ContextLimitError):
            async with agent_run("a"), agent_run("b"), agent_run("c"):
                raise AssertionError("never reached")
    assert outcomes(found) == {"a": "failed", "b": "failed"}


async def test_the_end_of_what_is_above_is_its_end(fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        async with anyio.create_task_group() as tasks:
            begun, over = anyio.Event(), anyio.Event()

            async def orphan() -> None:
                with pytest.raises(ContextClosedError):
                    async with agent_run("triage"), tool_call("search"):
                        begun.set()
                        await over.wait()
                        current_context()

            async with child_context("chat"):
                tasks.start_soon(orphan)
                await begun.wait()
            over.set()
    assert outcomes(found) == {"triage": "closed", "search": "closed"}


@pytest.mark.parametrize("make", [agent_run, tool_call])
@pytest.mark.parametrize("has_hub", [True, False])
async def test_it_cannot_stand_in_a_generator(fence: Ringfence, make: Any, has_hub: bool) -> None:
    async def steps() -> AsyncGenerator[int]:
        async with make("triage"):
            yield 1

    async def with_a_stack() -> AsyncGenerator[int]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(make("triage"))
            yield 1

    async with fence.user_context("ann") if has_hub else user_context("ann"):
        for generator in (steps(), with_a_stack()):
            with pytest.raises(ScopeInGeneratorError):
                await anext(generator)


async def test_contextlib_may_keep_it(fence: Ringfence) -> None:
    @contextlib.asynccontextmanager
    async def step() -> AsyncIterator[int]:
        async with agent_run("triage"):
            yield 1

    async with fence.user_context("ann"), contextlib.AsyncExitStack() as stack:
        async with step():
            assert current_context().operation_depth == 1
        await stack.enter_async_context(agent_run("triage"))
        assert current_context().operation_depth == 1


async def test_a_block_is_entered_once(fence: Ringfence) -> None:
    async with fence.user_context("ann"):
        block = agent_run("triage")
        async with block:
            with pytest.raises(ConfigurationError, match="entered already"):
                await block.__aenter__()


async def test_errors_name_where_it_was_opened(fence: Ringfence) -> None:
    async with fence.user_context("ann"):
        async with agent_run("triage"):
            scope = current_scope()
            assert "test_runs.py" in scope.opened_at
            assert "test_errors_name_where_it_was_opened" in scope.opened_at
    with pytest.raises(ContextClosedError, match="in test_errors_name_where_it_was_opened"):
        scope.context  # noqa: B018


class BrokenLog(MemoryLog):
    breaks_at = 0

    async def append(self, *args: Any) -> Any:
        self.breaks_at -= 1
        if not self.breaks_at:
            raise ConnectionError("the log is away")
        return await super().append(*args)


async def test_a_log_that_is_away_leaves_no_scope_open() -> None:
    """At the beginning and at the end; the error may be raised or noted, but the scope ends."""
    for place in (1, 2):
        log = BrokenLog()
        async with Ringfence(events=EventHub(log)).user_context("ann") as ctx:
            log.breaks_at = place
            with contextlib.suppress(ConnectionError):
                async with agent_run("triage"):
                    pass
            assert current_context() is ctx
            assert current_scope().children == ()


async def test_a_block_that_ended_is_freed(fence: Ringfence) -> None:
    class Held:
        pass

    async def once() -> weakref.ref[Held]:
        held = Held()  # a frame that is kept would keep it
        async with agent_run("triage", budget={"tokens": 3}):
            return weakref.ref(held)

    async with fence.user_context("ann"):
        gone = await once()
    gc.collect()
    assert gone() is None


async def test_told_names_what_ran(fence: Ringfence) -> None:
    """The helper itself: an order of beginnings and ends that nests."""
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        async with agent_run("a"), tool_call("b"):
            pass
    assert told(found) == [
        ("agent_started", "a", None),
        ("tool_executing", "b", None),
        ("tool_completed", "b", "completed"),
        ("agent_completed", "a", "completed"),
    ]
