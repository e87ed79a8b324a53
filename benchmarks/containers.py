"""Containers: how each library enters a scope, gives one object and leaves, as a statement."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import attrs

from ringfence import Ringfence, current_scope
from ringfence.injection import Container, Lifetime

from .cases import IDS
from .shapes import Shape

__all__ = [
    "CONTAINERS",
    "DISHKA_FASTEST",
    "OURS",
    "Asking",
    "dishka_of",
    "fastapi_callables",
    "ringfence_of",
    "wireup_of",
]

OURS = "ringfence"
DISHKA_FASTEST = "dishka-fastest"


@attrs.frozen
class Asking:
    """One iteration, as `Case` has it; what was resolved is put into `seen.it`."""

    statement: str
    names: dict[str, Any]
    around: str = ""
    prepare: str = ""


def ringfence_of(shape: Shape) -> Ringfence:
    """Our container with what the shape needs, in a fence."""
    container = Container()
    for cls in shape.parts:
        if cls is shape.wanted and shape.is_generator:
            container.provide(shape.giver(), gives=cls)
        else:
            lifetime = Lifetime.APP if cls is shape.shared else Lifetime.REQUEST
            container.provide(cls, lifetime=lifetime)
    return Ringfence(services=container)


def _ringfence(shape: Shape) -> Asking:
    names = {
        "user_context": ringfence_of(shape).user_context,
        "current_scope": current_scope,
        "user_id": IDS["user_id"],
        "wanted": shape.wanted,
    }
    statement = "async with user_context(user_id): seen.it = await current_scope().get(wanted)"
    return Asking(statement, names)


def dishka_of(shape: Shape, scopes: Any = None) -> Any:
    """Dishka's container, with its default scopes or with others."""
    dishka = importlib.import_module("dishka")
    scope = scopes or dishka.Scope
    provider = dishka.Provider(scope=scope.REQUEST)
    for cls in shape.parts:
        if cls is shape.wanted and shape.is_generator:
            provider.provide(shape.giver())
        else:
            provider.provide(cls, scope=scope.APP if cls is shape.shared else scope.REQUEST)
    return dishka.make_async_container(provider, **({"scopes": scopes} if scopes else {}))


def _dishka(shape: Shape) -> Asking:
    names = {"container": dishka_of(shape), "wanted": shape.wanted}
    return Asking("async with container() as scope: seen.it = await scope.get(wanted)", names)


def _dishka_fastest(shape: Shape) -> Asking:
    """Two scopes instead of five, and no `await` where none is needed."""
    dishka = importlib.import_module("dishka")

    class Two(dishka.BaseScope):  # type: ignore[misc,name-defined]
        APP = dishka.new_scope("APP")
        REQUEST = dishka.new_scope("REQUEST")

    names = {"container": dishka_of(shape, Two), "wanted": shape.wanted}
    get = "await scope.get(wanted)" if shape.is_generator else "scope.get_sync(wanted)"
    return Asking(f"async with container() as scope: seen.it = {get}", names)


def wireup_of(shape: Shape, *more: Any) -> Any:
    """Wireup's container, `more` registered too."""
    wireup = importlib.import_module("wireup")
    known: list[Any] = []
    for cls in shape.parts:
        source = shape.giver() if cls is shape.wanted and shape.is_generator else cls
        lifetime = "singleton" if cls is shape.shared else "scoped"
        known.append(wireup.injectable(source, lifetime=lifetime))
    return wireup.create_async_container(injectables=[*known, *more])


def _wireup(shape: Shape) -> Asking:
    names = {"enter": wireup_of(shape).enter_scope, "wanted": shape.wanted}
    return Asking("async with enter() as scope: seen.it = await scope.get(wanted)", names)


def _svcs(shape: Shape) -> Asking:
    svcs = importlib.import_module("svcs")
    registry = svcs.Registry()

    def factory(cls: type, parts: tuple[type, ...]) -> Callable[..., Any]:
        def call(svcs_container: Any) -> Any:
            return cls(*[svcs_container.get(part) for part in parts])

        return call

    async def give(svcs_container: Any) -> Any:
        inner = shape.giver()(await svcs_container.aget(shape.shared))
        async for thing in inner:
            yield thing

    for cls, parts in shape.parts.items():
        if cls is shape.shared:
            registry.register_value(cls, cls())
        elif cls is shape.wanted and shape.is_generator:
            registry.register_factory(cls, give)
        else:
            registry.register_factory(cls, factory(cls, parts))
    names = {"Container": svcs.Container, "registry": registry, "wanted": shape.wanted}
    enter = "async with Container(registry) as scope"
    return Asking(f"{enter}: seen.it = await scope.aget(wanted)", names)


