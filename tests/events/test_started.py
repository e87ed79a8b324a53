"""`started`: one beginning, one end, whatever happens between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextLimitError,
    EventLogError,
    InvalidContextError,
    NoContextError,
    Ringfence,
    ScopeCloseError,
    Settings,
    child_context,
    counters,
    user_context,
)
from ringfence.agents import thinking
from ringfence.events import Event, EventHub, MemoryLog, started


@pytest.fixture
def fence() -> Ringfence:
    return Ringfence(events=EventHub())


def hub_of(fence: Ringfence) -> EventHub:
    assert isinstance(fence.events, EventHub)
    return fence.events


async def told(fence: Ringfence, work: Callable[[], Awaitable[object]]) -> list[tuple[str, Any]]:
    """What ann's connections hear while `work` runs, which may end as it likes."""
    hub, found = hub_of(fence), []
    async with fence.user_context("ann"), hub.subscribe() as events:
        try:
            await work()
        except Exception as error:
            found.append(("raised", type(error).__name__))
        await hub.emit("over")
        async for event in events:
            assert isinstance(event, Event)
            if event.kind == "over":
                break
            found.append((event.kind, event.data))
    return found


def fails(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


async def late() -> None:
    with anyio.fail_after(0.01):
        await anyio.sleep(10)


async def cancelled() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(10)


async def well() -> None:
    pass


@pytest.mark.parametrize(
    ("work", "outcome", "error"),
    [
        (well, "completed", None),
        (fails(LookupError("secret")), "failed", "LookupError"),
        (fails(ContextLimitError("Too deep.")), "failed", "RF703"),
        (late, "timed_out", None),
    ],
    ids=["well", "error", "limit", "late"],
)
@pytest.mark.parametrize("what", ["agent", "tool"])
async def test_one_end_on_every_ending(
    fence: Ringfence, work: Any, outcome: str, error: str | None, what: Any
) -> None:
    async def block() -> None:
        async with started(what, "triage", step=1) as run:
            run.data["tokens"] = 12
            await work()

    heard = [pair for pair in await told(fence, block) if pair[0] != "raised"]
    (first, begin), (last, end) = heard
    assert begin == {"name": "triage", "step": 1}
    assert (end["name"], end["outcome"], end.get("error")) == ("triage", outcome, error)
    assert end["tokens"] == 12
    assert "secret" not in str(end)
    names = {
        "agent": ("agent_started", "agent_completed" if outcome == "completed" else "agent_failed"),
        "tool": ("tool_executing", "tool_completed"),
    }
    assert (first, last) == names[what]


async def test_cancelled(fence: Ringfence) -> None:
    async def block() -> None:
        with anyio.CancelScope() as scope:
            async with started("agent", "triage"):
                scope.cancel()
                await anyio.sleep(10)

    (_, _), (last, end) = await told(fence, block)
    assert (last, end["outcome"]) == ("agent_failed", "cancelled")


async def test_cancelled_before_it_began(fence: Ringfence) -> None:
    async def block() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with started("agent", "triage"):
                await anyio.sleep(10)

    heard = await told(fence, block)
    assert [kind for kind, _ in heard] == ["agent_started", "agent_failed"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_many_times(fence: Ringfence) -> None:
    async def block() -> None:
        async def run() -> None:
            async with started("agent", "triage"):
                await anyio.sleep(10)

        task = asyncio.create_task(run())
        await asyncio.sleep(0.01)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    heard = await told(fence, block)
    assert [kind for kind, _ in heard] == ["agent_started", "agent_failed"]


async def test_a_generator_that_is_closed(fence: Ringfence) -> None:
    hub = hub_of(fence)

    async def steps() -> AsyncGenerator[int]:
        async with started("agent", "triage"):
            yield 1

    async with fence.user_context("ann"), hub.subscribe() as events:
        generator = steps()
        await anext(generator)
        await generator.aclose()
        with anyio.fail_after(5):
            found = [await anext(events) for _ in range(2)]
    last = found[1]
    assert isinstance(last, Event)
    assert (last.kind, last.data["outcome"]) == ("agent_failed", "cancelled")


class SlowLog(MemoryLog):
    """As one on another machine: between the call and its effect others run."""

    async def append(self, *args: Any) -> Any:
        await anyio.sleep(0.02)
        found = await super().append(*args)
        await anyio.sleep(0.02)
        return found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_while_its_beginning_is_told() -> None:
    fence = Ringfence(events=EventHub(SlowLog()))

    async def block() -> None:
        async def run() -> None:
            async with started("agent", "triage"):
                raise AssertionError("never reached")

        task = asyncio.create_task(run())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    heard = await told(fence, block)
    assert [kind for kind, _ in heard] == ["agent_started", "agent_failed"]


@pytest.mark.parametrize("after", [0, 0.01, 0.03, 0.06, 0.08])
async def test_cancelled_while_it_is_told(after: float) -> None:
    fence = Ringfence(events=EventHub(SlowLog()))

    async def block() -> None:
        with anyio.move_on_after(after):
            async with started("agent", "triage"):
                await anyio.sleep(0.01)

    heard = await told(fence, block)
    assert heard[0][0] == "agent_started"
    assert len(heard) == 2


async def test_the_time_out_of_its_scope(fence: Ringfence) -> None:
    async def block() -> None:
        async with child_context("triage", timeout=0.01), started("agent", "triage"):
            await anyio.sleep(10)

    _, (_, end), raised = sorted(await told(fence, block), key=lambda pair: pair[0] == "raised")
    assert end["outcome"] == "timed_out"
    assert raised == ("raised", "TimeoutError")


async def test_the_scope_ends_while_it_runs(fence: Ringfence) -> None:
    hub = hub_of(fence)
    heard = []
    async with fence.user_context("ann"), hub.subscribe() as events:
        async with anyio.create_task_group() as tasks:

            async def orphan() -> None:
                async with started("agent", "triage"):
                    await anyio.sleep(0.05)

            async with child_context("agents"):
                tasks.start_soon(orphan)
                await anyio.sleep(0.01)
        await hub.emit("over")
        async for event in events:
            assert isinstance(event, Event)
            heard.append((event.kind, event.data.get("outcome")))
            if event.kind == "over":
                break
    assert heard == [("agent_started", None), ("agent_failed", "closed"), ("over", None)]


@pytest.mark.parametrize("closes_after", [0.01, 0.03, 0.06, 0.1])
async def test_the_scope_ends_while_it_is_told(closes_after: float) -> None:
    """While its beginning is, while it runs, and while its own end is."""
    fence = Ringfence(events=EventHub(SlowLog()))

    async def block() -> None:
        async with anyio.create_task_group() as tasks:

            async def orphan() -> None:
                async with started("agent", "triage"):
                    await anyio.sleep(0.02)

            async with child_context("agents"):
                tasks.start_soon(orphan)
                await anyio.sleep(closes_after)

    kinds = [kind for kind, _ in await told(fence, block)]
    assert kinds in (["agent_started", "agent_failed"], ["agent_started", "agent_completed"])


async def test_the_scope_waits_for_an_end_that_is_being_told(fence: Ringfence) -> None:
    """The scope closes just when the block is left, before the task that tells it has run."""
    hub = hub_of(fence)

    async def block() -> None:
        left = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def orphan() -> None:
                async with started("agent", "triage"):
                    await left.wait()

            async with child_context("agents"):
                tasks.start_soon(orphan)
                await anyio.sleep(0.01)
                left.set()
                await anyio.sleep(0)

    for _ in range(20):  # trio shuffles its tasks
        heard = await told(fence, block)
        assert [kind for kind, _ in heard][0::2] == ["agent_started"], heard
        assert len(heard) == 2
    assert not hub._subscriptions


class FailingLog(SlowLog):
    is_first = True

    async def append(self, *args: Any) -> Any:
        if not self.is_first:
            return await super().append(*args)
        self.is_first = False
        await anyio.sleep(0.02)
        raise ConnectionError("the log is away")


async def test_what_has_not_begun_does_not_end() -> None:
    fence = Ringfence(events=EventHub(FailingLog()))

    async def block() -> None:
        async with anyio.create_task_group() as tasks:

            async def orphan() -> None:
                with pytest.raises(ConnectionError):
                    async with started("agent", "triage"):
                        pass

            async with child_context("agents"):
                tasks.start_soon(orphan)
                await anyio.sleep(0.01)

    assert await told(fence, block) == []


async def test_each_is_told_of_its_own_scope(fence: Ringfence) -> None:
    hub = hub_of(fence)
    async with fence.user_context("ann"), hub.subscribe() as events:
        async with child_context("triage") as ctx, started("agent", "triage"):
            async with child_context("search") as tool, started("tool", "search"):
                pass
        found = [await anext(events) for _ in range(4)]
    documents = [event.document for event in found if isinstance(event, Event)]
    assert [d["request_id"] for d in documents] == [
        ctx.request_id, tool.request_id, tool.request_id, ctx.request_id
    ]  # fmt: skip
    assert documents[1]["parent_request_id"] == ctx.request_id
    assert [d["data"].get("start_id") for d in documents][2:] == [
        documents[1]["id"],
        documents[0]["id"],
    ]


async def test_what_cannot_be_said_does_not_hide_the_end(fence: Ringfence) -> None:
    async def block() -> None:
        async with started("agent", "triage") as run:
            run.data["lock"] = object()

    raised, _, (kind, end) = await told(fence, block)
    assert raised == ("raised", "WrongTypeError")
    assert (kind, end["outcome"]) == ("agent_completed", "completed")


class BrokenLog(MemoryLog):
    is_broken = False

    async def append(self, *args: Any) -> Any:
        if self.is_broken:
            raise ConnectionError("the log is away")
        return await super().append(*args)


async def test_an_end_that_cannot_be_told_is_raised_or_noted() -> None:
    log = BrokenLog()
    fence = Ringfence(events=EventHub(log))
    async with fence.user_context("ann"):
        with pytest.raises(ConnectionError):
            async with started("agent", "triage"):
                log.is_broken = True
        with pytest.raises(ConnectionError):
            async with started("agent", "triage"):
                raise AssertionError("never reached")
        log.is_broken = False
        with pytest.raises(LookupError) as caught:
            async with started("agent", "triage"):
                log.is_broken = True
                raise LookupError
        assert "the end of `triage` was not told" in caught.value.__notes__[0]


async def test_a_scope_whose_end_cannot_tell_raises() -> None:
    log = BrokenLog()
    with pytest.raises(ScopeCloseError):
        async with Ringfence(events=EventHub(log)).user_context("ann"):
            await started("agent", "triage").__aenter__()
            log.is_broken = True


class AwayLog(MemoryLog):
    """A log that is away for the calls of these numbers, or has stored them and lost its answer."""

    def __init__(self, *numbers: int, stores: bool) -> None:
        super().__init__()
        self.numbers = numbers
        self.stores = stores
        self.calls = 0

    async def append(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls not in self.numbers:
            return await super().append(*args)
        if self.stores:
            await super().append(*args)
        raise EventLogError("The log is away.", "Wait.", may_be_stored=self.stores)


@pytest.mark.parametrize(
    ("number", "stores", "heard"),
    [
        (1, False, []),  # what nobody heard of does not end
        (1, True, ["agent_started", "agent_completed"]),
        (2, False, ["agent_started"]),
        (2, True, ["agent_started", "agent_completed"]),
    ],
)
async def test_what_runs_is_not_stopped_by_what_tells_of_it(
    caplog: pytest.LogCaptureFixture, number: int, stores: bool, heard: list[str]
) -> None:
    fence = Ringfence(events=EventHub(AwayLog(number, stores=stores)))
    results = []

    async def block() -> None:
        async with started("agent", "triage"):
            results.append(17)

    assert [kind for kind, _ in await told(fence, block)] == heard
    assert results == [17]
    assert counters.value("events.untold") == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_error_stays_the_one_that_is_raised() -> None:
    fence = Ringfence(events=EventHub(AwayLog(2, stores=False)))
    heard = await told(fence, fails_within("triage", LookupError()))
    assert [heard[0], heard[1][0]] == [("raised", "LookupError"), "agent_started"]
    assert len(heard) == 2


def fails_within(name: str, error: Exception) -> Callable[[], Awaitable[None]]:
    async def block() -> None:
        async with started("agent", name):
            raise error

    return block


async def test_a_scope_ends_well_whose_end_cannot_be_told() -> None:
    async with Ringfence(events=EventHub(AwayLog(2, stores=False))).user_context("ann"):
        await started("agent", "triage").__aenter__()
    assert counters.value("events.untold") == 1


class StuckLog(MemoryLog):
    is_stuck = False

    async def append(self, *args: Any) -> Any:
        if self.is_stuck:
            await anyio.sleep_forever()
        return await super().append(*args)


async def test_a_log_that_does_not_answer_holds_nobody_for_long() -> None:
    log = StuckLog()
    fence = Ringfence(events=EventHub(log), settings=Settings(finaliser_timeout=0.05))
    with anyio.fail_after(5):
        async with fence.user_context("ann"):
            async with started("agent", "triage"):
                log.is_stuck = True
            async with started("agent", "triage"):
                pass
            await started("agent", "left").__aenter__()
    assert counters.value("events.untold") == 5
    assert counters.value("finaliser.timeout") == 0


async def test_thinking_is_not_stopped_either() -> None:
    fence = Ringfence(events=EventHub(AwayLog(1, stores=False)))
    async with fence.user_context("ann"):
        await thinking()
    assert counters.value("events.untold") == 1


async def test_what_it_refuses(fence: Ringfence) -> None:
    with pytest.raises(ConfigurationError, match="an agent or a tool"):
        started("robot", "x")  # type: ignore[arg-type]
    with pytest.raises(NoContextError):
        async with started("agent", "x"):
            pass
    async with user_context("ann"):
        with pytest.raises(ConfigurationError, match="no hub"):
            async with started("agent", "x"):
                pass
    async with fence.user_context("ann"):
        with pytest.raises(InvalidContextError):
            async with started("agent", "x", lock=object()):
                pass
        async with started("agent", "x") as run:
            with pytest.raises(ConfigurationError, match="entered already"):
                await run.__aenter__()
