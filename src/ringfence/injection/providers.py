"""Providers: how an object is made, how long it lives, and where that was said."""

from __future__ import annotations

import collections.abc
import contextlib
import enum
import functools
import inspect
import typing
from collections.abc import Callable
from types import FrameType
from typing import Any

import attrs

from ..errors import ConfigurationError
from .keys import key_of, label_of, without_none
from .lifetimes import Lifetime
from .signatures import Namespace, Unresolved, code_of, function_of, resolve, signature_of

__all__ = ["Kind", "Parameter", "Provider", "provider_of", "value_provider"]


class Kind(enum.Enum):
    """How the object comes out of its source."""

    VALUE = "value"
    CALL = "call"
    ASYNC_CALL = "async call"
    MANAGER = "manager"
    ASYNC_MANAGER = "async manager"


@attrs.frozen
class Parameter:
    """
    One thing that a source asks for. A value.

    Attributes:
        key: the type it is looked up by; `Unresolved`, or `None` if it has no annotation.
        is_keyword: it can be given by name only.
        has_default: if it is not provided, its `default` stands.
        is_optional: if it is not provided, it is `None`.
    """

    name: str
    key: Any
    is_keyword: bool
    has_default: bool
    is_optional: bool
    default: Any = None


@attrs.define(eq=False)
class Provider:
    """
    How one type of object is made. Lives as long as its container.

    Attributes:
        key: the type it is asked for by.
        source: the class, function or value.
        make: what is called; gives the object, an awaitable or a context manager.
        place: `file:line` where it was registered.
    """

    key: Any
    source: Any
    make: Callable[..., Any]
    kind: Kind
    lifetime: Lifetime
    place: str
    namespace: Namespace | None

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the source asks for; resolved when first read, so that it may be defined later."""
        if self.kind is Kind.VALUE or self.namespace is None:
            return ()
        signature = signature_of(self.source)
        found = tuple(
            _parameter(each, self.namespace)
            for each in signature.parameters.values()
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        )
        self.namespace = None
        return found

    @property
    def name(self) -> str:
        """What to call it in a message or a report."""
        return label_of(self.key)


def _parameter(parameter: inspect.Parameter, namespace: Namespace) -> Parameter:
    has_default = parameter.default is not parameter.empty
    is_keyword = parameter.kind is parameter.KEYWORD_ONLY
    if parameter.annotation is parameter.empty:
        return Parameter(parameter.name, None, is_keyword, has_default, False)
    resolved = resolve(parameter.annotation, namespace)
    if isinstance(resolved, Unresolved):
        return Parameter(parameter.name, resolved, is_keyword, has_default, False)
    wanted, is_optional = without_none(resolved)
    default = parameter.default if has_default else None
    return Parameter(parameter.name, key_of(wanted), is_keyword, has_default, is_optional, default)


# --- what a source is -------------------------------------------------------------------------

_ITERATED: dict[Any, Kind] = {
    collections.abc.AsyncIterator: Kind.ASYNC_MANAGER,
    collections.abc.AsyncGenerator: Kind.ASYNC_MANAGER,
    collections.abc.AsyncIterable: Kind.ASYNC_MANAGER,
    collections.abc.Iterator: Kind.MANAGER,
    collections.abc.Generator: Kind.MANAGER,
    collections.abc.Iterable: Kind.MANAGER,
}
_MANAGED: dict[Any, Kind] = {
    contextlib.AbstractAsyncContextManager: Kind.ASYNC_MANAGER,
    contextlib.AbstractContextManager: Kind.MANAGER,
}


def value_provider(value: Any, key: Any, place: str) -> Provider:
    """A provider of an object that is there already."""
    key = type(value) if key is None else key_of(key)
    return Provider(key, value, lambda: value, Kind.VALUE, Lifetime.APP, place, None)


def provider_of(
    source: Any, key: Any, lifetime: Lifetime, *, enter: bool, place: str, frame: FrameType | None
) -> Provider:
    """
    A provider of what `source` makes.

    Raises:
        ConfigurationError: it is nothing to call, or does not say what it gives.
    """
    if not callable(source):
        raise ConfigurationError(
            f"A `{type(source).__name__}` cannot be called to make an object.",
            "Pass a class or a function; an object that is there already is `value=`.",
        )
    namespace = Namespace(source, frame)
    make, kind, given = _how(source, namespace)
    key = given if key is None else key_of(key)
    if enter and kind in (Kind.CALL, Kind.ASYNC_CALL):
        make, kind = _entered(source, key, kind)
    if key is None or isinstance(key, Unresolved) or key is type(None):
        raise ConfigurationError(
            f"`{_name_of(source)}` does not say what it gives.",
            "Annotate what it returns, or pass `gives=`.",
        )
    return Provider(key, source, make, kind, lifetime, place, namespace)


def _how(source: Any, namespace: Namespace) -> tuple[Any, Kind, Any]:
    """What to call, what comes out of it, and of which type that is said to be."""
    if isinstance(source, type):
        return source, Kind.CALL, source
    function = function_of(source)
    said = getattr(function, "__annotations__", {}).get("return")
    given = None if said is None else resolve(said, namespace)
    origin = typing.get_origin(given)
    inner = key_of(typing.get_args(given)[0]) if typing.get_args(given) else None
    is_wrapped = hasattr(source, "__wrapped__")
    if inspect.isasyncgenfunction(function):
        make = source if is_wrapped else contextlib.asynccontextmanager(source)
        return make, Kind.ASYNC_MANAGER, inner if origin in _ITERATED else given
    if inspect.isgeneratorfunction(function):
        make = source if is_wrapped else contextlib.contextmanager(source)
        return make, Kind.MANAGER, inner if origin in _ITERATED else given
    if origin in _MANAGED and not inspect.iscoroutinefunction(function):
        return source, _MANAGED[origin], inner
    kind = Kind.ASYNC_CALL if inspect.iscoroutinefunction(function) else Kind.CALL
    return source, kind, key_of(given)


def _entered(source: Any, key: Any, kind: Kind) -> tuple[Any, Kind]:
    origin = typing.get_origin(key) or key
    if kind is Kind.CALL and hasattr(origin, "__aenter__"):
        return source, Kind.ASYNC_MANAGER
    if kind is Kind.CALL and hasattr(origin, "__enter__"):
        return source, Kind.MANAGER
    raise ConfigurationError(
        f"`{_name_of(source)}` gives no context manager to enter.",
        "Leave out `enter=True`, or write an async generator that enters it.",
    )


def _name_of(source: Any) -> str:
    return str(getattr(source, "__qualname__", type(source).__qualname__))


def place_of(source: Any, frame: FrameType | None) -> str:
    """`file:line` of a decorated function, else of the call that registered it."""
    code = code_of(source) if inspect.isfunction(source) else None
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
