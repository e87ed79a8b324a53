"""Calls: a function whose one parameter is injected, where the object is there already."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ringfence.injection import Injected, inject

from .containers import CONTAINERS, OURS, Asking, wireup_of
from .shapes import Shape

__all__ = ["CALLS"]

here: ContextVar[Any] = ContextVar("benchmark_scope")
"""The open scope of a library that has no current one: what an injected call must ask."""


def handler_of(annotation: Any) -> Any:
    """A new async function with one parameter, so annotated, that returns what it was given."""

    async def handle(it: Any) -> Any:
        return it

    handle.__annotations__ = {"it": annotation}
    return handle


def _ringfence(shape: Shape) -> Asking:
    names = CONTAINERS[OURS](shape).names
    return Asking(
        "seen.it = await handle()",
        {**names, "handle": inject(handler_of(Injected[shape.wanted]))},  # type: ignore[name-defined]
        "async with user_context(user_id):",
        "await current_scope().get(wanted)",
    )


def _dishka(shape: Shape) -> Asking:
    base = importlib.import_module("dishka.integrations.base")
    library = importlib.import_module("dishka")
    handle = base.wrap_injection(
        func=handler_of(library.FromDishka[shape.wanted]),
        container_getter=lambda args, kwargs: here.get(),
        is_async=True,
    )
    return Asking(
        "seen.it = await handle()",
        {**CONTAINERS["dishka"](shape).names, "handle": handle, "here": here},
        "async with container() as scope:",
        "here.set(scope); await scope.get(wanted)",
    )


def _wireup(shape: Shape) -> Asking:
    library = importlib.import_module("wireup")
    container = wireup_of(shape)
    fill = library.inject_from_container(container, here.get)
    names = {
        "enter": container.enter_scope,
        "wanted": shape.wanted,
        "handle": fill(handler_of(library.Injected[shape.wanted])),
        "here": here,
    }
    return Asking(
        "seen.it = await handle()",
        names,
        "async with enter() as scope:",
        "here.set(scope); await scope.get(wanted)",
    )


def _svcs(shape: Shape) -> Asking:
    """It injects nothing: what stands for a call is that the function asks."""
    return Asking(
        "seen.it = await scope.aget(wanted)",
        CONTAINERS["svcs"](shape).names,
        "async with Container(registry) as scope:",
    )


def _that_depends(shape: Shape) -> Asking:
    library = importlib.import_module("that_depends")
    names = CONTAINERS["that-depends"](shape).names
    handle = handler_of(shape.wanted)
    handle.__defaults__ = (library.Provide[names["wanted"]],)
    return Asking(
        "seen.it = await handle()",
        {**names, "handle": library.inject(scope=None)(handle)},
        "async with context(container):",
        "await wanted.resolve()",
    )


def _dependency_injector(shape: Shape) -> Asking:
    wiring = importlib.import_module("dependency_injector.wiring")
    containers = importlib.import_module("dependency_injector.containers")
    container = containers.DynamicContainer()
    container.wanted = CONTAINERS["dependency-injector"](shape).names["get"]
    handle = handler_of(shape.wanted)
    handle.__defaults__ = (wiring.Provide["wanted"],)
    module: Any = types.ModuleType("benchmark_wired")  # it injects into modules only
    module.handle = wiring.inject(handle)
    container.wire(modules=[module])
    return Asking("seen.it = await handle()", {"handle": module.handle})


CALLS: dict[str, Callable[[Shape], Asking]] = {
    OURS: _ringfence,
    "dishka": _dishka,
    "wireup": _wireup,
    "svcs": _svcs,
    "that-depends": _that_depends,
    "dependency-injector": _dependency_injector,
}
