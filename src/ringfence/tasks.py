"""Tasks of the event loop's own, which only their maker can cancel, and waiting for them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import CodeType
from typing import Any

import anyio

from . import counters

__all__ = [
    "Job", "Signal", "codes_of", "context_of", "is_cancellation", "is_on_trio", "running_task",
    "spawn", "wait_out",
]  # fmt: skip

_running: set[asyncio.Task[None]] = set()  # the event loop itself keeps weak references only


def is_on_trio() -> bool:
    """Whether the calling code runs in a trio task."""
    trio: Any = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def is_cancellation(error: BaseException | None) -> bool:
    """Whether this is asyncio's or trio's cancellation."""
    if isinstance(error, asyncio.CancelledError):
        return True
    trio: Any = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


if sys.version_info >= (3, 12):

    def context_of(task: asyncio.Task[Any]) -> contextvars.Context:
        """The context that a task runs in."""
        return task.get_context()

else:

    def context_of(task: asyncio.Task[Any]) -> contextvars.Context:
        """The context that a task runs in: the first it refers to, as Python 3.11 does not say."""
        parts = [*gc.get_referents(task), *getattr(task, "__dict__", {}).values()]
        return next(part for part in parts if type(part) is contextvars.Context)


def codes_of(task: asyncio.Task[Any]) -> Iterator[CodeType]:
    """The code of the coroutines that a task stands in, one awaiting the next."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        if inspect.iscoroutine(awaited):
            yield awaited.cr_code
            awaited = awaited.cr_await
        elif inspect.isgenerator(awaited):  # an `__await__` method
            awaited = awaited.gi_yieldfrom
        elif type(awaited).__name__ == "coroutine_wrapper":  # what `coroutine.__await__()` gives
            awaited = next(iter(gc.get_referents(awaited)), None)
        else:
            return


def running_task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs here, if one does and others may cancel it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if isinstance(task, _LoopTask) else task


class _LoopTask(asyncio.Task[None]):
    """
    A task that the end of the event loop does not cancel, but wait for.

    `asyncio.run` ends by cancelling every task there is, clean-up in mid-work included.
    """

    at_loop_end: Callable[[], object] | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        if sys._getframe(1).f_code.co_name == "_cancel_all_tasks":
            if self.at_loop_end is not None:
                self.get_loop().call_soon(self.at_loop_end)
            return False
        return super().cancel(msg)


def spawn(
    work: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    context: contextvars.Context,
    at_loop_end: Callable[[], object] | None = None,
) -> Callable[[], object]:
    """
    Start a task in `context` that belongs to the event loop, and return what cancels it.

    `work` must raise nothing: there is nobody to hear it. The end of an asyncio loop does not
    cancel it; it calls `at_loop_end`, and waits.
    """
    if is_on_trio():
        import trio

        scope = trio.CancelScope()

        async def main() -> None:
            with scope:
                await work()

        trio.lowlevel.spawn_system_task(main, name=name, context=context)
        return scope.cancel
    loop = asyncio.get_running_loop()
    task = _LoopTask(work(), loop=loop, name=name, context=context)
    task.at_loop_end = at_loop_end
    _running.add(task)
    task.add_done_callback(_forget)
    return task.cancel


def _forget(task: Any) -> None:
    _running.discard(task)
    task.at_loop_end = None  # whose it is has a reference to the task, and is not to be kept alive


class Signal:
    """
    Something that happens once, and that tasks wait for. Lives as long as it is of interest.

    An `anyio.Event` asks which event loop runs whenever it is made or waited for; this one asks
    only where somebody really has to wait.
    """

    __slots__ = ("_has_happened", "_waiting")

    def __init__(self) -> None:
        self._has_happened = False
        self._waiting: list[Any] = []  # a future or, on trio, an event of each

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._has_happened

    def set(self) -> None:
        """Wake whoever waits, and let nobody wait any more."""
        self._has_happened = True
        for waiting in self._waiting:
            if not isinstance(waiting, asyncio.Future):
                waiting.set()
            elif not waiting.done():
                waiting.set_result(None)

    async def wait(self) -> None:
        """Wait until it happens; may be cancelled."""
        if self._has_happened:
            return
        if is_on_trio():
            event = anyio.Event()
            await self._wait_for(event, event.wait())
        else:
            future = asyncio.get_running_loop().create_future()
            await self._wait_for(future, future)

    async def wait_soon(self) -> None:
        """The same, for what most likely happens in the turn of a task that is ready."""
        if not (self._has_happened or is_on_trio()):
            await _next_turn()
        await self.wait()

    async def _wait_for(self, waiting: Any, its_end: Awaitable[None]) -> None:
        self._waiting.append(waiting)
        try:
            await its_end
        finally:
            self._waiting.remove(waiting)


