"""Plain code within an async block, which an event loop of another thread holds open meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Generic, TypeVar

from anyio.from_thread import start_blocking_portal

from ..errors import ConfigurationError

__all__ = ["call_in_loop", "remember_loop", "work_within"]

B = TypeVar("B")
T = TypeVar("T")

LOOP_TIMEOUT = 5.0
"""Seconds in which an event loop answers, if nobody blocks it by waiting for us."""

_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("ringfence_loop", default=None)


def remember_loop() -> None:
    """Let plain code that is called from here, in whatever thread, find this event loop again."""
    _loop.set(asyncio.get_running_loop())


def call_in_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Await `work` in the event loop that plain code was called from, or in one of its own.

    Raises:
        ConfigurationError: the event loop is blocked, by code that waits for this.
    """
    with _loop_to_use() as loop:
        return asyncio.run_coroutine_threadsafe(work(), loop).result()


def work_within(block: Callable[[], AbstractAsyncContextManager[B]], work: Callable[[B], T]) -> T:
    """
    Do plain `work` here, in this thread, while an event loop holds `block` open.

    It runs in the context that the block has made: its scope is current.

    Raises:
        ConfigurationError: the event loop is blocked, by code that waits for this.
    """
    with _loop_to_use() as loop:
        held = _Held(block)
        # The task begins in a copy of the context that is current here.
        closed = asyncio.run_coroutine_threadsafe(held.hold(), loop)
        try:
            context, value = held.opened.result()
            result = context.run(work, value)
        except BaseException as error:
            held.close(error, closed)
            raise
        held.close(None, closed)
        return result


class _Held(Generic[B]):
    """A block that is open in one thread for the work of another. Lives as long as the work."""

    def __init__(self, block: Callable[[], AbstractAsyncContextManager[B]]) -> None:
        self._block = block
        self.opened: concurrent.futures.Future[tuple[Context, B]] = concurrent.futures.Future()
        self._over: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()

    async def hold(self) -> None:
        """Keep the block open until the work is over."""
        try:
            async with self._block() as value:
                self.opened.set_result((copy_context(), value))
                error = await asyncio.wrap_future(self._over)
                if error is not None:
                    raise error
        except BaseException as error:
            if not self.opened.done():
                self.opened.set_exception(error)
            raise

    def close(self, error: BaseException | None, closed: concurrent.futures.Future[None]) -> None:
        """Leave the block as the work has ended; wait for it, and raise what comes of it."""
        is_exit = error is not None and not isinstance(error, Exception)
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # its loop has ended it
            # `SystemExit` in a task would end the whole event loop.
            self._over.set_result(asyncio.CancelledError() if is_exit else error)
        try:
            closed.result()
        except concurrent.futures.CancelledError:
            if not is_exit:
                raise


@contextlib.contextmanager
def _loop_to_use() -> Iterator[asyncio.AbstractEventLoop]:
    loop = _loop.get()
    if loop is None or not loop.is_running():
        with start_blocking_portal() as portal:
            yield portal.call(_own_loop)
        return
    answered = threading.Event()
    loop.call_soon_threadsafe(answered.set)
    if _runs_here(loop) or not answered.wait(LOOP_TIMEOUT):
        raise ConfigurationError(
            "The event loop that this was started from is blocked, and so are all its users.",
            "Await the async form (`ainvoke`), or call the plain one in a worker thread.",
        )
    yield loop


async def _own_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
