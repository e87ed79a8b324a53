"""`bound_stream`: an async generator that keeps its own task and context, whoever consumes it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio

from . import counters
from .current import current_scope_or_none
from .errors import ConfigurationError, WrongTypeError
from .settings import default_settings
from .tasks import is_cancellation, is_on_trio, spawn, wait_out

__all__ = ["BoundStream", "bound_stream"]

T = TypeVar("T")


class _Driver(Generic[T]):
    """
    Steps one generator in one task, when asked.

    The generator's cancel scopes, task groups and sessions therefore see one task from
    beginning to end. Knows nothing of the stream that asks, so that an abandoned stream can be
    collected, and close it.
    """

    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        self.generator = generator
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.wanted = anyio.Event()
        self.answered = anyio.Event()
        self.finished = anyio.Event()
        self.is_closing = False
        self.is_stepping = False
        self.cancel: Callable[[], object] = self.finished.is_set

    async def run(self) -> None:
        generator = self.generator
        try:
            while True:
                try:
                    await self.wanted.wait()
                except BaseException as interrupted:  # by a cancel scope inside the generator
                    step = generator.athrow(interrupted)
                else:
                    if self.is_closing:
                        break
                    self.wanted = anyio.Event()
                    step = generator.__anext__()
                self.is_stepping = True
                self.items.append(await step)
                self.is_stepping = False
                self.answered.set()
        except BaseException as error:  # kept, for whoever consumes
            self.error = error
        self.is_stepping = False
        try:
            await generator.aclose()
        except BaseException as error:
            self.error = self.error or error
        self.finished.set()
        self.answered.set()

    def close_soon(self) -> None:
        """Ask the generator to end: by `aclose` if it waits, by a cancellation if it works."""
        if not self.is_closing:
            self.is_closing = True
            self.wanted.set()
            if self.is_stepping:
                self.cancel()

    async def close(self) -> None:
        """Ask the generator to end, and wait until it has."""
        self.close_soon()
        await self.finished.wait()


def _is_async_generator(value: object) -> bool:
    return inspect.isasyncgen(value)


class BoundStream(Generic[T]):
    """
    The items of an async generator that runs in a task and a context of its own.

    Made by `bound_stream`. Lives until the generator ends, `aclose` is called, its block ends,
    it is collected, or the scope in which it was made closes.
    """

    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        if not _is_async_generator(generator):
            raise WrongTypeError(
                f"`bound_stream` takes an async generator, not a `{type(generator).__name__}`.",
                "Call the generator function: `bound_stream(tokens())`.",
                rule="type",
            )
        self._generator: AsyncGenerator[T, None] = generator
        self._scope = current_scope_or_none()
        self._context = copy_context()
        self._driver: _Driver[T] | None = None
        self._forget: Callable[[], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_entered = False
        self._is_closed = False
        self._is_waiting = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        driver = self._driver or self._start()
        if self._is_waiting:
            raise ConfigurationError(
                "Two tasks iterate one stream.", "Give each consumer a stream of its own."
            )
        if not driver.items and not driver.finished.is_set():
            self._is_waiting = True
            driver.answered = anyio.Event()
            driver.wanted.set()
            try:
                await driver.answered.wait()
            except anyio.get_cancelled_exc_class():
                await self._stop(driver)
                raise
            finally:
                self._is_waiting = False
        if driver.items:
            return driver.items.popleft()
        self._release()
        raise self._ending(driver)

    def _start(self) -> _Driver[T]:
        if self._is_closed:
            raise StopAsyncIteration
        if is_on_trio() and not self._is_entered:
            raise ConfigurationError(
                "On trio a stream needs a block, which closes it.",
                "Write `async with bound_stream(...) as stream:`.",
            )
        scope = self._scope
        if scope is not None and scope.state != "open":
            raise scope._closed_error()
        driver = self._driver = _Driver(self._generator)
        if not is_on_trio():
            self._loop = asyncio.get_running_loop()
        driver.cancel = spawn(driver.run, "ringfence stream", self._context, driver.close_soon)
        if scope is not None:
            finalisers = scope._finalisers()
            handle = finalisers.add(driver.close, "bound_stream")
            self._forget = partial(finalisers.discard, handle)
        return driver

    def _ending(self, driver: _Driver[T]) -> BaseException:
        error = driver.error
        if self._is_closed or isinstance(error, StopAsyncIteration):
            return StopAsyncIteration()
        if driver.is_closing and self._scope is not None:
            return self._scope._closed_error()
        if error is None or is_cancellation(error):
            ended = RuntimeError("the generator was cancelled from within")
            ended.__cause__ = error
            return ended
        driver.error = StopAsyncIteration()  # an error is raised once; then it is exhausted
        return error

    async def _stop(self, driver: _Driver[T]) -> BaseException | None:
        """End the generator, whatever cancellations arrive; the last of those."""
        self._is_closed = True
        limit = (self._scope.settings if self._scope else default_settings()).finaliser_timeout
        driver.close_soon()
        cancelled = await wait_out(driver.finished, limit)
        if not driver.finished.is_set():
            counters.count("stream.timeout")
            driver.cancel()
            cancelled = await wait_out(driver.finished, limit) or cancelled
        self._release()
        return cancelled

    def _release(self) -> None:
        if self._forget is not None:
            self._forget()
            self._forget = None

    async def aclose(self) -> None:
        """End the generator in its own task. Harmless when it has ended."""
        driver, was_closed = self._driver, self._is_closed
        self._is_closed = True
        if driver is None:
            await self._generator.aclose()
            return
        cancelled = await self._stop(driver)
        if cancelled is not None:
            raise cancelled
        error = driver.error
        if error is not None and not was_closed and isinstance(error, Exception):
            if not isinstance(error, StopAsyncIteration):
                driver.error = StopAsyncIteration()
                raise error

    async def __aenter__(self) -> Self:
        self._is_entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        driver = getattr(self, "_driver", None)
        if driver is not None and not driver.finished.is_set() and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(driver.close_soon)


def bound_stream(generator: AsyncGenerator[T, None]) -> BoundStream[T]:
    """
    Stream from an async generator without letting its scope out.

    The generator runs in a task of its own, in the context that is current now, one item at a
    time and no further ahead than asked; scopes, cancel scopes, task groups and sessions inside
    it are right however it is consumed, interleaved, left or closed::

        async for token in bound_stream(model_tokens()):
            ...

    On trio use it as `async with bound_stream(...) as stream` only.

    Raises:
        WrongTypeError: not an async generator.
        ContextClosedError: on iterating, the scope it was made in has ended.
        ConfigurationError: on iterating, two tasks at once, or on trio without a block.
    """
    return BoundStream(generator)
