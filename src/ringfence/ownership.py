"""`@owned`: classes whose instances check, at every use, whose they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ConfigurationError
from .isolation import STAMP, Claimant, stamp, stamp_of
from .refusals import check_owner, nothing_open
from .state import CLOSED, _get

__all__ = ["owned"]

C = TypeVar("C", bound=type)

_UNGUARDED = frozenset(
    "__init__ __new__ __del__ __init_subclass__ __class_getitem__ __getattribute__ __setattr__ "
    "__delattr__ __getattr__ __repr__ __subclasshook__ __set_name__ __class__ __reduce__ "
    "__reduce_ex__ __getstate__ __setstate__ __sizeof__ __dir__ __format__".split()
)
_READABLE = frozenset({"__class__", "__doc__", "__module__", "__weakref__"})


def owned(cls: C) -> C:
    """
    Mark a class whose instances belong to the request tree they were made in.

    Reading, writing or calling anything of an instance from another request raises
    `OwnershipError`, and after its root scope has ended `ContextClosedError`. An instance made
    where no scope is open belongs to nobody until `current_scope().own(instance)`. The repr
    stays free, for logs.

    >>> @owned
    ... class Memory:
    ...     def __init__(self) -> None:
    ...         self.notes = []

    Raises:
        ConfigurationError: instances have neither a `__dict__` nor a slot for the owner.
    """
    if not cls.__dictoffset__ and not hasattr(cls, STAMP):
        raise ConfigurationError(
            f"Instances of `{cls.__name__}` have no place for their owner.",
            f'Add `"{STAMP}"` to its `__slots__`.',
        )
    cls.__ringfence_owned__ = True  # type: ignore[attr-defined]
    _stamp_at_birth(cls)
    _guard_attributes(cls)
    for name, member in _special_methods(cls).items():
        setattr(cls, name, _guarded(member))
    return cls


def _special_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """Its own and inherited ones, those of `list` or `dict` too; not those of every object."""
    members = {
        name: member for base in reversed(cls.__mro__[:-1]) for name, member in vars(base).items()
    }
    return {
        name: member
        for name, member in members.items()
        if name.startswith("__") and name.endswith("__") and name not in _UNGUARDED
        if callable(member) and not isinstance(member, (staticmethod, type))
    }


def _stamp_at_birth(cls: Any) -> None:
    make = cls.__new__

    def __new__(subclass: type, *args: Any, **kwargs: Any) -> Any:
        self = make(subclass) if make is object.__new__ else make(subclass, *args, **kwargs)
        scope = _get()
        if scope is not None and scope._state is not CLOSED and stamp_of(self) is None:
            stamp(self, scope._root)
        return self

    cls.__new__ = __new__


def _guard_attributes(cls: Any) -> None:
    read, write, delete = cls.__getattribute__, cls.__setattr__, cls.__delattr__

    def __getattribute__(self: Any, name: str) -> Any:
        if name not in _READABLE:
            _check(self)
        return read(self, name)

    def __setattr__(self: Any, name: str, value: Any) -> None:
        _check(self)
        write(self, name, value)

    def __delattr__(self: Any, name: str) -> None:
        _check(self)
        delete(self, name)

    cls.__getattribute__ = __getattribute__
    cls.__setattr__ = __setattr__
    cls.__delattr__ = __delattr__


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Methods that the interpreter calls by itself, such as `__len__`, bypass attribute access."""

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        _check(self)
        return method(self, *args, **kwargs)

    return checked


def _check(obj: object) -> None:
    owner: Any = stamp_of(obj)  # a root, or what lives as long as a user
    if owner is None:
        return
    here = _get()
    if here is not None and here._root is owner and here._state is not CLOSED:
        return
    if owner._state is CLOSED:
        raise owner._closed_error()
    if here is None:
        if isinstance(owner, Claimant) and owner.is_here():  # what is kept for a user
            return
        raise nothing_open()
    if here._state is CLOSED:
        raise here._closed_error()
    check_owner(obj, owner, here)
