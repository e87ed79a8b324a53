"""Shapes: the objects that every container is asked for, the same classes in the same graph."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs

__all__ = ["SHAPES", "Ends", "Shape", "deep", "one", "reached", "wide"]

SIZES = (1, 10, 50)


class Ends:
    """How many second halves of generators were run."""

    count = 0


@attrs.frozen(kw_only=True)
class Shape:
    """
    What is resolved: classes, dependencies before who asks for them, the last one wanted.

    Args:
        shared: the class of which there is one for the application, if any.
        is_generator: the wanted one is given by an async generator.
    """

    parts: dict[type, tuple[type, ...]]
    shared: type | None = None
    is_generator: bool = False

    @property
    def wanted(self) -> type:
        """What is asked for."""
        return list(self.parts)[-1]

    def giver(self) -> Callable[..., AsyncIterator[Any]]:
        """The async generator function that gives what is wanted, of its only part."""
        wanted = self.wanted
        (part,) = self.parts[wanted]

        async def give(part0: Any) -> AsyncIterator[Any]:
            yield wanted(part0)
            Ends.count += 1

        give.__annotations__ = {"part0": part, "return": AsyncIterator[wanted]}  # type: ignore[valid-type]
        return give


def made(name: str, *parts: type) -> type:
    """A class whose constructor asks for `parts`, and keeps them."""
    space: dict[str, Any] = {part.__name__: part for part in parts}
    words = [f"part{number}" for number in range(len(parts))]
    asked = [f"{word}: {part.__name__}" for word, part in zip(words, parts, strict=True)]
    text = (
        f"def __init__({', '.join(['self', *asked])}) -> None:\n"
        f"    self.parts = ({''.join(word + ', ' for word in words)})\n"
    )
    exec(compile(text, f"<benchmark {name}>", "exec", dont_inherit=True), space)
    return type(name, (), {"__init__": space["__init__"], "__module__": __name__})


def one(*, is_generator: bool = False) -> Shape:
    """One object of the request, with one of the application's."""
    shared = made("Shared")
    wanted = made("Wanted", shared)
    return Shape(parts={shared: (), wanted: (shared,)}, shared=shared, is_generator=is_generator)


def deep(size: int) -> Shape:
    """Each asks for the one before it: `size` dependencies, one beneath the other."""
    parts: dict[type, tuple[type, ...]] = {}
    below: tuple[type, ...] = ()
    for number in range(size + 1):
        cls = made(f"Deep{number}", *below)
        parts[cls] = below
        below = (cls,)
    return Shape(parts=parts)


def wide(size: int) -> Shape:
    """One asks for `size` others, that ask for nothing."""
    leaves = [made(f"Leaf{number}") for number in range(size)]
    parts: dict[type, tuple[type, ...]] = dict.fromkeys(leaves, ())
    parts[made("Wide", *leaves)] = tuple(leaves)
    return Shape(parts=parts)


def reached(thing: Any) -> list[Any]:
    """The object and everything that it is made of, each time it occurs."""
    found = [thing]
    for part in thing.parts:
        found += reached(part)
    return found


SHAPES: dict[str, Callable[[], Shape]] = {
    "one": one,
    "generator": lambda: one(is_generator=True),
    **{f"deep-{size}": lambda size=size: deep(size) for size in SIZES},  # type: ignore[misc]
    **{f"wide-{size}": lambda size=size: wide(size) for size in SIZES},  # type: ignore[misc]
}
