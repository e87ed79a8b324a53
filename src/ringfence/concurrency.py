"""Work inside a scope: `task_group` for tasks, `bind` for callbacks and threads, `run_as`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import anyio

from .context import UserExecutionContext
from .current import current_scope, user_context
from .errors import ConfigurationError, WrongTypeError
from .identity import Identity
from .tasks import is_on_trio

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from .protocols import Recipes

__all__ = ["ScopeTaskGroup", "bind", "run_as", "task_group"]

P = ParamSpec("P")
T = TypeVar("T")


class ScopeTaskGroup:
    """
    Tasks that belong to the scope in which the group was opened, whoever starts them.

    Lives as long as its block, which waits for every task; an error in one cancels the others.
    A task started from within a child scope is still the group's scope's.
    """

    def __init__(self) -> None:
        self._group: TaskGroup = anyio.create_task_group()
        self._context: Context | None = None

    async def __aenter__(self) -> Self:
        current_scope()
        self._context = copy_context()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._group.__aexit__(exc_type, exc, traceback)

    def start_soon(
        self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: object = None
    ) -> None:
        """Start `fn(*args)` as a task; returns at once."""
        context = self._fresh()
        self._group.create_task(context.run(fn, *args), name=name, context=context)

    def cancel(self) -> None:
        """Cancel every task of the group."""
        self._group.cancel_scope.cancel()

    def _fresh(self) -> Context:
        if self._context is None:
            raise ConfigurationError(
                "This task group is not open.", "Write `async with task_group() as tasks:`."
            )
        context = self._context.copy()
        context.run(current_scope)  # refuse a scope that has ended, before the task begins
        return context


def task_group() -> ScopeTaskGroup:
    """
    Tasks within the scope that is open here, awaited by the block::

        async with task_group() as tasks:
            tasks.start_soon(fetch, "a")
            tasks.start_soon(fetch, "b")

    Raises:
        NoContextError: on entering, no scope is open.
        ExceptionGroup: on leaving, what the tasks raised.
    """
    return ScopeTaskGroup()


def bind(fn: Callable[P, T]) -> Callable[P, T]:
    """
    A function that runs `fn` in the scope that is open here, from any callback or thread.

    Each call runs in a copy of the context as it was when bound. Once the scope has ended, a
    call is refused::

        loop.run_in_executor(None, bind(read_file), path)

    Raises:
        NoContextError: no scope is open here.
        WrongTypeError: `fn` is async; start it with `task_group()`.
        ContextClosedError: on calling it, the scope has ended.
    """
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise WrongTypeError(
            "`bind` takes a plain function; an async one runs in the context of its task.",
            "Start it with `task_group()`, or with `fence.detach` if it outlives the scope.",
            rule="type",
        )
    current_scope()
    context = copy_context()

    @functools.wraps(fn)
    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        here = context.copy()
        here.run(current_scope)
        return here.run(fn, *args, **kwargs)

    return bound


def run_as(
    identity: Identity | UserExecutionContext | str,
    fn: Callable[..., T],
    /,
    *args: Any,
    fence: Recipes | None = None,
    **kwargs: Any,
) -> T:
    """
    Run a plain function as one user, in a context of its own, and return its result.

    For sync engines: scripts, threads, sync workers. Finalisers run before it returns; async
    ones in an event loop made for them::

        report = run_as(Identity("u-17"), make_report, month)

    Raises:
        ConfigurationError: this thread runs an event loop; use `async with user_context`.
        WrongTypeError: `fn` is async.
        and what `user_context` and `fn` raise.
    """
    if _has_event_loop():
        raise ConfigurationError(
            "This thread runs an event loop, which `run_as` would block.",
            "Use `async with user_context(...)`, or call it in a thread.",
        )
    if inspect.iscoroutinefunction(fn):
        raise WrongTypeError(
            "`run_as` runs a plain function.",
            "Use `async with user_context(...)` around the call.",
            rule="type",
        )
    return Context().run(_run_block, user_context(identity, fence=fence), fn, args, kwargs)


def _run_block(block: Any, fn: Callable[..., T], args: Any, kwargs: Any) -> T:
    _drive(block.__aenter__())
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:
        _leave(block, error)
        raise
    _leave(block, None)
    return result


def _leave(block: Any, error: BaseException | None) -> None:
    details = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    block.run_plain_finalisers(error)
    if not block.needs_event_loop:
        _drive(block.__aexit__(*details))
    else:
        anyio.run(block.__aexit__, *details)


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise ConfigurationError(
        "A part of this scope needs an event loop.", "Use `async with user_context(...)`."
    )


def _has_event_loop() -> bool:
    if is_on_trio():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