def _that_depends(shape: Shape) -> Asking:
    library = importlib.import_module("that_depends")
    providers = library.providers

    def creator(cls: type) -> Callable[..., Iterator[Any]]:
        def create(*parts: Any) -> Iterator[Any]:
            yield cls(*parts)

        return create

    known: dict[type, Any] = {}
    for cls, parts in shape.parts.items():
        given = [known[part] for part in parts]
        if cls is shape.shared:
            known[cls] = providers.Singleton(cls)
        elif cls is shape.wanted and shape.is_generator:
            known[cls] = providers.ContextResource(shape.giver(), *given)
        else:
            known[cls] = providers.ContextResource(creator(cls), *given)
    space = {cls.__name__.lower(): provider for cls, provider in known.items()}
    container = type(f"Everything{next(_numbers)}", (library.BaseContainer,), space)
    names = {
        "context": library.container_context,
        "container": container,
        "wanted": known[shape.wanted],
    }
    return Asking("async with context(container): seen.it = await wanted.resolve()", names)


_numbers = itertools.count()  # it warns of a second container of one name


def _dependency_injector(shape: Shape) -> Asking:
    """It has no scope: what stands for one is that everything is forgotten afterwards."""
    providers = importlib.import_module("dependency_injector.providers")
    known: dict[type, Any] = {}
    for cls, parts in shape.parts.items():
        given = [known[part] for part in parts]
        if cls is shape.shared:
            known[cls] = providers.Singleton(cls, *given)
        elif cls is shape.wanted and shape.is_generator:
            known[cls] = providers.Resource(shape.giver(), *given)
        else:
            known[cls] = providers.ContextLocalSingleton(cls, *given)
    get = known[shape.wanted]
    if shape.is_generator:
        names = {"get": get, "shutdown": get.shutdown}
        return Asking("seen.it = await get(); await shutdown()", names)
    resets = [provider.reset for cls, provider in known.items() if cls is not shape.shared]

    def forget() -> None:
        for reset in resets:
            reset()

    return Asking("seen.it = get(); forget()", {"get": get, "forget": forget})


def fastapi_callables(shape: Shape) -> dict[type, Any]:
    """A dependency function for each class: async, as plain ones would go to a thread."""
    fastapi = importlib.import_module("fastapi")
    known: dict[type, Any] = {}
    for cls, parts in shape.parts.items():
        if cls is shape.shared:
            known[cls] = _always(cls())
            continue
        is_generator = cls is shape.wanted and shape.is_generator
        function = _passing_on(shape.giver()) if is_generator else _making(cls)
        function.__signature__ = inspect.Signature([
            inspect.Parameter(
                f"part{number}",
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[part, fastapi.Depends(known[part])],
            )
            for number, part in enumerate(parts)
        ])  # fmt: skip
        known[cls] = function
    return known


def _always(value: Any) -> Any:
    async def give() -> Any:
        return value

    return give


def _making(cls: type) -> Any:
    async def make(**parts: Any) -> Any:
        return cls(**parts)

    return make


def _passing_on(giver: Any) -> Any:
    async def give(**parts: Any) -> Any:
        async for thing in giver(**parts):
            yield thing

    return give


def _fastapi(shape: Shape) -> Asking:
    """FastAPI's solver alone, with the request and the exit stacks that it asks for."""
    utils = importlib.import_module("fastapi.dependencies.utils")
    request_class = importlib.import_module("starlette.requests").Request
    fastapi = importlib.import_module("fastapi")

    async def endpoint(**values: Any) -> None: ...

    annotation = Annotated[shape.wanted, fastapi.Depends(fastapi_callables(shape)[shape.wanted])]
    parameter = inspect.Parameter("it", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    endpoint.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    dependant = utils.get_dependant(path="/", call=endpoint)
    facts = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}

    async def solve(seen: Any) -> None:
        async with contextlib.AsyncExitStack() as outer, contextlib.AsyncExitStack() as inner:
            stacks = {"fastapi_inner_astack": outer, "fastapi_function_astack": inner}
            solved = await utils.solve_dependencies(
                request=request_class({**facts, **stacks}),
                dependant=dependant,
                async_exit_stack=outer,
                embed_body_fields=False,
            )
            seen.it = solved.values["it"]

    return Asking("await solve(seen)", {"solve": solve})


CONTAINERS: dict[str, Callable[[Shape], Asking]] = {
    OURS: _ringfence,
    "dishka": _dishka,
    DISHKA_FASTEST: _dishka_fastest,
    "wireup": _wireup,
    "svcs": _svcs,
    "that-depends": _that_depends,
    "dependency-injector": _dependency_injector,
    "fastapi": _fastapi,
}
