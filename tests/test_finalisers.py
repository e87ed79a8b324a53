"""Finalisers, beyond law 5: what they may be, what is reported of them, and where they run."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import Any

import anyio
import pytest

from ringfence import (
    ContextClosedError,
    FinaliserReport,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    Settings,
    child_context,
    counters,
    current_context,
    current_scope,
    user_context,
)

FAST = Ringfence(settings=Settings(finaliser_timeout=0.05))
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


# --- what they may be -------------------------------------------------------------------------


class Callable_:
    """An object whose call is async."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    async def __call__(self, word: str = "object") -> None:
        await anyio.sleep(0)
        self.ran.append(word)


class Awaits:
    """An awaitable that is no coroutine."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    def __await__(self) -> Generator[Any, None, None]:
        yield from anyio.sleep(0).__await__()
        self.ran.append("awaitable")


async def _append(ran: list[str], word: str) -> None:
    await anyio.sleep(0)
    ran.append(word)


async def test_whatever_gives_an_awaitable_is_awaited() -> None:
    ran: list[str] = []

    def gives() -> Awaitable[None]:
        return _append(ran, "gives")

    async with user_context("alice-1"):
        scope = current_scope()
        scope.callback(Callable_(ran))
        scope.callback(Callable_(ran), word="with a word")
        scope.callback(lambda: Awaits(ran))
        scope.callback(lambda: _append(ran, "lambda"))
        scope.callback(functools.partial(_append, ran), "partial")
        scope.callback(gives)
        scope.callback(_append, ran, "plain")
    assert ran == ["plain", "gives", "partial", "lambda", "awaitable", "with a word", "object"]


async def test_what_it_returns_is_dropped() -> None:
    async with user_context("alice-1"):
        current_scope().callback(lambda: True)
        current_scope().callback(lambda: KeyError("returned, not raised"))


async def test_the_names_in_the_report() -> None:
    ran: list[str] = []
    async with user_context("alice-1"):
        scope = current_scope()
        scope.callback(Callable_(ran))
        scope.callback(functools.partial(_append, ran), "x")
        scope.callback(ran.append, "x")
        await scope.enter(anyio.Lock())
    names = [report.name for report in scope.report]
    assert names == ["Lock", "list.append", "partial", "Callable_"]


def test_a_report_is_an_immutable_record() -> None:
    report = FinaliserReport("close", "callback", 0.1, None)
    with pytest.raises(AttributeError):
        report.name = "other"  # type: ignore[misc]
    assert report == FinaliserReport("close", "callback", 0.1, None)


async def test_a_duration_is_what_it_took() -> None:
    async def slow() -> None:
        await anyio.sleep(0.02)

    async with user_context("alice-1"):
        scope = current_scope()
        scope.callback(time.sleep, 0.02)
        scope.callback(slow)
        scope.callback(print, end="")
    assert [report.duration >= 0.015 for report in scope.report] == [False, True, True]


# --- while they run ---------------------------------------------------------------------------


async def test_one_that_registers_another_is_refused_and_the_rest_run() -> None:
    ran: list[str] = []

    def greedy() -> None:
        with pytest.raises(ContextClosedError, match="is closing"):
            current_scope().callback(ran.append, "late")
        ran.append("greedy")

    async def enters() -> None:
        with pytest.raises(ContextClosedError, match="is closing"):
            await current_scope().enter(contextlib.nullcontext())
        ran.append("enters")

    async with user_context("alice-1"):
        current_scope().callback(ran.append, "first")
        current_scope().callback(greedy)
        current_scope().callback(enters)
    assert ran == ["enters", "greedy", "first"]


async def test_a_forgotten_one_does_not_run_even_if_another_forgets_it() -> None:
    ran: list[str] = []
    async with user_context("alice-1"):
        scope = current_scope()
        forget = scope.callback(ran.append, "forgotten")
        scope.callback(forget)
    assert ran == []


async def test_a_root_of_its_own_may_be_opened_in_one() -> None:
    seen: list[str] = []

    async def audit() -> None:
        async with user_context("auditor-1"):
            seen.append(current_context().user_id)
        seen.append(current_context().user_id)

    async with user_context("alice-1"):
        current_scope().callback(audit)
    assert seen == ["auditor-1", "alice-1"]


async def test_context_variables_are_those_at_the_end_of_the_body() -> None:
    seen: list[str] = []

    async def read() -> None:
        seen.append(VARIABLE.get())

    async with user_context("alice-1"):
        current_scope().callback(read)
        current_scope().callback(lambda: seen.append(VARIABLE.get()))
        token = VARIABLE.set("late")
    VARIABLE.reset(token)
    assert seen == ["late", "late"]


async def test_what_one_sets_does_not_reach_the_body_that_follows() -> None:
    def sets() -> None:
        VARIABLE.set("set by a finaliser")

    async with user_context("alice-1"):
        current_scope().callback(sets)
    assert VARIABLE.get() == "outside"


async def test_a_manager_sets_nothing_in_the_body_either() -> None:
    """Documented: it is entered in a task of its own."""

    @contextlib.asynccontextmanager
    async def sets() -> AsyncIterator[None]:
        token = VARIABLE.set("inside")
        yield
        VARIABLE.reset(token)

    async with user_context("alice-1"):
        await current_scope().enter(sets())
        assert VARIABLE.get() == "outside"


# --- errors -----------------------------------------------------------------------------------


async def test_errors_of_all_kinds_are_one_group_in_the_order_they_ran() -> None:
    async def fails() -> None:
        raise OSError("async")

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        raise LookupError("manager")

    with pytest.raises(ScopeCloseError, match="3 of its finalisers did not") as caught:
        async with user_context("alice-1"):
            current_scope().callback(fails)
            await current_scope().enter(manager())
            current_scope().callback(lambda: 1 / 0)
    kinds = [type(error) for error in caught.value.exceptions]
    assert kinds == [ZeroDivisionError, LookupError, OSError]
    assert counters.value("finaliser.error") == 3


async def test_every_failure_is_a_note_on_the_bodys_exception() -> None:
    async def fails() -> None:
        raise OSError("async")

    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            current_scope().callback(fails)
            current_scope().callback(lambda: 1 / 0)
            raise KeyError
    assert len(caught.value.__notes__) == 2
    assert "ZeroDivisionError" in caught.value.__notes__[0]
    assert "fails` failed: OSError('async')" in caught.value.__notes__[1]


async def test_a_childs_failure_is_raised_by_the_child_and_fails_the_parents_body() -> None:
    ran: list[str] = []
    with pytest.raises(ScopeCloseError) as caught:
        async with user_context("alice-1"):
            current_scope().callback(ran.append, "parent")
            async with child_context("tool") as child:
                current_scope().callback(lambda: 1 / 0)
    assert caught.value.request_id == child.request_id
    assert ran == ["parent"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_a_plain_one_is_raised_after_the_rest(
    kind: type[BaseException],
) -> None:
    ran: list[str] = []

    def interrupts() -> None:
        raise kind

    with pytest.raises(kind):
        async with user_context("alice-1"):
            current_scope().callback(ran.append, "first")
            current_scope().callback(interrupts)
            current_scope().callback(lambda: 1 / 0)
    assert ran == ["first"]


async def test_the_bodys_own_exception_raised_again_is_not_a_failure_of_clean_up() -> None:
    @contextlib.asynccontextmanager
    async def passes_on() -> AsyncIterator[None]:
        yield

    boom = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            scope = current_scope()
            await scope.enter(passes_on())
            await scope.enter(anyio.create_task_group())
            raise boom
    assert caught.value is boom
    assert [report.error for report in scope.report] == [None, None]
    assert counters.value("finaliser.error") == 0


async def test_what_a_task_group_adds_to_the_bodys_exception_is_kept() -> None:
    async def fails() -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise OSError("of a task")

    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            scope = current_scope()
            group = await scope.enter(anyio.create_task_group())
            group.start_soon(fails)
            await anyio.wait_all_tasks_blocked()
            raise KeyError
    assert "of a task" in caught.value.__notes__[0]
    assert isinstance(scope.report[0].error, OSError)


async def test_a_manager_that_translates_the_bodys_exception_is_a_note() -> None:
    """The body's own stays the one raised."""

    @contextlib.asynccontextmanager
    async def translates() -> AsyncIterator[None]:
        try:
            yield
        except KeyError as error:
            raise OSError("translated") from error

    with pytest.raises(KeyError) as caught:
        async with user_context("alice-1"):
            await current_scope().enter(translates())
            raise KeyError
    assert "translated" in caught.value.__notes__[0]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_cancels_itself_is_a_failure_and_no_cancellation(anyio_backend: str) -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ScopeCloseError) as caught:
        async with user_context("alice-1"):
            current_scope().callback(gives_up)
    assert "was cancelled from within" in str(caught.value.exceptions[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_during_clean_up_after_a_cancellation_is_no_failure(
    anyio_backend: str,
) -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    with anyio.CancelScope() as cancel:
        async with user_context("alice-1"):
            scope = current_scope()
            scope.callback(gives_up)
            cancel.cancel()
            await anyio.sleep(60)
    assert cancel.cancelled_caught
    assert [report.error for report in scope.report] == [None]


# --- managers ---------------------------------------------------------------------------------


async def test_a_manager_whose_exit_takes_too_long_is_cut_short_and_the_rest_run() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep(60)
        finally:
            ran.append("cut short")

    with pytest.raises(ScopeCloseError) as caught:
        async with FAST.user_context("alice-1"):
            current_scope().callback(ran.append, "first")
            await current_scope().enter(slow())
    assert ran == ["cut short", "first"]
    assert isinstance(caught.value.exceptions[0], TimeoutError)


async def test_the_limit_is_for_each_and_not_for_all() -> None:
    fence = Ringfence(settings=Settings(finaliser_timeout=0.3))

    async def a_third_of_it() -> None:
        await anyio.sleep(0.12)

    async with fence.user_context("alice-1"):
        for _ in range(3):
            current_scope().callback(a_third_of_it)


async def test_two_tasks_may_enter_managers_at_once() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def manager(name: str) -> AsyncIterator[str]:
        await anyio.sleep(0)
        yield name
        ran.append(name)

    async def enter(name: str) -> None:
        assert await current_scope().enter(manager(name)) == name

    async with user_context("alice-1"):
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(enter, name)
    assert sorted(ran) == ["a", "b", "c"]


async def test_an_ended_scope_that_entered_a_manager_is_freed_without_the_collector() -> None:
    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield

    gc.collect()
    gc.disable()
    try:
        async with user_context("alice-1"):
            scope = weakref.ref(current_scope())
            await current_scope().enter(manager())
        await anyio.wait_all_tasks_blocked()
        assert scope() is None
    finally:
        gc.enable()


async def test_a_manager_that_fails_to_enter_is_not_left() -> None:
    ran: list[str] = []

    class Broken:
        async def __aenter__(self) -> None:
            raise ConnectionError("no")

        async def __aexit__(self, *details: object) -> None:
            ran.append("left")

    async with user_context("alice-1"):
        scope = current_scope()
        with pytest.raises(ConnectionError, match="no"):
            await scope.enter(Broken())
    assert ran == []
    assert scope.report == ()


async def test_a_manager_is_looked_up_on_its_class() -> None:
    """As `async with` does."""

    class Bare:
        pass

    bare: Any = Bare()
    bare.__aenter__ = bare.__aexit__ = lambda: None
    async with user_context("alice-1"):
        with pytest.raises(TypeError, match="A `Bare` is no context manager"):
            await current_scope().enter(bare)


async def test_a_manager_entered_in_a_child_is_left_with_the_child() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        ran.append(current_context().agent_context.get("operation_name", "root"))

    async with user_context("alice-1"):
        await current_scope().enter(manager())
        async with child_context("tool"):
            await current_scope().enter(manager())
        assert ran == ["tool"]
    assert ran == ["tool", "root"]


async def test_a_cancel_scope_that_a_manager_holds_may_cancel_while_it_is_open() -> None:
    ran: list[str] = []

    @contextlib.asynccontextmanager
    async def limited() -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            try:
                yield scope
            finally:
                ran.append("left")

    async with user_context("alice-1"):
        scope = await current_scope().enter(limited())
        scope.cancel()
        await anyio.sleep(0.01)
        assert current_context().user_id == "alice-1"
    assert ran == ["left"]


async def test_all_that_are_being_entered_when_the_scope_closes_are_stopped() -> None:
    ran: list[int] = []
    refused: list[int] = []

    @contextlib.asynccontextmanager
    async def slow(number: int) -> AsyncIterator[None]:
        try:
            await anyio.sleep(60)
            yield
        finally:
            ran.append(number)

    async def enter(scope: RequestScope, number: int) -> None:
        try:
            await scope.enter(slow(number))
        except ContextClosedError:
            refused.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with user_context("alice-1"):
                for number in range(5):
                    tasks.start_soon(enter, current_scope(), number)
                await anyio.wait_all_tasks_blocked()
    assert sorted(ran) == sorted(refused) == [0, 1, 2, 3, 4]


async def test_a_manager_that_was_cancelled_from_within_is_left_with_that() -> None:
    """As an `asyncio.TaskGroup` is whose task failed."""
    seen: list[type[BaseException] | None] = []

    class Cancels:
        async def __aenter__(self) -> anyio.CancelScope:
            self.scope = anyio.CancelScope().__enter__()
            return self.scope

        async def __aexit__(self, kind: Any, exc: Any, traceback: Any) -> bool | None:
            seen.append(kind)
            return self.scope.__exit__(kind, exc, traceback)

    async with user_context("alice-1"):
        scope = await current_scope().enter(Cancels())
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
    assert seen == [anyio.get_cancelled_exc_class()]


async def test_what_a_cancelled_manager_raises_instead_is_reported() -> None:
    class Fails:
        async def __aenter__(self) -> anyio.CancelScope:
            self.scope = anyio.CancelScope().__enter__()
            return self.scope

        async def __aexit__(self, kind: Any, exc: Any, traceback: Any) -> bool | None:
            self.scope.__exit__(kind, exc, traceback)
            raise OSError("instead")

    with pytest.raises(ScopeCloseError) as caught:
        async with user_context("alice-1"):
            scope = await current_scope().enter(Fails())
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
    assert "instead" in str(caught.value.exceptions[0])
