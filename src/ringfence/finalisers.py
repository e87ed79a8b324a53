"""Finalisers: clean-up that runs once, last in first out, and that nothing can stop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import attrs

from . import counters
from .errors import WrongTypeError
from .tasks import Job, Signal, is_cancellation, wait_out

__all__ = ["FinaliserReport", "Finalisers"]


@attrs.frozen
class FinaliserReport:
    """
    What became of one finaliser. An immutable record on a closed scope's `report`.

    Attributes:
        name: of the function, or the type of the manager.
        kind: `callback`, `manager`, or `child` for a child that its parent closed.
        duration: seconds.
        error: what it raised; `None` if it succeeded. `TimeoutError` if it was cut short.
    """

    name: str
    kind: Literal["callback", "manager", "child"]
    duration: float
    error: BaseException | None


class _Callback:
    """A function to call; its awaitable, if it gives one, runs in a task of its own."""

    kind: Literal["callback"] = "callback"

    def __init__(self, call: Callable[[], Any], name: str) -> None:
        self.call = call
        self.name = name
        self.awaitable: Awaitable[Any] | None = None

    def start(self, exc: BaseException | None, context: Callable[[], contextvars.Context]) -> Job:
        return Job(self._finish, f"ringfence finaliser {self.name}", context())

    async def _finish(self) -> None:
        if self.awaitable is not None:
            await self.awaitable


class _Entered:
    """A context manager, entered and left by one task: cancel scopes and locks demand that."""

    kind: Literal["manager"] = "manager"

    def __init__(
        self,
        manager: Any,
        context: contextvars.Context,
        on_entered: Callable[[_Entered], None],
        patience: float,
        name: str | None = None,
    ) -> None:
        self.name = name or type(manager).__qualname__
        self.manager = manager
        self.on_entered = on_entered
        self.value: Any = None
        self.is_entered = False
        self.is_given_up = False  # it took too long to enter, and its scope has closed
        self.ready = Signal()
        self.leave = Signal()
        self.exc: BaseException | None = None
        self.patience = patience
        self.job = Job(
            self._keep,
            f"ringfence keeper {self.name}",
            context,
            self.ready.set,
            self._at_loop_end,
        )

    def start(self, exc: BaseException | None, context: Callable[[], contextvars.Context]) -> Job:
        self.exc = exc
        self.leave.set()
        return self.job

    async def _keep(self) -> None:
        manager, kind = self.manager, type(self.manager)
        if hasattr(kind, "__aenter__"):
            self.value = await kind.__aenter__(manager)
        else:
            self.value = kind.__enter__(manager)
        if self.is_given_up:
            await self._exit(None)
            return
        self.is_entered = True
        self.on_entered(self)
        self.ready.set()
        try:
            await self.leave.wait()
        except BaseException as cancelled:  # by the manager's own cancel scope
            if not await self._exit(cancelled):
                raise
        else:
            await self._exit(self.exc)

    def _at_loop_end(self) -> None:
        """The scope is about to close, in its turn; if nobody closes it, leave all the same."""
        asyncio.get_running_loop().call_later(self.patience, self.leave.set)

    async def _exit(self, exc: BaseException | None) -> bool:
        manager, kind = self.manager, type(self.manager)
        details = (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)
        if hasattr(kind, "__aexit__"):
            return bool(await kind.__aexit__(manager, *details))
        return bool(kind.__exit__(manager, *details))


class EnteringStopped(Exception):
    """A manager was not entered, because its scope began to close meanwhile."""


class Finalisers:
    """
    The clean-up of one scope: what was registered, in the order it was.

    Lives as long as its scope. Awaitable work runs in tasks of its own, so that the request's
    task can be cancelled any number of times, in any way, without any of it being skipped.
    """

    __slots__ = ("_context", "_entering", "_finishing", "_limit", "entries", "report")

    def __init__(self, limit: float, context: Callable[[], contextvars.Context]) -> None:
        self.entries: list[_Callback | _Entered] = []
        self.report: list[FinaliserReport] = []
        self._entering: list[_Entered] = []
        self._finishing: list[Signal] = []  # what runs before its turn
        self._limit = limit
        self._context = context  # a new one in which the scope is the current one

    def add(self, call: Callable[[], Any], name: str) -> _Callback:
        """Register a function; returns a handle for `discard`."""
        entry = _Callback(call, name)
        self.entries.append(entry)
        return entry

    @property
    def is_needed(self) -> bool:
        """Whether there is something to run, or will be once it is entered."""
        return bool(self.entries or self._entering)

    @property
    def is_plain(self) -> bool:
        """Whether no finaliser is known to need an event loop."""
        return all(
            isinstance(entry, _Callback)
            and entry.awaitable is None
            and not inspect.iscoroutinefunction(_innermost(entry.call))
            for entry in self.entries
        )

    def discard(self, handle: _Callback) -> None:
        """Forget a registered function, if it has not run."""
        self.take(handle)

    def take(self, handle: _Callback) -> bool:
        """Forget it, whoever else would run it; false if somebody does, or has."""
        try:
            self.entries.remove(handle)
        except ValueError:
            return False
        return True

    async def finish(self, owner: object) -> None:
        """Run, before its turn, what was registered for this manager or as this handle."""
        for entry in self.entries:
            if entry is owner or (isinstance(entry, _Entered) and entry.manager is owner):
                self.entries.remove(entry)
                done = Signal()
                self._finishing.append(done)
                try:
                    await self._finish_now(entry)
                finally:
                    self._finishing.remove(done)
                    done.set()
                return

    async def _finish_now(self, entry: _Callback | _Entered) -> None:
        began = time.perf_counter()
        error = cancelled = None
        if isinstance(entry, _Callback):
            try:
                entry.awaitable = self._context().run(entry.call)
            except BaseException as raised:
                error = raised
        if isinstance(entry, _Entered) or inspect.isawaitable(entry.awaitable):
            error, cancelled = await entry.start(None, self._context).wait(self._limit)
        error = _own_error(error, None, entry.name)
        self._note(entry, began, error)
        if cancelled is not None:
            raise cancelled
        if error is not None:
            raise error

    async def enter(self, manager: Any, name: str | None = None) -> Any:
        """Enter a context manager in a task that will also leave it, and return its value."""
        kind = type(manager)
        if not (hasattr(kind, "__aenter__") or hasattr(kind, "__enter__")):
            raise WrongTypeError(
                f"A `{kind.__name__}` is no context manager.",
                "Pass what you would write after `async with`, or use `callback`.",
                rule="type",
            )
        entry = _Entered(manager, self._context(), self.entries.append, self._limit, name)
        self._entering.append(entry)
        try:
            await self._until_ready(entry)
        finally:
            self._entering.remove(entry)
        if entry.is_entered:
            return entry.value
        error = entry.job.error
        if error is None or is_cancellation(error):
            raise EnteringStopped
        raise error

    async def _until_ready(self, entry: _Entered) -> None:
        try:
            await entry.ready.wait_soon()
        except anyio.get_cancelled_exc_class():
            if not entry.is_entered:
                entry.job.cancel()
            await wait_out(entry.ready, None)
            raise

    def run_inline(self) -> bool:
        """Run finalisers until one needs to be awaited; whether all have run."""
        if self._finishing:  # it may use what comes next
            return False
        while self.entries:
            entry = self.entries[-1]
            if not isinstance(entry, _Callback) or entry.awaitable is not None:
                return False
            self.entries.pop()
            began = time.perf_counter()
            try:
                result = self._context().run(entry.call)
            except BaseException as error:
                self._note(entry, began, error)
                continue
            if inspect.isawaitable(result):
                entry.awaitable = result
                self.entries.append(entry)
                return False
            self._note(entry, began, None)
        return not self._entering

    async def run(self, exc: BaseException | None) -> BaseException | None:
        """Run the rest; the last cancellation that arrived meanwhile, for the caller to raise."""
        cancelled = None
        for finishing in list(self._finishing):
            cancelled = await wait_out(finishing, None) or cancelled  # it is bounded itself
        began = time.perf_counter()
        for entering in list(self._entering):
            if not entering.is_entered:
                entering.job.cancel()
                cancelled = await wait_out(entering.ready, self._limit) or cancelled
            if not entering.ready.is_set():
                entering.is_given_up = True
                counters.count("finaliser.abandoned")
                late = TimeoutError(
                    f"entering took longer than {self._limit:g} s and was abandoned"
                )
                self._note(entering, began, late)
        while not self.run_inline():
            if not self.entries:
                break
            entry = self.entries.pop()
            began = time.perf_counter()
            error, cancelled_now = await entry.start(exc, self._context).wait(self._limit)
            cancelled = cancelled_now or cancelled
            self._note(entry, began, _own_error(error, exc, entry.name))
        return cancelled

    def forget(self) -> None:
        """Let go of the scope: all has run, and only the report is left."""
        self.entries.clear()
        self._context = contextvars.copy_context

    def _note(self, entry: _Callback | _Entered, began: float, error: BaseException | None) -> None:
        if error is not None:
            counters.count("finaliser.error")
        took = time.perf_counter() - began
        self.report.append(FinaliserReport(entry.name, entry.kind, took, error))


def _innermost(call: Any) -> Any:
    while isinstance(call, functools.partial):
        call = call.func
    return call


def _own_error(
    error: BaseException | None, exc: BaseException | None, name: str
) -> BaseException | None:
    """`error` without what is only the body's own exception, come back."""
    if error is None or error is exc:
        return None
    if isinstance(error, BaseExceptionGroup) and exc is not None:
        rest = error.split(lambda leaf: leaf is exc)[1]
        only = None if rest is None or len(rest.exceptions) > 1 else rest.exceptions[0]  # pyright: ignore[reportGeneralTypeIssues]
        return only or rest
    if is_cancellation(error):
        if is_cancellation(exc):
            return None
        cut = RuntimeError(f"`{name}` was cancelled from within")
        cut.__cause__ = error
        return cut
    return error
