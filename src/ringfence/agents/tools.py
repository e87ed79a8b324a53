"""`tool`: a callable each of whose calls is a `tool_call`, with a context of its own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, Protocol, TypeVar, overload

import anyio.to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from ..errors import ConfigurationError, WrongTypeError
from ..injection.injecting import Needs, fill
from .filling import filled, is_async, name_of, refuse_generators
from .runs import tool_call

__all__ = ["tool"]

R = TypeVar("R")
Tool = Callable[..., Coroutine[Any, Any, R]]


class _Decorator(Protocol):
    @overload  # what is async is so already
    def __call__(self, target: Tool[R], /) -> Tool[R]: ...
    @overload
    def __call__(self, target: Callable[..., R], /) -> Tool[R]: ...


@overload
def tool(target: Tool[R], *, name: str | None = ..., timeout: float | None = ...) -> Tool[R]: ...
@overload
def tool(
    target: Callable[..., R], *, name: str | None = ..., timeout: float | None = ...
) -> Tool[R]: ...
@overload
def tool(*, name: str | None = ..., timeout: float | None = ...) -> _Decorator: ...


def tool(target: Any = None, *, name: str | None = None, timeout: float | None = None) -> Any:
    """
    Have each call of a function run as a tool: in a child context, with its two events.

    Its signature stays as it is, so that frameworks make the right schema of it; parameters that
    are `Injected` leave it, and are filled in the context of the call. A function that is not
    async becomes it, and runs in a worker thread, which no time-out can stop half-way: that is
    raised once the thread is done. Beneath a framework's own decorator, or around a function that
    is given to it; where a module of `ringfence.integrations` runs the agent, that makes each call
    a block already, and `inject` is enough::

        @agent.tool_plain
        @tool(timeout=5)
        async def search(query: str, session: Injected[AsyncSession]) -> list[str]: ...

    Args:
        target: the function, async or not; a method may be decorated in its class.
        name: as users see it; the function's own if not given.
        timeout: seconds for one call.

    Raises:
        ConfigurationError: no function, a generator, a class, or a blank name.
    """
    frame = sys._getframe(1)
    if target is None:
        return lambda fn: _tool(fn, name, timeout, frame)
    return _tool(target, name, timeout, frame)


def _tool(target: Any, name: str | None, timeout: float | None, frame: FrameType) -> Any:
    if isinstance(target, (classmethod, staticmethod)):
        return type(target)(_tool(target.__func__, name, timeout, frame))
    _refuse(target)
    name = _own_name(target) if name is None else name
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError("The name of a tool is blank.", "Name it as users shall see it.")
    inner = filled(target, frame)
    around = _around_coroutine if is_async(target) else _around_call
    return functools.update_wrapper(around(inner, name, timeout), inner)


def _own_name(target: Any) -> str:
    inner = getattr(target, "func", target)  # of a partial
    return str(getattr(inner, "__name__", type(inner).__name__))


def _refuse(target: Any) -> None:
    if not callable(target) or isinstance(target, type):
        raise ConfigurationError(
            f"A `{name_of(target)}` is no tool.",
            "Give `tool` a function; of a class, one of its methods.",
        )
    refuse_generators(target, "Tool")


def _around_coroutine(target: Any, name: str, timeout: float | None) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with tool_call(name, timeout=timeout):
            return await target(*args, **kwargs)

    return call


def _around_call(target: Callable[..., Any], name: str, timeout: float | None) -> Any:
    needs: Needs | None = getattr(target, "__ringfence_needs__", None)

    async def call(*args: Any, **kwargs: Any) -> Any:
        async with tool_call(name, timeout=timeout):
            if needs is not None:
                args = needs.placed(args, kwargs)
                await fill(needs, kwargs)  # here, where what needs an `await` can have it
            # In a tuple, as trio would refuse a coroutine in words of its own.
            (result,) = await anyio.to_thread.run_sync(lambda: (target(*args, **kwargs),))
            if isinstance(result, Awaitable):
                _refuse_awaitable(result, name)
            await checkpoint_if_cancelled()  # a result that comes too late is none
            return result

    return call


def _refuse_awaitable(result: Any, name: str) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()  # else it would be reported as never awaited, too
    raise WrongTypeError(
        f"The tool `{name}` is no `async def`, and returned something to be awaited.",
        "Make it `async def`, and await that inside.",
        rule="type",
    )
