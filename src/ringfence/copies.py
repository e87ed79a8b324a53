"""Copies of data that share nothing with the original."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import operator
import pathlib
import re
import types
import uuid
from collections.abc import Iterator
from typing import Any

from . import isolation
from .errors import ContextLimitError, InvalidContextError, RingfenceError

__all__ = ["isolated_copy", "mutable_objects", "unreadable"]

_ATOMS = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis),
        dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone,
        decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern,
        pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath,
        ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    }
)  # fmt: skip
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_LONGEST_KEY = 60
_LONGEST_REASON = 200

_Path = tuple[Any, Any]  # the path of what holds it, or None; and the key. Text only in errors.


def isolated_copy(
    data: dict[str, Any],
    field: str = "data",
    max_depth: int = 100,
    max_items: int = 100_000,
) -> dict[str, Any]:
    """
    A copy of `data` that shares no mutable object with it.

    Plain containers are copied directly, anything else by `copy.deepcopy`. Cycles and aliases
    are kept. Costs about a quarter of `copy.deepcopy` on nested plain data.

    >>> mine = {"steps": [1]}
    >>> theirs = isolated_copy(mine)
    >>> theirs["steps"].append(2); mine["steps"]
    [1]

    Args:
        field: how messages call it.
        max_depth: of nested containers.
        max_items: of all plain containers together.

    Raises:
        SharedObjectError: a registered shared object is inside.
        ContextLimitError: nested too deep, or too much.
        InvalidContextError: a live object, such as a lock, a client or a function; or one that
            cannot be looked at.
    """
    try:
        if type(data) is not dict:
            data = dict(data)  # a subclass may have another idea of `copy`
        if len(data) > max_items:
            raise _too_many((None, field))
        for key, value in data.items():
            if type(value) not in _PLAIN or type(key) not in _PLAIN:
                break
        else:
            return data.copy()
        memo = _Memo()
        memo.items_left = max_items
        duplicate = _copy_dict(data, memo, (None, field), max_depth)
    except RecursionError:
        raise _too_deep((None, field)) from None
    except RingfenceError:
        raise
    except Exception as error:  # whatever a class of its own does when it is looked at
        raise unreadable(field, error) from error
    isolation.refuse_shared_ids(memo, field)
    return duplicate


def unreadable(field: str, error: Exception) -> InvalidContextError:
    """The refusal of data that raised `error` when it was looked at."""
    return InvalidContextError(
        f"`{field}` cannot be read: it raised a `{type(error).__name__}`.",
        "Give plain dicts and lists, with text for keys.",
        field=field,
        rule="unreadable",
    )


class _Memo(dict[int, Any]):
    """Copies by the ids of their originals, as `copy.deepcopy` keeps them. Lives for one copy."""

    __slots__ = ("items_left",)
    items_left: int


def _copy_value(value: Any, memo: _Memo, path: _Path, left: int) -> Any:
    kind = type(value)
    if kind is dict or kind is list:
        known = memo.get(id(value))
        if known is not None:
            return known
        if left <= 0:
            raise _too_deep(path)
        return (
            _copy_dict(value, memo, path, left)
            if kind is dict
            else _copy_list(value, memo, path, left)
        )
    if kind in _ATOMS or isinstance(value, (enum.Enum, dt.tzinfo)):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if left <= 0:
        raise _too_deep(path)
    if kind is tuple or kind is set or kind is frozenset:
        memo.items_left -= len(value)
        if memo.items_left < 0:
            raise _too_many(path)
        items = list(value)
        copies = [_copy_value(item, memo, path, left - 1) for item in items]
        is_immutable = kind is not set and all(map(operator.is_, items, copies))
        return memo.setdefault(id(value), value if is_immutable else kind(copies))
    return _deep_copy(value, memo, path)


def _copy_dict(value: Any, memo: _Memo, path: _Path, left: int) -> dict[Any, Any]:
    memo.items_left -= len(value)
    if memo.items_left < 0:
        raise _too_many(path)
    duplicate: dict[Any, Any] = value.copy()
    memo[id(value)] = duplicate
    for key, item in value.items():
        if type(item) not in _PLAIN:
            duplicate[key] = _copy_value(item, memo, (path, key), left - 1)
        if type(key) is not str and _copy_value(key, memo, path, left - 1) is not key:
            raise _live((path, key), key, "it is mutable, and a key")
    return duplicate


def _copy_list(value: Any, memo: _Memo, path: _Path, left: int) -> list[Any]:
    memo.items_left -= len(value)
    if memo.items_left < 0:
        raise _too_many(path)
    duplicate: list[Any] = value.copy()
    memo[id(value)] = duplicate
    for index, item in enumerate(value):
        if type(item) not in _PLAIN:
            duplicate[index] = _copy_value(item, memo, path, left - 1)
    return duplicate


def _deep_copy(value: Any, memo: _Memo, path: _Path) -> Any:
    try:
        duplicate = copy.deepcopy(value, memo)
    except RecursionError:
        raise
    except Exception as error:
        raise _live(path, value, _said(error)) from error
    originals = {id(item) for item in mutable_objects(value)}
    kept = (item for item in mutable_objects(duplicate) if id(item) in originals)
    itself = value if duplicate is value else next(kept, None)
    if itself is not None:
        raise _live(path, itself, "its copy is the object itself")
    return duplicate


def _live(path: _Path, value: object, why: str) -> InvalidContextError:
    place = _rendered(path)
    return InvalidContextError(
        f"`{place}` holds a `{type(value).__name__}`, which cannot be copied: {why}.",
        "Data is copied for each context; a live object belongs in injection or in "
        "`current_scope().enter(...)`.",
        field=place,
        rule="live",
    )


def _too_many(path: _Path) -> ContextLimitError:
    place = _rendered(path)[:80]
    return ContextLimitError(
        f"`{place}` is one container too many: there are too many items.",
        "Keep a context's data small, or raise `Settings.max_data_items`.",
        field=place,
        rule="items",
    )


def _too_deep(path: _Path) -> ContextLimitError:
    place = _rendered(path)[:80]
    return ContextLimitError(
        f"`{place}` is nested too deep.",
        "Keep a context's data flat, or raise `Settings.max_data_depth`.",
        field=place,
        rule="depth",
    )


def _rendered(path: _Path) -> str:
    keys = []
    while path[0] is not None:
        keys.append(f"[{_shown(path[1])}]")
        path = path[0]
    return str(path[1]) + "".join(reversed(keys))


def _said(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:
        text = type(error).__name__
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


def _shown(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…"


def mutable_objects(data: object) -> Iterator[object]:
    """
    Every mutable object that can be reached from `data`, each once, without recursion.

    Follows containers, instance dictionaries and slots; not classes, modules or functions.
    """
    seen: set[int] = set()
    todo = [data]
    while todo:
        value = todo.pop()
        if type(value) is types.BuiltinMethodType:  # one of an object leads to that
            value = value.__self__
        if type(value) in _ATOMS or isinstance(value, isolation.UNOWNABLE) or id(value) in seen:
            continue
        seen.add(id(value))
        if not isinstance(value, (tuple, frozenset)):
            yield value
        todo.extend(_parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "deque":
        yield from value
    yield from getattr(value, "__dict__", {}).values()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                yield getattr(value, name)
            except AttributeError:  # a private name, or a slot that was never filled
                continue
