"""Isolation: copies of data that share nothing, and the registry of who owns what."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .errors import (
    ContextIsolationError,
    ContextLimitError,
    InvalidContextError,
    OwnershipError,
    SharedObjectError,
    WrongTypeError,
)

__all__ = [
    "Claimant",
    "IsolationRegistry",
    "clear_shared_object_registry",
    "isolated_copy",
    "mutable_objects",
    "register_shared_object",
    "registry",
]

T = TypeVar("T")

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
_NEVER_OWNED = (
    str, bytes, int, float, complex, bool, type(None), type(Ellipsis), enum.Enum, type,
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
)  # fmt: skip


# --- copies -----------------------------------------------------------------------------------


def isolated_copy(
    data: dict[str, Any], field: str = "data", max_depth: int = 100
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

    Raises:
        SharedObjectError: a registered shared object is inside.
        ContextLimitError: nested too deep.
        InvalidContextError: a live object, such as a lock, a client or a function.
    """
    for value in data.values():
        if type(value) not in _PLAIN:
            break
    else:
        return data.copy()
    memo: dict[int, Any] = {}
    try:
        duplicate = _copy_dict(data, memo, field, max_depth)
    except RecursionError:
        raise _too_deep(field) from None
    _refuse_shared(memo, field)
    return duplicate


def _copy_value(value: Any, memo: dict[int, Any], path: str, left: int) -> Any:
    kind = type(value)
    if kind in _ATOMS or isinstance(value, enum.Enum):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if left <= 0:
        raise _too_deep(path)
    if kind is dict:
        return _copy_dict(value, memo, path, left)
    if kind is list:
        return _copy_list(value, memo, path, left)
    if kind is tuple or kind is set or kind is frozenset:
        duplicate = kind([_copy_value(item, memo, path, left - 1) for item in value])
        return memo.setdefault(id(value), duplicate)
    return _deep_copy(value, memo, path)


def _copy_dict(value: dict[Any, Any], memo: dict[int, Any], path: str, left: int) -> dict[Any, Any]:
    memo[id(value)] = duplicate = value.copy()
    for key, item in value.items():
        if type(item) not in _PLAIN:
            duplicate[key] = _copy_value(item, memo, f"{path}[{key!r}]", left - 1)
        if type(key) not in _PLAIN and _copy_value(key, memo, path, left - 1) is not key:
            raise _live(f"{path}, as a key", key, "it is mutable")
    return duplicate


def _copy_list(value: list[Any], memo: dict[int, Any], path: str, left: int) -> list[Any]:
    memo[id(value)] = duplicate = value.copy()
    for index, item in enumerate(value):
        if type(item) not in _PLAIN:
            duplicate[index] = _copy_value(item, memo, path, left - 1)
    return duplicate


def _deep_copy(value: Any, memo: dict[int, Any], path: str) -> Any:
    try:
        duplicate = copy.deepcopy(value, memo)
    except RecursionError:
        raise
    except Exception as error:
        raise _live(path, value, str(error)) from error
    if duplicate is value:
        raise _live(path, value, "its copy is the object itself")
    return duplicate


def _live(path: str, value: object, why: str) -> InvalidContextError:
    return InvalidContextError(
        f"`{path}` holds a `{type(value).__name__}`, which cannot be copied: {why}.",
        "Data is copied for each context; a live object belongs in injection or in "
        "`current_scope().enter(...)`.",
        field=path,
        rule="live",
    )


def _too_deep(path: str) -> ContextLimitError:
    return ContextLimitError(
        f"`{path[:80]}` is nested too deep.",
        "Keep a context's data flat, or raise `Settings.max_data_depth`.",
        field=path[:80],
        rule="depth",
    )


# --- walking ----------------------------------------------------------------------------------


def mutable_objects(data: object) -> Iterator[object]:
    """
    Every mutable object that can be reached from `data`, each once, without recursion.

    Follows containers, instance dictionaries and slots; not classes, modules or functions.
    """
    seen: set[int] = set()
    todo = [data]
    while todo:
        value = todo.pop()
        if type(value) in _ATOMS or isinstance(value, _NEVER_OWNED) or id(value) in seen:
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


# --- shared objects ---------------------------------------------------------------------------

_shared: dict[int, object] = {}


def register_shared_object(obj: object) -> None:
    """
    Declare that `obj` belongs to the process: it may not be in any context's data, nor its session.

    Holds for the life of the process, or until `clear_shared_object_registry`; the object is
    kept alive, so that its identity cannot pass to another.

    Raises:
        WrongTypeError: a value, type, module or function, which cannot be owned.
    """
    _refuse_unownable(obj)
    _shared[id(obj)] = obj


