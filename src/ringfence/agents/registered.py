"""What is registered as an agent: a coroutine function, or a class that is made for each run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from ..current import current_scope
from ..errors import ConfigurationError
from ..injection.injecting import Needs, fill
from ..injection.signatures import signature_of
from .filling import constructor_needs, filled, is_async, name_of, refuse_generators

__all__ = ["Agent", "checked_agent"]

Agent = Callable[..., Coroutine[Any, Any, Any]]
_TAKEN = frozenset({"budget", "depth", "timeout"})


def checked_agent(target: Any, frame: FrameType) -> Agent:
    """
    What runs the agent `target`, with its dependencies.

    Raises:
        ConfigurationError: no async function, and no class with an `async def run`.
    """
    if isinstance(target, type):
        return _of_class(target, frame)
    if not callable(target):
        raise ConfigurationError(
            f"A `{name_of(target)}` is no agent.",
            "Register an `async def`, or a class with an `async def run`.",
        )
    _check_function(target)
    agent: Agent = filled(target, frame)
    return agent


def _check_function(target: Any) -> None:
    refuse_generators(target, "Agent")
    if not is_async(target):
        raise ConfigurationError(
            f"The agent `{name_of(target)}` is not async, and would stop everybody else.",
            "Make it `async def`; call what blocks by a `tool`, which runs in a thread.",
        )
    taken = sorted(_TAKEN & signature_of(target).parameters.keys())
    if taken:
        raise ConfigurationError(
            f"The agent `{name_of(target)}` takes `{taken[0]}`, as `run` does itself.",
            "Call it something else; `left()` says what a run has left.",
        )


def _of_class(cls: type, frame: FrameType) -> Agent:
    written = inspect.getattr_static(cls, "run", None)
    if not inspect.isroutine(written) or isinstance(written, (classmethod, staticmethod)):
        raise ConfigurationError(
            f"The agent `{name_of(cls)}` has no method `run`.",
            "Give the class an `async def run(self, ...)`.",
        )
    _check_function(written)
    method, needs = filled(written, frame), constructor_needs(cls, frame)

    async def run(*args: Any, **kwargs: Any) -> Any:
        made = await _made(cls, needs)
        if type(made) is not cls:  # what a container gives for it may be of a subclass
            return await filled(made.run, sys._getframe())(*args, **kwargs)
        return await method(made, *args, **kwargs)

    return run


async def _made(cls: Any, needs: Needs | None) -> Any:
    """By the container if it provides such a thing, else anew."""
    scope = current_scope()
    services = None if scope._recipes is None else scope._recipes.services
    if services is not None and cls in getattr(services, "registered", (cls,)):
        return await scope.get(cls)
    given: dict[str, Any] = {}
    if needs is not None:
        await fill(needs, given)
    try:
        signature_of(cls).bind(**given)
    except TypeError as error:
        raise ConfigurationError(
            f"The agent `{name_of(cls)}` cannot be made: {error}.",
            "Mark what its constructor takes as `Injected[...]`, or have a container provide it.",
        ) from None
    return cls(**given)
