"""What an object of the application's keeps: found by looking, when somebody asks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable

from .shared import attributes_of

__all__ = ["keeps"]

MOST = 10_000
"""Objects that are looked at, beneath one: it may be a whole client with its pools."""

_SERIES = (list, tuple, set, frozenset, deque)


def keeps(keeper: object, obj: object) -> bool:
    """Whether `keeper` leads to `obj`, by attributes and by what builtin containers hold."""
    seen, todo = {id(keeper)}, deque([keeper])
    while todo and len(seen) < MOST:
        for each in _within(todo.popleft()):
            if each is obj:
                return True
            if id(each) not in seen:
                seen.add(id(each))
                todo.append(each)
    return False


def _within(holder: object) -> Iterable[object]:
    found: list[object] = []
    with contextlib.suppress(RuntimeError):  # it was changed by a thread while it was read
        if isinstance(holder, dict):
            found += [*dict.keys(holder), *dict.values(holder)]
        elif isinstance(holder, _SERIES):
            found += holder
        found += attributes_of(holder)
    return found
