"""`inject`: fills the parameters of a callable that are marked, and takes them out of its sight."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..current import current_scope
from ..errors import ConfigurationError, MissingProviderError, UnreachableProviderError
from ..state import _get
from .compiling import Compiler
from .keys import is_injected, key_of, without_none
from .signatures import Namespace, Unresolved, function_of, resolve, signature_of
from .tailored import tailored

if TYPE_CHECKING:
    from .plans import Plan

__all__ = ["inject"]

C = TypeVar("C", bound=type)
R = TypeVar("R")


@overload
def inject(target: C) -> C: ...
@overload
def inject(target: Callable[..., R]) -> Callable[..., R]: ...


def inject(target: Any) -> Any:
    """
    Fill the parameters that are marked with `Injected` from the scope that is open at the call.

    For functions, methods, classes, partials and objects that are called, sync and async, and
    for generators of both kinds, which are filled when they are first iterated. The parameters
    leave the signature that frameworks read; who passes one by name decides it::

        @inject
        async def search(query: str, session: Injected[AsyncSession]) -> list[str]: ...

        await search("tea")

    What is not async gets what needs no `await`, or is there already.

    Raises:
        ConfigurationError: nothing is marked; or what is marked stands before `*args`.
    """
    frame = sys._getframe(1)
    if isinstance(target, (classmethod, staticmethod)):
        return type(target)(_injected(target.__func__, frame))
    if isinstance(target, type):
        return _injected_class(target, frame)
    return _injected(target, frame)


def _injected(target: Any, frame: FrameType) -> Any:
    needs = Needs(target, frame)
    function = function_of(target)
    if inspect.isasyncgenfunction(function):
        wrapper = _around_async_generator(target, needs)
    elif inspect.isgeneratorfunction(function):
        wrapper = _around_generator(target, needs)
    elif inspect.iscoroutinefunction(function):
        wrapper = tailored(target, needs, _around_coroutine(target, needs))
    else:
        wrapper = tailored(target, needs, _around_call(target, needs))
    functools.update_wrapper(wrapper, target)
    return needs.hidden_from(wrapper)


def _injected_class(cls: Any, frame: FrameType) -> Any:
    if cls.__init__ is object.__init__:
        raise _nothing_marked(cls)
    needs = Needs(cls.__init__, frame, Namespace(cls, frame))
    init = tailored(cls.__init__, needs, _around_call(cls.__init__, needs))
    cls.__init__ = needs.hidden_from(functools.update_wrapper(init, cls.__init__))
    return cls


# --- what is needed ---------------------------------------------------------------------------


class Needs:
    """
    What is marked in one callable. Lives as long as that.

    Attributes:
        wanted: name and type of each; types that were not known when it was decorated are
            filled in at the first call.
        moved: names that callers give by place, but which stand behind a marked one.
        kept: how many parameters stand before the first that is marked.
    """

    def __init__(self, target: Any, frame: FrameType, namespace: Namespace | None = None) -> None:
        self.name = getattr(target, "__qualname__", type(target).__qualname__)
        self.is_async = _is_async(target)
        self.signature = signature_of(target)
        self._namespace: Namespace | None = namespace or Namespace(target, frame)
        self._annotations: dict[str, Any] = {}
        self.visible: list[inspect.Parameter] = []
        marked: list[inspect.Parameter] = []
        for parameter in self.signature.parameters.values():
            annotation = resolve(parameter.annotation, self._namespace)
            if _is_marked(annotation):
                marked.append(parameter)
                self._annotations[parameter.name] = annotation
            else:
                self.visible.append(parameter)
        if not marked:
            raise _nothing_marked(target)
        self.has_default = {p.name for p in marked if p.default is not p.empty}
        self.wanted: list[tuple[str, Any]] | None = None
        self.optional: set[str] = set()
        self.kept, self.moved = self._arranged(marked[0])
        self._resolve_if_known()

    def _arranged(self, first: inspect.Parameter) -> tuple[int, tuple[str, ...]]:
        parameters = list(self.signature.parameters.values())
        behind = [p for p in parameters[parameters.index(first) :] if p in self.visible]
        by_place = [p for p in behind if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if first.kind is not first.KEYWORD_ONLY and (
            first.kind is first.POSITIONAL_ONLY
            or any(p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in behind)
        ):
            raise ConfigurationError(
                f"`{self.name}` has an injected parameter that can be given by place only.",
                "Put it last, behind a `*`.",
            )
        if first.kind is first.KEYWORD_ONLY:
            return sys.maxsize, ()
        kept = parameters.index(first)
        return kept, tuple(p.name for p in by_place)

    def _resolve_if_known(self) -> None:
        if not any(isinstance(each, Unresolved) for each in self._annotations.values()):
            self.pairs()

    def pairs(self) -> list[tuple[str, Any]]:
        """Name and key of each, resolved now if they were not yet."""
        if self.wanted is None:
            wanted = []
            for name, annotation in self._annotations.items():
                key, is_optional = without_none(self._known(name, annotation))
                if is_optional:
                    self.optional.add(name)
                wanted.append((name, key_of(key)))
            self.wanted, self._namespace = wanted, None
        return self.wanted

    def _known(self, name: str, annotation: Any) -> Any:
        if isinstance(annotation, Unresolved) and self._namespace is not None:
            annotation = resolve(annotation.written, self._namespace)
        if isinstance(annotation, Unresolved):
            raise MissingProviderError(
                f"`{self.name}` asks as `{name}` for `{annotation.text}`, which is not known where "
                "it was defined.",
                "Import the type at run time, not only under `TYPE_CHECKING`.",
                path=(self.name, name),
            )
        return annotation

    def check(self, compiler: Compiler) -> None:
        """Refuse what could not be provided."""
        for name, key in self.pairs():
            try:
                plan = compiler.plan(key)
            except MissingProviderError as error:
                if len(error.path) > 1 or not self.may_lack(name):
                    raise
                continue
            if not (self.is_async or plan.is_plain):
                raise self._unreachable(name, plan)

    def _unreachable(self, name: str, plan: Plan) -> UnreachableProviderError:
        return UnreachableProviderError(
            f"`{self.name}` is not async, and asks as `{name}` for a `{plan.name}`, which needs an "
            "`await` to be made.",
            "Write it as `async def`; or leave it out here, if something async has always asked "
            "for that before.",
            path=(self.name, plan.name),
        )

    def may_lack(self, name: str) -> bool:
        """Whether the callable does without it."""
        return name in self.has_default or name in self.optional

    def placed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """What is given by place, but stands behind what is marked, given by name."""
        behind = args[self.kept :]
        if len(behind) > len(self.moved):
            raise TypeError(
                f"{self.name}() takes {self.kept + len(self.moved)} positional arguments but "
                f"{len(args)} were given"
            )
        for name, value in zip(self.moved, behind, strict=False):
            if name in kwargs:
                raise TypeError(f"{self.name}() got multiple values for argument {name!r}")
            kwargs[name] = value
        return args[: self.kept]

    def hidden_from(self, wrapper: Any) -> Any:
        """The wrapper, whose signature shows what a caller gives."""
        wrapper.__signature__ = self.signature.replace(parameters=self.visible)
        hidden = self._annotations.keys()
        shown = dict(getattr(wrapper, "__annotations__", {}))
        wrapper.__annotations__ = {k: v for k, v in shown.items() if k not in hidden}
        wrapper.__ringfence_needs__ = self
        return wrapper


def _is_async(target: Any) -> bool:
    function = function_of(target)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_marked(annotation: Any) -> bool:
    if isinstance(annotation, Unresolved):
        return "Injected[" in annotation.text or is_injected(annotation.written)
    return is_injected(annotation)


def _nothing_marked(target: Any) -> ConfigurationError:
    return ConfigurationError(
        f"`{getattr(target, '__qualname__', type(target).__qualname__)}` has no parameter to "
        "inject.",
        "Mark them: `session: Injected[AsyncSession]`.",
    )


# --- filling ----------------------------------------------------------------------------------


def _services_here() -> tuple[Any, Any]:
    scope = _get()
    recipes = None if scope is None else scope._recipes
    services = None if recipes is None else recipes.services
    if services is None:
        scope = current_scope()
        services = scope._services()
    return scope, services


def _is_filled(needs: Needs, kwargs: dict[str, Any]) -> bool:
    """Put what is there already among the arguments; whether that is all."""
    scope = _get()
    recipes: Any = None if scope is None else scope._recipes
    services = None if recipes is None else recipes.services
    if services is None:
        return False
    filled: bool = services.fill(scope, needs.wanted or needs.pairs(), kwargs)
    return filled


async def fill(needs: Needs, kwargs: dict[str, Any]) -> None:
    """Put what is needed among the arguments by name."""
    scope, services = _services_here()
    for name, key in _asked_for(needs, kwargs, scope, services):
        try:
            kwargs[name] = await services.resolve(scope, key)
        except MissingProviderError as error:
            _do_without(needs, name, kwargs, error)


def fill_now(needs: Needs, kwargs: dict[str, Any]) -> None:
    """The same, without an `await`."""
    scope, services = _services_here()
    for name, key in _asked_for(needs, kwargs, scope, services):
        try:
            kwargs[name] = services.resolve_now(scope, key)
        except MissingProviderError as error:
            _do_without(needs, name, kwargs, error)


def _asked_for(
    needs: Needs, kwargs: dict[str, Any], scope: Any, services: Any
) -> Iterator[tuple[str, Any]]:
    """Name and key of what is still to be filled; what this scope lacks is done without."""
    for name, key in needs.wanted or needs.pairs():
        if name in kwargs:
            continue
        if needs.may_lack(name) and services.lacks(scope, key):
            _leave_out(needs, name, kwargs)
        else:
            yield name, key


def _do_without(needs: Needs, name: str, kwargs: dict[str, Any], error: Any) -> None:
    if len(error.path) > 1 or not needs.may_lack(name):
        raise error
    _leave_out(needs, name, kwargs)


def _leave_out(needs: Needs, name: str, kwargs: dict[str, Any]) -> None:
    if name not in needs.has_default:
        kwargs[name] = None


# --- wrappers ---------------------------------------------------------------------------------


def _around_coroutine(target: Any, needs: Needs) -> Any:
    kept = needs.kept

    async def injected(*args: Any, **kwargs: Any) -> Any:
        if len(args) > kept:
            args = needs.placed(args, kwargs)
        if not _is_filled(needs, kwargs):
            await fill(needs, kwargs)
        return await target(*args, **kwargs)

    return injected


def _around_call(target: Any, needs: Needs) -> Any:
    def injected(*args: Any, **kwargs: Any) -> Any:
        if len(args) > needs.kept:
            args = needs.placed(args, kwargs)
        if not _is_filled(needs, kwargs):
            fill_now(needs, kwargs)
        return target(*args, **kwargs)

    return injected


def _around_generator(target: Any, needs: Needs) -> Any:
    def injected(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        args = needs.placed(args, kwargs) if len(args) > needs.kept else args
        fill_now(needs, kwargs)
        return (yield from target(*args, **kwargs))

    return injected


def _around_async_generator(target: Any, needs: Needs) -> Any:
    async def injected(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        args = needs.placed(args, kwargs) if len(args) > needs.kept else args
        await fill(needs, kwargs)
        inner = target(*args, **kwargs)
        step = anext(inner)
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return
            try:
                sent = yield value
            except GeneratorExit:
                await inner.aclose()
                raise
            except BaseException as error:
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)

    return injected
