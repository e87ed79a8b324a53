"""Tasks that only their maker cancels, and waiting that no cancellation ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref
from collections.abc import Iterator

import anyio
import pytest

from ringfence import counters
from ringfence.tasks import Job, Signal, is_cancellation, is_on_trio, spawn, wait_out

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


def _context(value: str) -> contextvars.Context:
    context = contextvars.Context()
    context.run(VARIABLE.set, value)
    return context


def _job(work: object, context: contextvars.Context | None = None) -> Job:
    return Job(work, "test", context or contextvars.Context())  # type: ignore[arg-type]


async def test_a_job_runs_in_the_context_it_was_given() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append(VARIABLE.get())
        await anyio.sleep(0)
        seen.append(VARIABLE.get())

    job = _job(work, _context("inside"))
    await job.done.wait()
    assert seen == ["inside", "inside"]
    assert job.error is None
    assert VARIABLE.get() == "outside"


async def test_its_error_is_kept_and_its_end_is_told() -> None:
    ended: list[bool] = []

    async def work() -> None:
        raise KeyError("mine")

    job = Job(work, "test", contextvars.Context(), lambda: ended.append(job.done.is_set()))
    assert await job.wait(5) == (job.error, None)
    assert isinstance(job.error, KeyError)
    assert ended == [False]


async def test_a_cancelled_scope_around_its_maker_does_not_reach_it() -> None:
    go, ran = anyio.Event(), []

    async def work() -> None:
        await go.wait()
        ran.append(1)

    with anyio.CancelScope() as scope:
        job = _job(work)
        scope.cancel()
        await anyio.sleep(60)
    go.set()
    await job.done.wait()
    assert ran == [1]


async def test_its_maker_can_cancel_it() -> None:
    began, ran = anyio.Event(), []

    async def work() -> None:
        began.set()
        try:
            await anyio.sleep(60)
        finally:
            ran.append("clean-up")

    job = _job(work)
    await began.wait()
    job.cancel()
    await job.done.wait()
    assert ran == ["clean-up"]
    assert job.error is None or is_cancellation(job.error)


async def test_what_was_cancelled_before_it_began_never_does_and_ends_all_the_same() -> None:
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    job = _job(work)
    job.cancel()
    await job.done.wait()
    assert ran == []


async def test_a_wait_has_a_limit_and_then_cancels() -> None:
    job = _job(lambda: anyio.sleep(60))
    error, cancelled = await job.wait(0.01)
    assert isinstance(error, TimeoutError)
    assert "took longer than 0.01 s and was cancelled" in str(error)
    assert cancelled is None
    assert job.done.is_set()
    assert counters.snapshot() == {"finaliser.timeout": 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_will_not_stop_is_abandoned(anyio_backend: str) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    job = _job(stubborn)
    error, _ = await job.wait(0.01)
    assert "would not stop, and was abandoned" in str(error)
    assert counters.snapshot() == {"finaliser.timeout": 1, "finaliser.abandoned": 1}
    release.set()
    await job.done.wait()


async def test_an_error_while_it_is_cancelled_is_the_cause() -> None:
    async def work() -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise KeyError("clean-up")

    error, _ = await _job(work).wait(0.01)
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, KeyError)


async def test_waiting_outlasts_an_anyio_cancellation() -> None:
    event, order = Signal(), []

    async def setter() -> None:
        await anyio.wait_all_tasks_blocked()
        order.append("set")
        event.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(setter)
            scope.cancel()
            assert await wait_out(event, None) is None
            order.append("out")
    assert order == ["set", "out"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_waiting_outlasts_task_cancel_and_gives_the_last_back(anyio_backend: str) -> None:
    event, waiting = Signal(), Signal()

    async def wait() -> BaseException | None:
        waiting.set()
        return await wait_out(event, None)

    task = asyncio.create_task(wait())
    await waiting.wait()
    for number in range(3):
        task.cancel(f"cancel {number}")
        await anyio.wait_all_tasks_blocked()
    assert not task.done()
    event.set()
    cancelled = await task
    assert isinstance(cancelled, asyncio.CancelledError)
    assert str(cancelled) == "cancel 2"


async def test_waiting_has_a_limit() -> None:
    began = anyio.current_time()
    assert await wait_out(Signal(), 0.02) is None
    assert 0.01 < anyio.current_time() - began < 5


async def test_waiting_for_what_has_happened_takes_no_time() -> None:
    event = Signal()
    event.set()
    assert await wait_out(event, 0) is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_cancelled_before_its_first_turn_waits_all_the_same(
    anyio_backend: str,
) -> None:
    event = Signal()
    task = asyncio.create_task(wait_out(event, None))
    await asyncio.sleep(0)  # it stands where it lets others go first
    task.cancel("early")
    await anyio.wait_all_tasks_blocked()
    assert not task.done()
    event.set()
    assert str(await task) == "early"


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_is_not_lost_to_that_of_a_scope_in_the_same_turn(
    anyio_backend: str, is_first: bool
) -> None:
    event, scope = Signal(), anyio.CancelScope()

    async def wait() -> BaseException | None:
        with scope:
            return await wait_out(event, None)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    for cancel in (task.cancel, scope.cancel) if is_first else (scope.cancel, task.cancel):
        cancel()
    await anyio.wait_all_tasks_blocked()
    event.set()
    assert isinstance(await task, asyncio.CancelledError)


async def test_a_signal_wakes_all_who_wait_and_those_who_come_late_do_not() -> None:
    event, woken = Signal(), []

    async def wait(number: int) -> None:
        await (event.wait() if number % 2 else event.wait_soon())
        woken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(wait, number)
        await anyio.wait_all_tasks_blocked()
        assert not event.is_set()
        assert woken == []
        event.set()
    await wait(4)
    assert sorted(woken) == [0, 1, 2, 3, 4]
    assert event._waiting == []


async def test_who_gives_up_waiting_for_a_signal_leaves_the_others() -> None:
    event, woken = Signal(), []

    async def wait() -> None:
        await event.wait()
        woken.append("other")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.move_on_after(0.01):
            await event.wait()
        assert len(event._waiting) == 1
        event.set()
    assert woken == ["other"]


async def test_where_it_runs(anyio_backend_name: str) -> None:
    assert is_on_trio() is (anyio_backend_name == "trio")


def test_outside_of_any_loop_it_is_not_on_trio() -> None:
    import trio  # noqa: F401 (imported, and not running)

    assert not is_on_trio()


async def test_what_a_cancellation_is() -> None:
    caught: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(60)
        except BaseException as error:
            caught.append(error)
            raise
    assert is_cancellation(caught[0])
    for error in (None, KeyError(), TimeoutError(), KeyboardInterrupt(), SystemExit()):
        assert not is_cancellation(error)
    assert is_cancellation(asyncio.CancelledError())


@pytest.fixture
def _no_trio(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "trio", raising=False)
        yield


@pytest.mark.usefixtures("_no_trio")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_trio_installed_it_works_on_asyncio(anyio_backend: str) -> None:
    assert not is_on_trio()
    assert not is_cancellation(KeyError())
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    await _job(work).done.wait()
    assert ran == [1]


def test_without_an_event_loop_there_is_no_task_and_nothing_left_unawaited() -> None:
    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="no running event loop"):
        spawn(work, "test", contextvars.Context())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_spawned_task_is_not_collected_while_it_runs(anyio_backend: str) -> None:
    """The event loop itself keeps weak references only."""
    waiting: list[weakref.ref[asyncio.Future[None]]] = []
    began, ran = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(future))
        began.set()
        await future  # nothing else knows of it, nor of the task
        ran.set()

    spawn(work, "test", contextvars.Context())
    await began.wait()
    gc.collect()
    future = waiting[0]()
    assert future is not None
    future.set_result(None)
    await asyncio.wait_for(ran.wait(), 5)
