"""Law 5. Every finaliser runs, once, last in first out, on every ending."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import math
import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    Settings,
    WrongTypeError,
    child_context,
    counters,
    current_context,
    current_scope,
    current_scope_or_none,
    user_context,
)
from ringfence.tasks import Job

FAST = Ringfence(settings=Settings(finaliser_timeout=0.1))


def _three(ran: list[str], scope: RequestScope) -> None:
    """One plain, one async, one async that takes a while."""

    async def slow() -> None:
        await anyio.sleep(0.005)
        ran.append("slow")

    async def quick() -> None:
        ran.append("quick")

    scope.callback(ran.append, "plain")
    scope.callback(quick)
    scope.callback(slow)


ALL = ["slow", "quick", "plain"]


async def test_success() -> None:
    ran: list[str] = []
    async with user_context("alice-1"):
        scope = current_scope()
        _three(ran, scope)
    assert ran == ALL
    assert [entry.kind for entry in scope.report] == ["callback"] * 3
    assert all(entry.error is None and entry.duration >= 0 for entry in scope.report)
    assert scope.ended_well


async def test_exception() -> None:
    ran: list[str] = []
    with pytest.raises(KeyError, match="mine"):
        async with user_context("alice-1"):
            _three(ran, current_scope())
            raise KeyError("mine")
    assert ran == ALL


async def test_timeout() -> None:
    ran: list[str] = []
    with pytest.raises(TimeoutError):
        async with user_context("alice-1", timeout=0.01):
            _three(ran, current_scope())
            await anyio.sleep(5)
    assert ran == ALL


async def test_an_anyio_cancellation() -> None:
    ran: list[str] = []
    with anyio.CancelScope() as cancel:
        async with user_context("alice-1"):
            _three(ran, current_scope())
            cancel.cancel()
            await anyio.sleep(5)
    assert cancel.cancelled_caught
    assert ran == ALL


@pytest.mark.parametrize("times", [1, 3, 20])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_task_cancel_any_number_of_times(anyio_backend: str, times: int) -> None:
    ran: list[str] = []
    started = asyncio.Event()

    async def request() -> None:
        async with user_context("alice-1"):
            _three(ran, current_scope())
            await current_scope().enter(anyio.Lock())
            started.set()
            await asyncio.sleep(5)

    task = asyncio.create_task(request())
    await started.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ran == ALL


async def test_one_failure_does_not_stop_the_others_and_is_raised() -> None:
    ran: list[str] = []

    async def fails() -> None:
        raise ValueError("async")

    with pytest.raises(ScopeCloseError, match="2 of its finalisers did not") as caught:
        async with user_context("alice-1") as ctx:
            scope = current_scope()
            scope.callback(ran.append, "first")
            scope.callback(fails)
            scope.callback(lambda: 1 / 0)
            scope.callback(ran.append, "last")
    assert ran == ["last", "first"]
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError, ValueError]
    assert caught.value.request_id == ctx.request_id
    assert caught.value.code == "RF302"
    assert counters.value("finaliser.error") == 2


async def test_the_bodys_exception_stays_the_one_raised() -> None:
    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            current_scope().callback(lambda: 1 / 0)
            raise KeyError("mine")
    assert any("division by zero" in note for note in caught.value.__notes__)


async def test_a_cancellation_stays_a_cancellation() -> None:
    with anyio.CancelScope() as cancel:
        async with user_context("alice-1"):
            current_scope().callback(lambda: 1 / 0)
            cancel.cancel()
            await anyio.sleep(5)
    assert cancel.cancelled_caught


class Stop(BaseException):
    pass


async def test_a_base_exception_of_a_finaliser_is_raised_after_the_rest() -> None:
    ran: list[str] = []

    async def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        async with user_context("alice-1"):
            current_scope().callback(ran.append, "first")
            current_scope().callback(stop)
            current_scope().callback(ran.append, "last")
            raise KeyError("mine")
    assert ran == ["last", "first"]


async def test_each_is_bounded_in_time_and_none_starves_the_others() -> None:
    ran: list[str] = []
    with pytest.raises(ScopeCloseError) as caught:
        async with FAST.user_context("alice-1"):
            current_scope().callback(ran.append, "first")
            current_scope().callback(anyio.sleep, 60)
            current_scope().callback(ran.append, "last")
    assert ran == ["last", "first"]
    assert isinstance(caught.value.exceptions[0], TimeoutError)
    assert "was cancelled" in str(caught.value.exceptions[0])
    assert counters.value("finaliser.timeout") == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_will_not_stop_is_abandoned(anyio_backend: str) -> None:
    ran: list[str] = []
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    with pytest.raises(ScopeCloseError) as caught:
        async with FAST.user_context("alice-1"):
            current_scope().callback(ran.append, "first")
            current_scope().callback(stubborn)
    assert ran == ["first"]
    assert "abandoned" in str(caught.value.exceptions[0])
    release.set()
    await asyncio.sleep(0.01)


# --- entered managers -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _resource(ran: list[str], name: str) -> AsyncIterator[str]:
    ran.append(f"open {name}")
    try:
        yield name
    finally:
        await anyio.sleep(0.001)
        ran.append(f"close {name}")


async def test_managers_and_callbacks_run_last_in_first_out() -> None:
    ran: list[str] = []
    async with user_context("alice-1"):
        scope = current_scope()
        assert await scope.enter(_resource(ran, "a")) == "a"
        scope.callback(ran.append, "plain")
        with contextlib.closing(open(__file__)) as file:
            assert await scope.enter(contextlib.nullcontext(file)) is file
        assert await scope.enter(_resource(ran, "b")) == "b"
    assert ran == ["open a", "open b", "close b", "plain", "close a"]


async def test_a_manager_that_fails_to_open_leaves_the_others_closed() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise ConnectionError("no")
        yield

    with pytest.raises(ConnectionError, match="no"):
        async with user_context("alice-1"):
            await current_scope().enter(_resource(ran, "a"))
            await current_scope().enter(broken())
    assert ran == ["open a", "close a"]


async def test_no_manager_is_refused() -> None:
    async with user_context("alice-1"):
        with pytest.raises(WrongTypeError, match="no context manager"):
            await current_scope().enter(3)  # type: ignore[arg-type]


async def test_managers_see_the_bodys_exception_and_cannot_swallow_it() -> None:
    seen: list[object] = []

    class Swallow:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, kind: object, exc: object, tb: object) -> bool:
            seen.append(exc)
            return True

    boom = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            await current_scope().enter(Swallow())
            raise boom
    assert caught.value is boom
    assert seen == [boom]


async def test_task_groups_locks_and_cancel_scopes_are_left_by_the_task_that_entered() -> None:
    lock = anyio.Lock()
    stopped = anyio.Event()

    async def background() -> None:
        try:
            await anyio.sleep(60)
        finally:
            stopped.set()

    async with user_context("alice-1"):
        scope = current_scope()
        group = await scope.enter(anyio.create_task_group())
        await scope.enter(lock)
        await scope.enter(anyio.fail_after(60))
        group.start_soon(background)
        await anyio.sleep(0)
        scope.callback(group.cancel_scope.cancel)
    assert stopped.is_set()
    assert not lock.locked()


async def test_a_task_groups_error_is_not_lost() -> None:
    async def fails() -> None:
        raise ValueError("child")

    with pytest.raises(ScopeCloseError) as caught:
        async with user_context("alice-1"):
            group = await current_scope().enter(anyio.create_task_group())
            group.start_soon(fails)
            await anyio.sleep(0.01)
    assert "child" in repr(caught.value.exceptions)


async def test_the_bodys_exception_is_not_wrapped_by_a_task_group() -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        async with user_context("alice-1"):
            scope = current_scope()
            await scope.enter(anyio.create_task_group())
            raise KeyError("mine")
    assert not hasattr(caught.value, "__notes__")
    assert [entry.error for entry in scope.report] == [None]


async def test_entering_can_be_cancelled_and_what_was_entered_is_left() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            await anyio.sleep(60)
            yield
        finally:
            ran.append("slow")

    with anyio.move_on_after(0.02) as cancel:
        async with user_context("alice-1"):
            await current_scope().enter(_resource(ran, "a"))
            await current_scope().enter(slow())
    assert cancel.cancelled_caught
    assert ran == ["open a", "slow", "close a"]


async def test_the_scope_is_current_in_its_finalisers_wherever_it_is_left() -> None:
    seen: list[str] = []

    async def later() -> None:
        await anyio.sleep(0)
        seen.append(current_context().request_id)

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        await later()

    block = user_context("alice-1")
    ctx = await block.__aenter__()
    current_scope().callback(lambda: seen.append(current_context().request_id))
    current_scope().callback(later)
    async with child_context("tool"):
        await current_scope().root.enter(manager())
    async with user_context("bob-22"):
        await block.__aexit__(None, None, None)
    assert seen == [ctx.request_id] * 3


async def test_a_job_cancelled_before_it_begins_ends_all_the_same() -> None:
    job = Job(anyio.sleep_forever, "never", contextvars.copy_context())
    job.cancel()
    with anyio.fail_after(1):
        await job.done.wait()


async def test_a_scope_that_closes_refuses_what_is_being_entered() -> None:
    outcomes: list[object] = []

    async def enter() -> None:
        try:
            await current_scope().enter(_resource([], "late"))
        except ContextClosedError as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as tasks:
        async with user_context("alice-1"):
            tasks.start_soon(enter)
            await anyio.sleep(0)
    assert outcomes in ([], ["RF102"])


# --- children ---------------------------------------------------------------------------------


async def test_a_child_still_open_is_closed_first() -> None:
    ran: list[str] = []
    block = user_context("alice-1")
    await block.__aenter__()
    parent = current_scope()
    parent.callback(ran.append, "parent")
    inner = child_context("tool")
    await inner.__aenter__()
    child = current_scope()

    async def quick() -> None:
        ran.append("child")

    child.callback(quick)
    await block.__aexit__(None, None, None)
    assert ran == ["child", "parent"]
    assert child.state == "closed"
    assert child.is_parent_closed
    assert not child.ended_well
    await inner.__aexit__(None, None, None)
    assert ran == ["child", "parent"]


async def test_a_childs_failing_clean_up_is_reported_by_the_parent_that_closed_it() -> None:
    block = user_context("alice-1")
    await block.__aenter__()
    inner = child_context("tool")
    await inner.__aenter__()
    current_scope().callback(lambda: 1 / 0)
    with pytest.raises(ScopeCloseError) as caught:
        await block.__aexit__(None, None, None)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)
    await inner.__aexit__(None, None, None)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_destroyed_coroutine_is_finished_elsewhere(anyio_backend: str) -> None:
    ran: list[str] = []

    async def request() -> None:
        async with user_context("alice-1"):
            _three(ran, current_scope())
            await asyncio.Event().wait()

    coroutine = request()
    coroutine.send(None)
    coroutine.close()
    gc.collect()
    for _ in range(100):
        await asyncio.sleep(0.001)
        if len(ran) == 3:
            break
    await asyncio.sleep(0.01)
    assert ran == ALL


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_loop_that_ends_is_not_held_up_by_a_leaked_scope(anyio_backend: str) -> None:
    ran: list[str] = []

    def other_loop() -> None:
        async def leak() -> None:
            block = user_context("alice-1")
            await block.__aenter__()
            await current_scope().enter(_resource(ran, "a"))
            scopes.append(current_scope())

        asyncio.run(leak())

    scopes: list[RequestScope] = []
    await anyio.to_thread.run_sync(other_loop)
    assert ran == ["open a", "close a"]
    scopes[0]._end(None, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_end_of_an_event_loop_cuts_and_reorders_nothing(anyio_backend: str) -> None:
    """`asyncio.run` ends by cancelling every task there is, finalisers at work included."""
    ran: list[str] = []

    def other_loop() -> None:
        async def request() -> None:
            async with user_context("alice-1"):
                scope = current_scope()
                await scope.enter(_resource(ran, "a"))
                scope.callback(_slowly, ran, "callback")
                await scope.enter(_resource(ran, "b"))
                await asyncio.sleep(60)

        async def main() -> None:
            tasks.append(asyncio.create_task(request()))
            await asyncio.sleep(0.01)

        tasks: list[object] = []
        asyncio.run(main())

    await anyio.to_thread.run_sync(other_loop)
    assert ran == ["open a", "open b", "close b", "begin callback", "end callback", "close a"]


async def _slowly(ran: list[str], name: str) -> None:
    ran.append(f"begin {name}")
    await anyio.sleep(0.01)
    ran.append(f"end {name}")


async def test_a_manager_that_is_slow_to_let_go_of_entering_is_left_all_the_same() -> None:
    left = anyio.Event()

    class Slow:
        async def __aenter__(self) -> None:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.sleep(0.3)
                except BaseException:
                    await anyio.sleep(0.3)

        async def __aexit__(self, *details: object) -> None:
            left.set()

    async def enter() -> None:
        with contextlib.suppress(ContextClosedError):
            await current_scope().enter(Slow())

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ScopeCloseError, match="1 of its finalisers"):
            async with FAST.user_context("alice-1"):
                tasks.start_soon(enter)
                await anyio.sleep(0.01)
        with anyio.fail_after(2):
            await left.wait()
    assert counters.value("finaliser.abandoned") == 1


async def test_a_parent_waits_for_a_child_that_is_closing() -> None:
    ran: list[str] = []
    started = anyio.Event()

    async def tool() -> None:
        async with child_context("tool"):
            for number in range(6):
                current_scope().callback(_take, 0.06, f"child {number}")
            started.set()

    async def _take(seconds: float, name: str) -> None:
        await anyio.sleep(seconds)
        ran.append(name)

    async with anyio.create_task_group() as tasks:
        async with FAST.user_context("alice-1"):
            current_scope().callback(ran.append, "parent")
            tasks.start_soon(tool)
            await started.wait()
    assert ran == [*(f"child {number}" for number in reversed(range(6))), "parent"]


async def test_a_fatal_finaliser_hides_no_other() -> None:
    async def stop() -> None:
        raise Stop

    with pytest.raises(Stop) as caught:
        async with user_context("alice-1"):
            current_scope().callback(lambda: 1 / 0)
            current_scope().callback(stop)
    assert any("division by zero" in note for note in caught.value.__notes__)


async def test_a_timeout_left_by_another_task_says_so() -> None:
    block = user_context("alice-1", timeout=60)
    await block.__aenter__()
    caught: list[BaseException] = []

    async def leave() -> None:
        try:
            await block.__aexit__(None, None, None)
        except ConfigurationError as error:
            caught.append(error)

    scope = current_scope()._more().cancel_scope
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
    assert "left by another task" in str(caught[0])
    assert scope.deadline == math.inf
    with contextlib.suppress(RuntimeError):  # trio has torn it down by now
        scope.__exit__(None, None, None)


async def test_a_destroyed_coroutine_is_over_at_once_where_it_was() -> None:
    async def request() -> None:
        async with user_context("alice-1"):
            current_scope().callback(anyio.sleep, 0)
            await anyio.sleep_forever()

    coroutine = request()
    coroutine.send(None)
    coroutine.close()
    assert current_scope_or_none() is None
    await anyio.wait_all_tasks_blocked()


async def test_no_cycle_is_left_for_the_collector() -> None:
    async def requests() -> None:
        for _ in range(50):
            async with user_context("alice-1"):
                current_scope().callback(_slowly, [], "x")
                async with child_context("tool"):
                    current_scope().callback(len, ())

    await requests()
    gc.collect()
    gc.disable()
    try:
        await requests()
        assert gc.collect() < 50  # some of the event loop's own, but none for each scope
    finally:
        gc.enable()


INTERRUPTED = """
import signal, trio
from ringfence import current_scope, user_context
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
ran = []
async def interrupted():
    signal.raise_signal(signal.SIGINT)
    await trio.sleep(0.01)
    ran.append(2)
async def main():
    async with user_context("alice-1"):
        current_scope().callback(ran.append, 1)
        current_scope().callback(interrupted)
        current_scope().callback(ran.append, 3)
try:
    trio.run(main)
except KeyboardInterrupt:
    print("interrupted", ran)
"""


def test_a_keyboard_interrupt_during_clean_up_on_trio() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "interrupted [3, 2, 1]\n", done.stderr
