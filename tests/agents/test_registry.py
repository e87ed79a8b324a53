"""AgentRegistry: agents by name, run within limits, each run recorded."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from ringfence import (
    AgentCancelledError,
    AgentLimitError,
    ConfigurationError,
    ContextClosedError,
    ContextLimitError,
    InvalidContextError,
    MissingProviderError,
    NoContextError,
    Ringfence,
    UnknownAgentError,
    UnknownRunError,
    child_context,
    current_context,
    current_scope,
    nobody,
    task_group,
    user_context,
)
from ringfence.agents import AgentRegistry, RunRecord, agent_run, left, spend
from ringfence.events import EventHub
from ringfence.injection import Container, Injected, Lifetime

from .hearing import hearing, hub_of, outcomes


@pytest.fixture
def fence() -> Ringfence:
    return Ringfence(events=EventHub())


@pytest.fixture
def registry() -> AgentRegistry:
    registry = AgentRegistry()

    @registry.agent("echo")
    async def echo(said: Any = None) -> Any:
        return said

    @registry.agent("sleep")
    async def sleep(seconds: float = 10) -> None:
        await anyio.sleep(seconds)

    @registry.agent("fail")
    async def fail(error: BaseException) -> None:
        raise error

    @registry.agent("nest")
    async def nest(levels: int, then: str, *args: Any) -> Any:
        if levels:
            return await registry.run("nest", levels - 1, then, *args)
        return await registry.run(then, *args)

    return registry


class Greeter:
    """An agent with a state, which is of one run."""

    def __init__(self) -> None:
        self.greeted: list[str] = []

    async def run(self, name: str, *, loudly: bool = False) -> list[str]:
        self.greeted.append(name.upper() if loudly else name)
        return self.greeted


class Pool:
    def __init__(self) -> None:
        self.owner = current_context().operation_depth


class Asker:
    def __init__(self, pool: Injected[Pool], prefix: str = "at ") -> None:
        self.pool = pool
        self.prefix = prefix

    async def run(self, other: Injected[Pool], word: str) -> tuple[str, bool]:
        return f"{self.prefix}{self.pool.owner} {word}", other is self.pool


async def started(registry: AgentRegistry, *, count: int = 1) -> tuple[RunRecord, ...]:
    with anyio.fail_after(5):
        while len(registry.running()) < count:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    return registry.running()


# --- registering ------------------------------------------------------------------------------


async def test_a_function_is_an_agent(registry: AgentRegistry, fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann") as ctx:
        assert await registry.run("echo", "hello") == "hello"
        assert current_context() is ctx
    assert outcomes(found) == {"echo": "completed"}


async def test_register_and_agent_return_what_they_were_given() -> None:
    registry = AgentRegistry()

    async def one() -> int:
        return 1

    class Callable_:
        async def __call__(self, more: int) -> int:
            return 3 + more

    assert registry.register("one", one) is one
    assert registry.agent("two")(one) is one
    assert registry.agent("three", one) is one
    registry.register("called", Callable_())
    registry.register("partial", functools.partial(Callable_(), 4))
    assert registry.names == ("called", "one", "partial", "three", "two")
    async with user_context("ann"):
        assert await registry.run("one") == 1
        assert await registry.run("called", 2) == 5
        assert await registry.run("partial") == 7


async def test_a_class_is_made_anew_for_each_run() -> None:
    registry = AgentRegistry()
    assert registry.register("greeter", Greeter) is Greeter
    async with user_context("ann"):
        assert await registry.run("greeter", "bob") == ["bob"]
        assert await registry.run("greeter", "eve", loudly=True) == ["EVE"]


def plain() -> None: ...


async def steps() -> AsyncIterator[int]:
    yield 1


def plain_steps() -> Iterator[int]:
    yield 1


async def late(timeout: float) -> None: ...


class NoRun: ...


class PlainRun:
    def run(self) -> None: ...


class StaticRun:
    @staticmethod
    async def run() -> None: ...


class ValueRun:
    run = 3


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (None, "is no agent"),
        ("triage", "is no agent"),
        (plain, "is not async"),
        (lambda: None, "is not async"),
        (steps, "is a generator"),
        (plain_steps, "is a generator"),
        (late, "takes `timeout`"),
        (NoRun, "no method `run`"),
        (ValueRun, "no method `run`"),
        (StaticRun, "no method `run`"),
        (PlainRun, "is not async"),
    ],
)
async def test_what_is_no_agent(target: Any, said: str) -> None:
    registry = AgentRegistry()
    with pytest.raises(ConfigurationError, match=said):
        registry.register("triage", target)
    with pytest.raises(ConfigurationError, match=said):
        registry.agent("triage", target) if target is not None else registry.register("x", target)
    assert registry.names == ()


@pytest.mark.parametrize("name", ["", "  ", None, 3])
async def test_a_name_is_not_blank(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be called"):
        AgentRegistry().register(name, steps)


async def test_a_name_is_given_once(registry: AgentRegistry) -> None:
    with pytest.raises(ConfigurationError, match="an agent `echo` already"):
        registry.register("echo", Greeter)


@pytest.mark.parametrize(
    "limit",
    [
        {"max_running": 0}, {"max_running_per_user": 0}, {"queue_timeout": -1}, {"max_depth": 0},
        {"max_recent": 0}, {"max_recent_per_user": -1}, {"max_result_bytes": -1},
        {"recent_timeout": 0}, {"send_timeout": 0},
    ],
)  # fmt: skip
async def test_limits_make_sense(limit: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        AgentRegistry(**limit)


# --- dependencies -----------------------------------------------------------------------------


def with_a_container(lifetime: Lifetime) -> Ringfence:
    container = Container()
    container.provide(Pool, lifetime=lifetime)
    return Ringfence(services=container)


async def test_what_is_injected_is_of_the_run() -> None:
    registry = AgentRegistry()
    registry.register("asker", Asker)

    @registry.agent("function")
    async def function(word: str, pool: Injected[Pool]) -> str:
        return f"{word} {pool.owner}"

    async with with_a_container(Lifetime.OPERATION).user_context("ann"):
        assert await registry.run("asker", "hello") == ("at 1 hello", True)
        assert await registry.run("function", "hello") == "hello 1"
        async with child_context("deeper"):
            assert await registry.run("function", word="hello") == "hello 2"


async def test_a_class_comes_from_the_container_if_that_provides_it() -> None:
    class Loud(Greeter):
        async def run(self, name: str, pool: Injected[Pool], *, loudly: bool = False) -> list[str]:
            return [f"{name}!", str(pool.owner)]

    container = Container()
    container.provide(Greeter, lifetime=Lifetime.REQUEST)
    container.provide(Pool, lifetime=Lifetime.OPERATION)
    registry = AgentRegistry()
    registry.register("greeter", Greeter)
    async with Ringfence(services=container).user_context("ann"):
        assert await registry.run("greeter", "bob") == ["bob"]
        assert await registry.run("greeter", "eve") == ["bob", "eve"]  # as long as it says
        with container.override(Greeter, Loud()):
            assert await registry.run("greeter", "bob") == ["bob!", "1"]


async def test_what_cannot_be_made_says_what_is_missing(fence: Ringfence) -> None:
    class Needy:
        def __init__(self, key: str) -> None: ...

        async def run(self) -> None: ...

    registry = AgentRegistry()
    registry.register("needy", Needy)
    registry.register("asker", Asker)
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(ConfigurationError, match="missing a required argument: 'key'"):
            await registry.run("needy")
        with pytest.raises(ConfigurationError, match="no container"):
            await registry.run("asker", "x")
    assert outcomes(found) == {"needy": "failed", "asker": "failed"}
    async with Ringfence(services=Container()).user_context("ann"):
        with pytest.raises(MissingProviderError):
            await registry.run("asker", "x")


# --- running ----------------------------------------------------------------------------------


async def test_a_run_is_a_child_context(registry: AgentRegistry, fence: Ringfence) -> None:
    seen: list[Any] = []

    @registry.agent("look")
    async def look() -> None:
        (record,) = registry.running()
        seen.extend([current_context(), record])

    async with fence.user_context("ann") as ctx:
        await registry.run("look")
        (after,) = registry.recent()
    inside, record = seen
    assert (inside.operation_depth, inside.parent_request_id) == (1, ctx.request_id)
    assert inside.user_id == "ann"
    assert (record.name, record.state, record.seconds) == ("look", "running", None)
    assert (record.request_id, record.parent_request_id, record.depth) == (
        inside.request_id, ctx.request_id, 1
    )  # fmt: skip
    assert after.request_id == record.request_id
    assert after.started == record.started
    assert (after.state, after.error) == ("completed", None)
    assert after.seconds is not None
    assert after.seconds >= 0


async def test_a_run_can_be_cancelled_as_soon_as_it_is_told_of(
    registry: AgentRegistry, fence: Ringfence
) -> None:
    hub = hub_of(fence)
    async with fence.user_context("ann"), hub.subscribe() as events:
        async with task_group() as tasks:

            async def run() -> None:
                with pytest.raises(AgentCancelledError):
                    await registry.run("sleep")

            tasks.start_soon(run)
            event: Any = await anext(events)
            assert event.kind == "agent_started"
            registry.cancel(event.document["request_id"])


async def test_unknown_agents(registry: AgentRegistry, fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        for name in ("nobody", "", "x" * 10**6, None, ["echo"]):
            with pytest.raises(UnknownAgentError) as caught:
                await registry.run(name)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 200
    assert found == []


async def test_without_a_user_nothing_runs(registry: AgentRegistry) -> None:
    for ask in (registry.running, registry.recent, functools.partial(registry.cancel, "r-1")):
        with pytest.raises(NoContextError):
            ask()
    with pytest.raises(NoContextError):
        await registry.run("echo")
    async with nobody():
        with pytest.raises(NoContextError):
            await registry.run("echo")
        with pytest.raises(NoContextError):
            registry.running()


async def test_wrong_arguments(registry: AgentRegistry, fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(TypeError):
            await registry.run("echo", 1, 2, 3)
        with pytest.raises(InvalidContextError):
            await registry.run("echo", timeout=-1)
        with pytest.raises(InvalidContextError):
            await registry.run("echo", budget={"tokens": -1})
        assert registry.running() == registry.recent() == ()
        assert registry.load() == {}
    assert found == []


async def test_limits_are_handed_down(registry: AgentRegistry) -> None:
    @registry.agent("look")
    async def look() -> Any:
        spend(tokens=3)
        return left()

    async with user_context("ann"):
        seen = await registry.run("look", timeout=30, budget={"tokens": 10}, depth=4)
        assert (seen.depth, dict(seen.budget)) == (4, {"tokens": 7})
        assert 0 < seen.seconds <= 30
        async with agent_run("above", depth=1, budget={"tokens": 2}):
            with pytest.raises(AgentLimitError):
                await registry.run("look")
            with pytest.raises(AgentLimitError):
                await registry.run("nest", 0, "echo")


# --- endings ----------------------------------------------------------------------------------


async def test_each_ending_is_told_and_recorded(registry: AgentRegistry, fence: Ringfence) -> None:
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        await registry.run("echo", {"answer": 42})
        with pytest.raises(LookupError):
            await registry.run("fail", LookupError("secret"))
        with pytest.raises(ContextLimitError):
            await registry.run("nest", 20, "echo")
        with pytest.raises(TimeoutError):
            await registry.run("sleep", timeout=0.01)
        with anyio.move_on_after(0.01):
            await registry.run("sleep")
        recent = registry.recent()
        assert registry.running() == ()
    assert [(r.name, r.state, r.error) for r in recent if r.name != "nest"] == [
        ("sleep", "cancelled", None),
        ("sleep", "timed_out", None),
        ("fail", "failed", "LookupError"),
        ("echo", "completed", None),
    ]
    nested = [r for r in recent if r.name == "nest"]
    assert len(nested) == 10
    assert {(r.state, r.error) for r in nested} == {("failed", "RF703")}
    assert [r.result for r in recent if r.name == "echo"] == [{"answer": 42}]
    assert "secret" not in repr(recent) + repr(found)
    outcomes(found)
    told = [d["data"]["outcome"] for d in found if "outcome" in d["data"]]
    assert sorted(told) == sorted(r.state for r in recent)


async def test_a_cancelled_run_is_an_error_to_whoever_waits(
    registry: AgentRegistry, fence: Ringfence
) -> None:
    ends: list[Any] = []

    @registry.agent("careful")
    async def careful() -> None:
        current_scope().callback(ends.append, "finalised")
        try:
            await anyio.sleep(10)
        finally:
            ends.append("left")

    async def run() -> None:
        try:
            await registry.run("careful")
        except AgentCancelledError as error:
            ends.append(error.request_id)
        await anyio.sleep(0.01)  # the caller's own task goes on
        ends.append("went on")

    async with hearing(hub_of(fence)) as found:
        async with fence.user_context("ann"), task_group() as tasks:
            tasks.start_soon(run)
            (record,) = await started(registry)
            async with fence.user_context("ann"):  # another request of the same user
                (seen,) = registry.running()
                assert seen == record
                registry.cancel(record.request_id)
                (seen,) = registry.running()
                assert seen.state == "cancelling"
                registry.cancel(record.request_id)
    assert ends == ["left", "finalised", record.request_id, "went on"]
    assert outcomes(found) == {"careful": "cancelled"}
    async with fence.user_context("ann"):
        (after,) = registry.recent()
        assert after.state == "cancelled"
        with pytest.raises(UnknownRunError):
            registry.cancel(record.request_id)


async def test_what_is_beneath_a_cancelled_run_is_cancelled(
    registry: AgentRegistry, fence: Ringfence
) -> None:
    @registry.agent("fan")
    async def fan() -> None:
        async with task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(registry.run, "sleep")

    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        async with task_group() as tasks:

            async def run() -> None:
                with pytest.raises(AgentCancelledError):
                    await registry.run("fan")

            tasks.start_soon(run)
            running = await started(registry, count=4)
            registry.cancel(running[0].request_id)
        states = [(r.name, r.state) for r in registry.recent()]
    assert sorted(states) == [("fan", "cancelled")] + [("sleep", "cancelled")] * 3
    outcomes(found)


async def test_a_sub_run_that_is_cancelled_leaves_the_run_above(
    registry: AgentRegistry, fence: Ringfence
) -> None:
    @registry.agent("patient")
    async def patient() -> str:
        try:
            await registry.run("sleep")
        except AgentCancelledError:
            return "without it"
        return "with it"

    got: list[str] = []
    async with fence.user_context("ann"), task_group() as tasks:

        async def run() -> None:
            got.append(await registry.run("patient"))

        tasks.start_soon(run)
        running = await started(registry, count=2)
        registry.cancel(running[1].request_id)
    assert got == ["without it"]


async def test_a_run_may_cancel_itself(registry: AgentRegistry) -> None:
    @registry.agent("enough")
    async def enough() -> None:
        registry.cancel(current_context().request_id)
        await anyio.sleep(10)

    async with user_context("ann"):
        with pytest.raises(AgentCancelledError):
            await registry.run("enough")


async def test_an_agent_that_does_not_mind_completes(registry: AgentRegistry) -> None:
    @registry.agent("deaf")
    async def deaf() -> str:
        registry.cancel(current_context().request_id)
        return "done"

    async with user_context("ann"):
        assert await registry.run("deaf") == "done"
        assert registry.recent()[0].state == "completed"
        await anyio.sleep(0)  # no cancellation is left over


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_of_the_task_stays_one(registry: AgentRegistry) -> None:
    """Also when its user cancels the run in the same moment."""
    for cancels_too in (False, True):
        async with user_context("ann"):
            task = asyncio.create_task(registry.run("sleep"))
            (record,) = await started(registry)
            task.cancel()
            if cancels_too:
                registry.cancel(record.request_id)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert registry.recent()[0].state == "cancelled"


async def test_the_end_of_what_is_above_ends_the_run(
    registry: AgentRegistry, fence: Ringfence
) -> None:
    """Nothing could come of it: its context is refused. So its task is not left to run on."""
    ended: list[type[Exception]] = []

    async def orphan() -> None:
        try:
            await registry.run("sleep", 30)
        except ContextClosedError as error:
            ended.append(type(error))

    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                async with child_context("chat"):
                    tasks.start_soon(orphan)
                    await started(registry)
        assert ended == [ContextClosedError]
        assert registry.running() == ()
        assert [r.state for r in registry.recent()] == ["closed"]
    assert outcomes(found) == {"sleep": "closed"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_detached_runs_outlive_their_request(registry: AgentRegistry) -> None:
    fence = Ringfence(events=EventHub())
    async with fence:
        async with hearing(hub_of(fence)) as found:
            async with fence.user_context("ann"):
                work = fence.detach(registry.run, "sleep")
            async with fence.user_context("ann"):
                (record,) = await started(registry)
                assert record.parent_request_id == work.request_id
                registry.cancel(record.request_id)
            with pytest.raises(AgentCancelledError):
                await work.wait()
        assert outcomes(found) == {"sleep": "cancelled"}


# --- limits -----------------------------------------------------------------------------------


async def test_deeper_than_the_registry_allows(fence: Ringfence) -> None:
    registry = AgentRegistry(max_depth=3)

    @registry.agent("down")
    async def down() -> None:
        await registry.run("down")

    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(AgentLimitError) as caught:
            await registry.run("down")
        assert caught.value.limit == "max_depth"
        assert len(registry.recent()) == 3
    assert len(found) == 6


async def test_too_many_runs_are_refused(fence: Ringfence) -> None:
    registry = AgentRegistry(max_running_per_user=2, max_running=3)

    @registry.agent("sleep")
    async def sleep() -> None:
        await anyio.sleep(10)

    async def refused() -> str | None:
        with pytest.raises(AgentLimitError) as caught:
            await registry.run("sleep")
        return caught.value.limit

    async def fill(user: str, count: int) -> None:
        async with fence.user_context(user):
            async with task_group() as mine:
                for _ in range(count):
                    mine.start_soon(registry.run, "sleep")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fill, "ann", 2)
        async with fence.user_context("ann"):
            await started(registry, count=2)
            assert await refused() == "max_running_per_user"
        tasks.start_soon(fill, "bob", 1)
        async with fence.user_context("bob"):
            await started(registry)
            assert await refused() == "max_running"
        assert registry.load() == {"sleep": 3}
        tasks.cancel_scope.cancel()
    assert registry.load() == {}
    async with fence.user_context("ann"):
        with anyio.move_on_after(0.01):
            await registry.run("sleep")
        assert len(registry.recent()) == 3


async def test_every_ending_gives_its_place_back(registry: AgentRegistry) -> None:
    registry._places._per_user = 1
    async with user_context("ann"):
        for _ in range(3):
            await registry.run("echo")
            with pytest.raises(LookupError):
                await registry.run("fail", LookupError())
            with pytest.raises(TypeError):
                await registry.run("echo", 1, 2)
            with pytest.raises(AgentLimitError):
                await registry.run("nest", 0, "echo")
            with anyio.move_on_after(0.01):
                await registry.run("sleep")
            with pytest.raises(InvalidContextError):
                await registry.run("echo", timeout=-1)
    assert registry._places._taken == {}
    assert registry._running == {}
