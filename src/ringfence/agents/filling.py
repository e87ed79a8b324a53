"""Callables with parameters that are `Injected`: filled, whether or not `@inject` was written."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from ..errors import ConfigurationError
from ..injection.injecting import Needs, _injected, _is_marked
from ..injection.signatures import Namespace, function_of, resolve, signature_of

__all__ = ["constructor_needs", "filled", "is_async", "name_of", "refuse_generators"]


def filled(target: Any, frame: FrameType) -> Any:
    """`target`, with `@inject` around it if it needs that and has it not."""
    return _injected(target, frame) if _has_marks(target, Namespace(target, frame)) else target


def constructor_needs(cls: Any, frame: FrameType) -> Needs | None:
    """What is to be injected into a class's constructor; `None` if nothing is."""
    namespace = Namespace(cls, frame)
    init: Any = cls.__init__
    if init is object.__init__ or not _has_marks(init, namespace):
        return None
    return Needs(init, frame, namespace)


def _has_marks(target: Any, namespace: Namespace) -> bool:
    parameters = signature_of(target).parameters.values()
    return any(_is_marked(resolve(p.annotation, namespace)) for p in parameters)


def is_async(target: Any) -> bool:
    """Whether a call of `target` gives a coroutine."""
    # A wrapper may be, though what it is around is not.
    return any(map(inspect.iscoroutinefunction, (target, function_of(target))))


def refuse_generators(target: Any, what: str) -> None:
    """Refuse what would run on after its block, in whatever context iterates it."""
    function = function_of(target)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{what} `{name_of(target)}` is a generator, and would outlive its block.",
            "Return a list; or iterate `bound_stream(...)` inside, and emit events for progress.",
        )


def name_of(target: Any) -> str:
    """What a callable is called in messages."""
    return str(getattr(target, "__qualname__", type(target).__qualname__))
