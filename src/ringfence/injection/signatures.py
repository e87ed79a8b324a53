"""Signatures: what a callable asks for, its annotations resolved where they can be."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import attrs

__all__ = ["Namespace", "Unresolved", "code_of", "function_of", "resolve", "signature_of"]


@attrs.frozen
class Unresolved:
    """
    An annotation that names what is not there (yet); a value.

    Attributes:
        text: as it reads in a message.
        written: what it is: a string, or a type that holds one.
    """

    text: str
    written: Any = attrs.field(eq=False)


def function_of(source: Any) -> Any:
    """The function that a call of `source` runs: beneath partials, methods and decorators."""
    while True:
        if isinstance(source, functools.partial):
            source = source.func
        elif isinstance(source, (types.MethodType, classmethod, staticmethod)):
            source = source.__func__
        elif hasattr(source, "__wrapped__") and not isinstance(source, type):
            source = source.__wrapped__
        elif isinstance(source, type):
            return _constructor_of(source)
        elif not inspect.isroutine(source) and hasattr(type(source), "__call__"):  # noqa: B004
            source = type(source).__call__
        else:
            return source


def _constructor_of(cls: type) -> Any:
    return cls.__init__ if cls.__init__ is not object.__init__ else cls.__new__  # type: ignore[misc]


def code_of(source: Any) -> types.CodeType | None:
    """The code that a call of `source` runs, if it is Python's."""
    code: types.CodeType | None = getattr(function_of(source), "__code__", None)
    return code


class Namespace:
    """
    Where the annotations of one callable are looked up, innermost first.

    Lives until they are resolved: it holds what was local where the callable was registered.
    """

    def __init__(self, source: Any, frame: FrameType | None) -> None:
        function = function_of(source)
        # Not copied: what is named may be defined further down.
        self.globals: dict[str, Any] = getattr(function, "__globals__", {})
        self.locals: dict[str, Any] = {}
        if isinstance(source, type) and source.__module__ in sys.modules:
            generated = self.globals  # a constructor may be, with globals of its own
            self.globals = vars(sys.modules[source.__module__])
            if generated is not self.globals:
                self.locals.update(generated)
        is_local = "<locals>" in getattr(source, "__qualname__", "<locals>")
        if frame is not None and is_local:
            self.locals.update(frame.f_locals)
        self.locals.update(_closure_of(function))
        for owner in (source, function):
            parameters = getattr(owner, "__type_params__", ())
            self.locals.update({parameter.__name__: parameter for parameter in parameters})
        if isinstance(source, type):
            self.locals.setdefault(source.__name__, source)


def _closure_of(function: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def resolve(annotation: Any, namespace: Namespace) -> Any:
    """The annotation without strings; `Unresolved` if a name in it is not there."""
    stub = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        hints = typing.get_type_hints(
            stub, namespace.globals, namespace.locals, include_extras=True
        )
    except Exception:  # a name that only type checkers know, or syntax of a newer Python
        return Unresolved(_text_of(annotation), annotation)
    return hints["it"]


def _text_of(annotation: Any) -> str:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = annotation.__origin__
    return str(getattr(annotation, "__forward_arg__", annotation))


def signature_of(source: Callable[..., Any]) -> inspect.Signature:
    """The parameters that a call of `source` takes, its annotations as they were written."""
    try:
        return inspect.signature(source)
    except ValueError:  # `dict` and the like, which are called without
        return inspect.Signature()
