"""What is random elsewhere, drawn from a seed: ids, the order of sets, what the collector does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Iterator
from random import Random
from typing import Any

import anyio._backends._asyncio as backend

from ringfence import fence, identifiers, tasks

__all__ = ["SeededTask", "chance_of", "fresh_ids", "seeded"]

_numbers: dict[int, tuple[object, int]] = {}
"""Of everything that was hashed in this world; it is kept, so that no number is given twice."""


def _number(obj: object) -> int:
    entry = _numbers.get(id(obj))
    if entry is None:
        entry = _numbers[id(obj)] = (obj, len(_numbers))
    return entry[1]


class SeededTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    def __hash__(self) -> int:
        return _number(self)


# Sets of these are walked through by anyio or ringfence, to cancel what is in them.
_NUMBERED: tuple[Any, ...] = (backend.CancelScope, fence.Detached, tasks._LoopTask)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """A block in which only the seed decides; between its worlds call `fresh_ids`."""
    level, was_enabled = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    gc.collect()
    gc.freeze()
    for cls in _NUMBERED:
        cls.__hash__ = _number
    try:
        yield
    finally:
        for cls in _NUMBERED:
            del cls.__hash__
        _forget()
        gc.unfreeze()
        if was_enabled:
            gc.enable()
        logging.disable(level)


def _forget() -> None:
    _numbers.clear()
    identifiers._pool.clear()
    gc.collect()


def fresh_ids() -> None:
    """Forget the world before; each world is given the same ids, in the same order."""
    _forget()
    identifiers._pool.extend(_IDS)


_IDS = tuple(f"00000000-0000-4000-8000-{number:012x}" for number in range(5000, 0, -1))


def chance_of(seed: int, world: int) -> Random:
    """The one source of chance in a world."""
    return Random(f"{seed}/{world}")
