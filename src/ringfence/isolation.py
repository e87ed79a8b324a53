"""Isolation: what is shared on purpose, and the registry of who owns what."""

from __future__ import annotations

import datetime as dt
import enum
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .errors import (
    ContextIsolationError,
    ContextLimitError,
    OwnershipError,
    SharedObjectError,
    WrongTypeError,
)

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = [
    "Claimant",
    "Infrastructure",
    "IsolationRegistry",
    "clear_shared_object_registry",
    "register_shared_object",
    "registry",
]

T = TypeVar("T")


class Infrastructure:
    """
    A part of ringfence itself: what data leads to through an owned object or a context.

    Belongs to nobody, is not walked into, and is never copied.
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


UNOWNABLE = (
    str, bytes, int, float, complex, bool, type(None), type(Ellipsis), enum.Enum, dt.tzinfo, type,
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
    Infrastructure,
)  # fmt: skip


def is_ownable(kind: type) -> bool:
    """Whether objects of this type have a life of their own."""
    return not issubclass(kind, UNOWNABLE) and kind not in (tuple, frozenset)


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


def is_registered_as_shared(obj: object) -> bool:
    """Whether `obj` was declared to belong to the process."""
    return id(obj) in _shared


def refuse_shared(obj: object, field: str) -> None:
    """Raise `SharedObjectError` if `obj` was registered as shared."""
    if _shared and id(obj) in _shared:
        refuse_shared_ids({id(obj): obj}, field)


def refuse_shared_ids(ids: dict[int, Any], field: str) -> None:
    """Raise `SharedObjectError` if one of the objects with these ids was registered."""
    found = next((_shared[key] for key in ids if key in _shared), None) if _shared else None
    if found is not None:
        raise SharedObjectError(
            f"`{field}` holds a `{type(found).__name__}` that was registered as shared.",
            "Shared objects belong in injection, not in a context's data.",
        )


def _refuse_unownable(obj: object) -> None:
    if isinstance(obj, UNOWNABLE) or (type(obj) in (tuple, frozenset) and not obj):
        raise WrongTypeError(
            f"A `{type(obj).__name__}` cannot be owned: every request may hold the same one.",
            "Register objects with a life of their own.",
            rule="type",
        )


# --- ownership --------------------------------------------------------------------------------


class Claimant(Infrastructure):
    """
    Somebody who may own objects: the root of one request tree.

    Lives as long as its scope is open; for a context that was never entered, as long as one of
    the tree's contexts. `origin` is that of the context that a root was entered with: what was
    claimed for it, before there was a scope, is the root's.
    """

    __slots__ = ("__weakref__", "claimed", "origin", "ref", "request_id")

    def __init__(self, request_id: str, origin: Claimant | None = None) -> None:
        self.request_id = request_id
        self.origin = origin
        self.claimed: list[int] = []
        self.ref: weakref.ref[Claimant] | None = None

    def admits(self, scope: RequestScope) -> bool:
        """Whether what it owns may be used in `scope`, whose own claimant it is not."""
        return False

    def is_kin(self, other: Claimant) -> bool:
        """Whether what it owns may as well be claimed by `other`."""
        return self.origin is other

    def ends_before(self, other: Claimant) -> bool:
        """Whether it owns for `other`, which may take over: it may end first."""
        return False

    def is_shared(self, obj: object) -> bool:
        """Whether `obj`, which it claimed as made for itself, was handed on to it by all."""
        return False

    def is_here(self) -> bool:
        """Whether the current context, in which no scope is open, is its own."""
        return False

    def list_claims(self) -> None:
        """Enter in the registry what it owns, and from now on at once what comes; if `unlisted`."""


class IsolationRegistry:
    """
    Who owns which object, by identity. One for the process.

    An entry holds the object, so its `id` cannot pass to another while the entry lives; it is
    dropped when its claimant is released. Looking up costs one dict access, whatever is open.

    Attributes:
        unlisted: claimants whose objects are new, so that nobody else can have them yet, and which
            are asked for them when somebody looks, each once. Most never are: an entry for
            each object, made and dropped, took longer than making the object.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[object, Callable[[], Claimant | None]]] = {}
        self._lock = threading.Lock()
        self.unlisted: dict[Claimant, None] = {}
        self._listing = threading.RLock()  # the collector may run code that looks, meanwhile

    def __len__(self) -> int:
        self.list_all()
        return len(self._entries)

    def list_all(self, but: object = None) -> None:
        """Enter the objects of every claimant that has not been asked, `but` one's."""
        if len(self.unlisted) == (but in self.unlisted):
            return
        with self._listing:
            for claimant in list(self.unlisted):
                if claimant is not but:
                    claimant.list_claims()
                    self.unlisted.pop(claimant, None)  # not before: others must wait

    def owner_of(self, obj: object) -> Claimant | None:
        """The claimant of `obj`, if it has one."""
        if self.unlisted:
            self.list_all()
        return self._owner_of(obj)

    def _owner_of(self, obj: object) -> Claimant | None:
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
        self.list_all()
        with self._lock:
            owner = self._owner_of(obj)
            if owner is not None and owner.ends_before(claimant):
                owner = None
            if owner is claimant or (owner is not None and owner.is_kin(claimant)):
                return obj
            if owner is not None and owner is claimant.origin:
                owner.claimed.remove(id(obj))  # it is the root's now
                owner = None
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

    def adopt(self, obj: object, claimant: Callable[[], Claimant | None]) -> None:
        """
        Claim a fresh object for a claimant that will `disown` it, and answers when called.

        What `claim` does, for whoever keeps a list of its own: neither lock nor weak reference.

        Raises:
            OwnershipError: another claimant has it.
        """
        self.list_all(claimant)
        entry = self._entries.setdefault(id(obj), (obj, claimant))
        if entry[1] is claimant:
            return
        owner, own = entry[1](), claimant()
        if owner is None or own is None or owner is own or own.is_kin(owner):
            return
        if not own.is_shared(obj):
            raise foreign_object(obj, owner.request_id, own.request_id)

    def clear(self) -> None:
        """Forget who owns what. For tests, after one that left something."""
        self._entries.clear()
        self.unlisted.clear()

    def disown(self, obj: object, claimant: object) -> None:
        """Drop what was adopted for this claimant."""
        entry = self._entries.get(id(obj))
        if entry is not None and entry[1] is claimant:
            del self._entries[id(obj)]

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
                entry = entries.get(key)
                if entry is not None and entry[1] is ref:  # else claimed anew meanwhile
                    entries.pop(key, None)

        return forget


def foreign_object(
    obj: object,
    owner_request_id: str,
    request_id: str | None,
    error: type[ContextIsolationError] = OwnershipError,
) -> ContextIsolationError:
    """The error for an object of one request met in another, or (`None`) in the application's."""
    user = "the application" if request_id is None else f"request `{request_id}`"
    return error(
        f"This `{type(obj).__name__}` belongs to request `{owner_request_id}`, "
        f"but {user} is using it.",
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
