"""Waiting for an ancestor's session, which is never done in silence, nor for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, util
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.util import greenlet_spawn

from ..errors import DatabasePolicyError

if TYPE_CHECKING:
    from ..scope import RequestScope
    from ._session_guard import SessionGuard

__all__ = ["before_writing", "check_out", "name_the_holder"]

_await: Any = getattr(util, "await_", None) or util.await_only  # renamed in SQLAlchemy 2.1
_LIMIT_LOCKS = (
    "SELECT set_config('lock_timeout', '{}ms', true) WHERE current_setting('lock_timeout') = '0'"
)


# --- for a connection -------------------------------------------------------------------------


def check_out(guard: SessionGuard, engine: Engine, connect: Callable[[], Connection]) -> Connection:
    """
    The connection that `connect` takes from the pool.

    While an ancestor holds a connection of the same pool, it may be waiting for this very scope:
    then the wait is limited, by `Settings.nested_checkout_timeout`.

    Raises:
        DatabasePolicyError: waited in vain; names the ancestor.
    """
    ancestor = _holding_ancestor(guard, engine)
    if ancestor is None:
        return connect()
    try:
        connection: Connection = _await(_within(_limit(guard), connect))
    except (_LimitReached, PoolTimeout) as late:
        raise _blocked(
            guard, ancestor, "waited in vain for a database connection", "holds one"
        ) from late
    return connection


class _LimitReached(Exception):
    """Not a `TimeoutError`, which a driver raises too."""


async def _within(limit: float, connect: Callable[[], Connection]) -> Connection:
    timeout = asyncio.timeout(limit)
    try:
        async with timeout:
            return await greenlet_spawn(connect)
    except TimeoutError as error:
        if timeout.expired():
            raise _LimitReached from error
        raise


# --- for a lock -------------------------------------------------------------------------------


def before_writing(guard: SessionGuard, connection: Connection) -> None:
    """
    See that a statement that writes or locks does not wait for what an ancestor has written.

    Raises:
        DatabasePolicyError: on SQLite, which has one writer: waited in vain.
    """
    if connection.dialect.name == "sqlite":
        _wait_for_writers(guard, connection)
    elif connection.dialect.name == "postgresql" and _writing_ancestor(guard, connection):
        _limit_locks(guard, connection)


def _wait_for_writers(guard: SessionGuard, connection: Connection) -> None:
    """Wait out here: a driver's thread that waits in SQLite cannot be told to stop."""
    deadline = time.monotonic() + _limit(guard)
    while (ancestor := _writing_ancestor(guard, connection)) is not None:
        if time.monotonic() >= deadline:
            raise _blocked(guard, ancestor, "waited in vain to write to SQLite", _HAS_WRITTEN)
        _await(asyncio.sleep(0.01))


def _limit_locks(guard: SessionGuard, connection: Connection) -> None:
    """PostgreSQL waits for a lock for ever: that an ancestor awaits us in turn, it cannot see."""
    cursor = connection.connection.cursor()
    cursor.execute(_LIMIT_LOCKS.format(round(_limit(guard) * 1000)))
    cursor.close()


def name_the_holder(
    guard: SessionGuard, connection: Connection, error: BaseException | None
) -> DatabasePolicyError | None:
    """The error for a database's own refusal that an ancestor has to do with, else `None`."""
    message = str(error)
    if "due to lock timeout" in message:
        ancestor = _writing_ancestor(guard, connection)
        if ancestor is not None:
            return _blocked(guard, ancestor, "waited in vain for a lock", _HAS_WRITTEN)
    elif "is locked" in message and connection.dialect.name == "sqlite":
        ancestor = _holding_ancestor(guard, connection.engine)
        if ancestor is not None:
            return _blocked(guard, ancestor, "found SQLite locked", "holds a connection to it")
    return None


_HAS_WRITTEN = "has written and not committed"


# --- for whom ---------------------------------------------------------------------------------


def _holding_ancestor(guard: SessionGuard, engine: Engine) -> RequestScope | None:
    for scope, other in guard.ancestors():
        if any(held.engine.pool is engine.pool for held in other.held()):
            return scope
    return None


def _writing_ancestor(guard: SessionGuard, connection: Connection) -> RequestScope | None:
    for scope, other in guard.ancestors():
        written = other.written_on
        if written is None or written.engine.pool is not connection.engine.pool:
            continue
        if _driver_of(written) is not _driver_of(connection):
            return scope  # not one connection for all, as in-memory databases have by default
    return None


def _driver_of(connection: Connection) -> object:
    """Past the check: it may be an ancestor's, which another task is using."""
    return Connection.connection.fget(connection).dbapi_connection  # type: ignore[attr-defined]


def _limit(guard: SessionGuard) -> float:
    return guard.scope.settings.nested_checkout_timeout


def _blocked(
    guard: SessionGuard, ancestor: RequestScope, what: str, because: str
) -> DatabasePolicyError:
    return DatabasePolicyError(
        f"Request `{guard.scope.request_id}` {what}: request `{ancestor.request_id}`, which it is "
        f"part of, {because}.",
        "Commit in the outer one first, give its connection back with `async with "
        'released_connection():`, or share its session: `child_context(..., session="share")`.',
        ancestor_request_id=ancestor.request_id,
        request_id=guard.scope.request_id,
    )
