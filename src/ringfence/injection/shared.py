"""What is everybody's: objects of the application that a factory of one request hands on."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

from ..offers import offer_of

__all__ = ["attributes_of", "is_of_one"]


def is_of_one(obj: object) -> bool:
    """Whether it is of a type of which each request has its own, whoever else may hold it."""
    kind = type(obj)
    return hasattr(kind, "__ringfence_owned__") or any(map(offer_of, kind.__mro__))


def attributes_of(obj: object) -> tuple[object, ...]:
    """What it has as attributes now; none of its own code is run."""
    return () if isinstance(obj, type) else tuple(_attributes(obj))


def _attributes(obj: object) -> Iterator[object]:
    for cls in type(obj).__mro__:
        for name, member in vars(cls).items():
            if name == "__dict__":
                yield from tuple(object.__getattribute__(obj, "__dict__").values())
            elif inspect.ismemberdescriptor(member):  # a slot
                with contextlib.suppress(AttributeError):  # it may be empty
                    yield member.__get__(obj, cls)
