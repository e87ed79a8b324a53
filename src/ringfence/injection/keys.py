"""Keys: the types that objects are asked for by, and what `Annotated` says of them."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, TypeVar

import attrs

from ..errors import ConfigurationError

__all__ = ["Injected", "Qualifier", "is_injected", "key_of", "label_of", "without_none"]

T = TypeVar("T")


@attrs.frozen
class Qualifier:
    """
    Tells two objects of one type apart: `Annotated[Engine, Qualifier("replica")]`.

    A value. Other things that `Annotated` holds mean nothing to a container.
    """

    name: str


class _Mark:
    def __repr__(self) -> str:
        return "injected"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Refuse: a framework that asks would have the client decide what is injected."""
        raise ConfigurationError(
            f"`{label_of(source)}` is marked with `Injected`, in a function without `@inject`.",
            "Put `@inject` next to the function, beneath the framework's own decorators.",
        )


INJECTED = _Mark()

Injected = Annotated[T, INJECTED]
"""A parameter that `@inject` fills: `session: Injected[AsyncSession]`. Checkers see the type."""


def is_injected(annotation: Any) -> bool:
    """Whether a parameter is marked with `Injected`."""
    return any(part is INJECTED for part in getattr(annotation, "__metadata__", ()))


def key_of(annotation: Any) -> Any:
    """What an annotation is looked up by: its type, with its qualifiers and nothing else."""
    qualifiers: list[Qualifier] = []
    while typing.get_origin(annotation) is Annotated:
        found = [part for part in annotation.__metadata__ if isinstance(part, Qualifier)]
        qualifiers = [*found, *qualifiers]
        annotation = annotation.__origin__
    if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`
        annotation = annotation.__value__
    for qualifier in qualifiers:
        annotation = Annotated[annotation, qualifier]
    return annotation


def without_none(annotation: Any) -> tuple[Any, bool]:
    """What `X | None` asks for, and whether it may be missing."""
    inner = annotation
    metadata: tuple[Any, ...] = ()
    while typing.get_origin(inner) is Annotated:
        metadata, inner = (*inner.__metadata__, *metadata), inner.__origin__
    if typing.get_origin(inner) not in (typing.Union, types.UnionType):
        return annotation, False
    members = typing.get_args(inner)
    rest = [member for member in members if member is not type(None)]
    if len(rest) == len(members):
        return annotation, False
    wanted: Any = typing.Union[tuple(rest)]  # noqa: UP007
    for part in metadata:
        wanted = Annotated[wanted, part]
    return wanted, True


def label_of(key: Any) -> str:
    """A key as people write it."""
    if typing.get_origin(key) is Annotated:
        names = ", ".join(f'Qualifier("{part.name}")' for part in key.__metadata__)
        return f"Annotated[{label_of(key.__origin__)}, {names}]"
    arguments = typing.get_args(key)
    if isinstance(key, types.UnionType) or typing.get_origin(key) is typing.Union:
        return " | ".join(map(label_of, arguments))
    if arguments:
        origin = typing.get_origin(key)
        return f"{label_of(origin)}[{', '.join(map(label_of, arguments))}]"
    if key is type(None):
        return "None"
    name = getattr(key, "__qualname__", None) or getattr(key, "__name__", None) or repr(key)
    return str(name).rpartition("<locals>.")[2]
