"""Memory: bytes that one more open scope costs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from contextvars import Context
from typing import Any

import attrs

from ringfence import child_context, user_context

from .cases import IDS, Floor
from .timing import drive

__all__ = ["Bytes", "bytes_per_scope"]


@attrs.frozen
class Bytes:
    """What one more of something costs, in bytes, and in floor objects."""

    name: str
    title: str
    each: float
    x_floor: float


def bytes_per_scope(count: int) -> list[Bytes]:
    """
    Open `count` of each and divide; the ids given are shared and not counted.

    A child is the only one of its parent, so what the parent keeps for it is counted too.
    """
    floor = _each(count, Floor)
    kinds = [
        ("floor", "the floor object", floor),
        ("root", "a root scope, with its context", _each(count, lambda: user_context(**IDS))),
        ("child", "a child scope, with its context", _each_child(count)),
    ]
    return [Bytes(name, title, each, each / floor) for name, title, each in kinds]


def _each(count: int, make: Callable[[], Any]) -> float:
    def measured() -> float:
        blocks: list[Any] = [None] * count
        began = _traced()
        for number in range(count):
            block = blocks[number] = make()
            drive(block.__aenter__())
        grown = _traced() - began
        for block in reversed(blocks):
            drive(block.__aexit__(None, None, None))
        return grown / count

    return _tracing(lambda: Context().run(measured))


def _each_child(count: int) -> float:
    parents = [(Context(), user_context(**IDS)) for _ in range(count)]
    children: list[Any] = [None] * count

    def measured() -> float:
        for context, parent in parents:
            context.run(drive, parent.__aenter__())
        began = _traced()
        for number, (context, _) in enumerate(parents):
            child = children[number] = context.run(child_context, "search")
            context.run(drive, child.__aenter__())
        grown = _traced() - began
        for (context, parent), child in zip(parents, children, strict=True):
            context.run(drive, child.__aexit__(None, None, None))
            context.run(drive, parent.__aexit__(None, None, None))
        return grown / count

    return _tracing(measured)


def _tracing(measured: Callable[[], float]) -> float:
    tracemalloc.start()
    try:
        return measured()
    finally:
        tracemalloc.stop()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
