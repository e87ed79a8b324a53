"""The guarded twins of session classes, putting the guard on and taking it off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import Session

from . import _session_connections as connections
from ._session_guard import GUARD, SessionGuard, guard_of
from ._session_waits import check_out

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["GuardedSession", "guard", "has_changes", "unguard"]


class GuardedSession(Session):
    """
    What a guarded sync session is, besides the class it was made as.

    It is the sync session that is guarded, not `AsyncSession`: everything ends there, also what
    is reached through instances, transactions and `run_sync`.
    """

    __slots__ = ()

    def flush(self, objects: Any = None) -> None:
        """As in SQLAlchemy; raises `DatabasePolicyError` for changes in a read-only scope."""
        own = guard_of(self)
        if own is not None and own.is_read_only() and has_changes(self):
            raise connections.read_only(own.scope)
        super().flush(objects)

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """As in SQLAlchemy; a flush takes its connection here, where it can be limited."""
        bind = super().get_bind(*args, **kwargs)
        if self._flushing:
            self._connection_for_bind(bind)
        return bind

    def _connection_for_bind(self, engine: Any, *args: Any, **kwargs: Any) -> Connection:
        connect = functools.partial(super()._connection_for_bind, engine, *args, **kwargs)
        own = guard_of(self)
        if own is not None and engine.dialect.is_async:
            _check_is_awaited()
        if own is None or not isinstance(engine, Engine) or own.holds(engine):
            return connect()
        connection = check_out(own, engine, connect)
        connections.watch(own, connection)
        return connection


def _check_is_awaited() -> None:
    """As SQLAlchemy does later on; by then some drivers have begun what nobody awaits."""
    if getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False):
        return
    raise MissingGreenlet(
        "An attribute that is not loaded, or was expired by a commit or rollback, was read outside "
        "of an awaited call. Load it beforehand (`selectinload`, `await session.refresh(it)`), or "
        "await it: `await it.awaitable_attrs.name`, from SQLAlchemy's `AsyncAttrs`. With "
        "`Database(..., expire_on_commit=False)` a commit expires nothing.",
        code="xd2s",
    )


@functools.cache
def _guarded(cls: type[Session]) -> type[Session]:
    """The guarded twin of a session class: every attribute but `__dunder__` ones is checked."""
    read: Any = cls.__getattribute__
    write: Any = cls.__setattr__

    def __getattribute__(self: Session, name: str) -> Any:
        own = read(self, GUARD)
        if own._greenlet is not getcurrent() and name[:2] != "__":
            own.check()
        return read(self, name)

    def __setattr__(self: Session, name: str, value: Any) -> None:
        own = read(self, GUARD)
        if own._greenlet is not getcurrent() and name[:2] != "__":
            own.check()
        write(self, name, value)

    body = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__getattribute__": __getattribute__,
        "__setattr__": __setattr__,
    }
    return type(f"Guarded{cls.__name__}", (GuardedSession, cls), body)


def guard(
    sync_session: Session, scope: RequestScope, is_read_only: Callable[[], bool]
) -> SessionGuard:
    """Guard a session for the tree of `scope`, connections that it holds already included."""
    own = SessionGuard(scope, is_read_only)
    held = _connections_of(sync_session)
    vars(sync_session)[GUARD] = own
    cls: Any = type(sync_session)  # hashable, whatever mypy reads in SQLAlchemy's own hash
    sync_session.__class__ = _guarded(cls)
    for connection in held:
        connections.watch(own, connection)
    return own


def unguard(sync_session: Session) -> None:
    """Take the guard off; the session is again what it was."""
    own = guard_of(sync_session)
    if own is None:
        return
    own.forget()
    for connection in own.held():
        connections.unwatch(connection)
    sync_session.__class__ = type(sync_session).__bases__[1]
    del vars(sync_session)[GUARD]


def has_changes(sync_session: Session) -> bool:
    """Whether a flush would write something."""
    return bool(
        sync_session.new
        or sync_session.deleted
        or any(sync_session.is_modified(instance) for instance in sync_session.dirty)
    )


def _connections_of(sync_session: Session) -> list[Connection]:
    """The pooled connections of the open transaction; public only since SQLAlchemy 2.1.7."""
    transaction = sync_session.get_transaction()
    if transaction is None:
        return []
    entries = transaction._connections.values()
    return [connection for connection, _, _, is_pooled in set(entries) if is_pooled]