def _next_turn() -> Coroutine[Any, Any, None]:
    """
    Let the tasks that are ready go first. On asyncio only.

    To look again afterwards takes neither a future nor a timer, and no further round of the loop.
    """
    return asyncio.sleep(0)


class Job:
    """
    Work in a task of its own, which no cancellation but ours can reach.

    Lives until the work is done; then `error` is what it raised, and `done` is set.
    """

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        context: contextvars.Context,
        at_end: Callable[[], None] | None = None,
        at_loop_end: Callable[[], None] | None = None,
    ) -> None:
        self.done = Signal()
        self.error: BaseException | None = None
        self.is_void = False  # cancelled before it began, and so never done
        self._work: Callable[[], Coroutine[Any, Any, None]] | None = work
        self._at_end = at_end
        self._has_begun = False
        self._cancel = spawn(self._run, name, context, at_loop_end)

    def cancel(self) -> None:
        """Cancel the work. What has not begun never will: asyncio would drop it unheard."""
        if self._has_begun:
            self._cancel()
        else:
            self.is_void = True

    async def _run(self) -> None:
        self._has_begun = True
        try:
            work, self._work = self._work, None  # no cycle with whoever made it
            if work is not None and not self.is_void:
                await work()
        except BaseException as error:  # kept, for whoever waits
            self.error = error
        finally:
            at_end, self._at_end = self._at_end, None
            if at_end is not None:
                at_end()
            self.done.set()

    async def wait(self, limit: float) -> tuple[BaseException | None, BaseException | None]:
        """
        Wait `limit` seconds, then cancel the work and wait as long again.

        Returns what it raised (`TimeoutError` if it was cut short), and the last cancellation
        that the waiting task got meanwhile.
        """
        cancelled = await wait_out(self.done, limit)
        if self.done.is_set():
            return self.error, cancelled
        counters.count("finaliser.timeout")
        late = TimeoutError(f"took longer than {limit:g} s and was cancelled")
        self.cancel()
        cancelled = await wait_out(self.done, limit) or cancelled
        if not self.done.is_set():
            counters.count("finaliser.abandoned")
            late = TimeoutError(f"took longer than {limit:g} s, would not stop, and was abandoned")
        late.__cause__ = self.error
        return late, cancelled


async def wait_out(event: Signal | anyio.Event, limit: float | None) -> BaseException | None:
    """
    Wait for `event` at most `limit` seconds, whatever arrives meanwhile.

    A shield keeps off the cancellations of anyio and trio; those of `task.cancel()`, and a
    keyboard interrupt on trio, are caught, and the last is returned, for the caller to raise
    when it is done.
    """
    cancelled = None if event.is_set() or is_on_trio() else await _let_go_first()
    if event.is_set():
        return cancelled
    deadline = float("inf") if limit is None else anyio.current_time() + limit
    while not event.is_set() and anyio.current_time() < deadline:
        try:
            with anyio.CancelScope(shield=True, deadline=deadline):
                await event.wait()
        except GeneratorExit:
            raise  # the coroutine is being destroyed: it can wait for nothing
        except BaseException as error:
            cancelled = error
    return cancelled


async def _let_go_first() -> BaseException | None:
    """Let the tasks that are ready go first; the cancellation that arrived meanwhile."""
    try:
        await _next_turn()
    except asyncio.CancelledError as error:
        # A cancel scope says so again, and it is not ours to raise until it is let through.
        is_of_scope = str(error).startswith("Cancelled via cancel scope ")
        return None if is_of_scope else error
    return None