def clear_shared_object_registry() -> None:
    """Forget every object that was registered as shared."""
    _shared.clear()


def refuse_shared(obj: object, field: str) -> None:
    """Raise `SharedObjectError` if `obj` was registered as shared."""
    if _shared and id(obj) in _shared:
        _refuse_shared({id(obj): obj}, field)


def _refuse_shared(ids: dict[int, Any], field: str) -> None:
    found = next((_shared[key] for key in ids if key in _shared), None) if _shared else None
    if found is not None:
        raise SharedObjectError(
            f"`{field}` holds a `{type(found).__name__}` that was registered as shared.",
            "Shared objects belong in injection, not in a context's data.",
        )


def _refuse_unownable(obj: object) -> None:
    if isinstance(obj, _NEVER_OWNED) or (type(obj) in (tuple, frozenset) and not obj):
        raise WrongTypeError(
            f"A `{type(obj).__name__}` cannot be owned: every request may hold the same one.",
            "Register objects with a life of their own.",
            rule="type",
        )


# --- ownership --------------------------------------------------------------------------------


class Claimant:
    """
    Somebody who may own objects: the root of one request tree.

    Lives as long as its scope is open; for a context that was never entered, as long as one of
    the tree's contexts.
    """

    __slots__ = ("__weakref__", "claimed", "ref", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.claimed: list[int] = []
        self.ref: weakref.ref[Claimant] | None = None


class IsolationRegistry:
    """
    Who owns which object, by identity. One for the process.

    An entry holds the object, so its `id` cannot pass to another while the entry lives; it is
    dropped when its claimant is released. Looking up costs one dict access, whatever is open.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[object, weakref.ref[Claimant]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def owner_of(self, obj: object) -> Claimant | None:
        """The claimant of `obj`, if it has one."""
        entry = self._entries.get(id(obj))
        return entry[1]() if entry is not None else None

    def claim(
        self,
        obj: T,
        claimant: Claimant,
        *,
        limit: int = 10_000,
        error: type[ContextIsolationError] = OwnershipError,
    ) -> T:
        """
        Make `claimant` the owner of `obj` until it is released, and return `obj`.

        Raises:
            OwnershipError: another claimant has it (or the `error` given).
            WrongTypeError: a value, type, module or function.
            ContextLimitError: more than `limit` objects.
        """
        _refuse_unownable(obj)
        with self._lock:
            owner = self.owner_of(obj)
            if owner is claimant:
                return obj
            if owner is None:
                if len(claimant.claimed) >= limit:
                    raise ContextLimitError(
                        f"Request `{claimant.request_id}` owns {limit} objects already.",
                        "Own fewer, larger objects, or raise `Settings.max_owned`.",
                        rule="owned",
                    )
                if claimant.ref is None:
                    claimant.ref = weakref.ref(claimant, self._forgetter(claimant.claimed))
                self._entries[id(obj)] = (obj, claimant.ref)
                claimant.claimed.append(id(obj))
                return obj
        raise foreign_object(obj, owner.request_id, claimant.request_id, error)

    def release(self, claimant: Claimant) -> None:
        """Drop everything that `claimant` owns."""
        with self._lock:
            for key in claimant.claimed:
                self._entries.pop(key, None)
            claimant.claimed.clear()

    def _forgetter(self, claimed: list[int]) -> Callable[[object], None]:
        """Release by the collector. Takes no lock: it may run while this thread holds it."""
        entries = self._entries

        def forget(ref: object) -> None:
            for key in claimed:
                entries.pop(key, None)

        return forget


def foreign_object(
    obj: object,
    owner_request_id: str,
    request_id: str | None,
    error: type[ContextIsolationError] = OwnershipError,
) -> ContextIsolationError:
    """The error for an object of one request met in another."""
    return error(
        f"This `{type(obj).__name__}` belongs to request `{owner_request_id}`, "
        f"but request `{request_id}` is using it.",
        "Make one of its own in each request; to share it on purpose, provide it for the "
        "user's or the application's lifetime.",
        owner_request_id=owner_request_id,
        request_id=request_id,
    )


STAMP = "__ringfence_owner__"


def stamp(obj: object, root: object) -> None:
    """Write the owning root on an instance of a class marked `@owned`; on others, nothing."""
    if hasattr(type(obj), "__ringfence_owned__"):
        object.__setattr__(obj, STAMP, root)


def stamp_of(obj: object) -> Any:
    """The root that an object is stamped with, if it is."""
    if not hasattr(type(obj), "__ringfence_owned__"):
        return None
    try:
        return object.__getattribute__(obj, STAMP)
    except AttributeError:
        return None


registry = IsolationRegistry()
"""The registry of this process."""
