"""The connections of guarded sessions: checked at everything that is done with them."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, Engine, event, literal, select
from sqlalchemy.engine import ExceptionContext, ExecutionContext

from ..errors import DatabasePolicyError
from ._connection_times import ConnectionTimes
from ._session_guard import GUARD, SessionGuard
from ._session_waits import before_writing, name_the_holder

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["WatchedConnection", "effect_of", "first_word", "read_only", "unwatch", "watch"]

TIMES = "_ringfence_times"
"""Where a connection that is watched keeps its clock."""

_watched: weakref.WeakSet[Engine] = weakref.WeakSet()


class WatchedConnection(Connection):
    """
    The connection of a guarded session, which somebody may hold on to.

    What is done with it is checked here, before it does harm, and statements once more as they
    are sent. Lives as long as the session's transaction.
    """

    __slots__ = ()


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(self: Connection, *args: Any, **kwargs: Any) -> Any:
        _check(self)
        return method(self, *args, **kwargs)

    return checked


def _close(connection: Connection) -> None:
    times: ConnectionTimes = vars(connection)[TIMES]
    times.work()  # the pool's own rollback
    try:
        Connection.close(connection)
    finally:
        times.given_back()


def _invalidate(connection: Connection, exception: BaseException | None = None) -> None:
    Connection.invalidate(connection, exception)
    _lost(connection)


def _lost(connection: Connection) -> None:
    times: ConnectionTimes | None = vars(connection).get(TIMES)
    if times is not None:
        times.given_back()


for _name in (
    "begin", "begin_nested", "begin_twophase", "commit", "detach", "exec_driver_sql", "execute",
    "execution_options", "get_nested_transaction", "get_transaction", "rollback",
    "scalar",
):  # fmt: skip
    setattr(WatchedConnection, _name, _checked(getattr(Connection, _name)))
WatchedConnection.close = _checked(_close)  # type: ignore[method-assign]
WatchedConnection.invalidate = _checked(_invalidate)  # type: ignore[method-assign]
# Also the way to the driver's own connection: beneath it nothing is checked, and whoever holds a
# `Transaction` comes by here to end it.
WatchedConnection.connection = property(  # type: ignore[assignment, method-assign]
    _checked(Connection.connection.fget)  # type: ignore[attr-defined]
)


def watch(guard: SessionGuard, connection: Connection) -> None:
    """Check the guard at everything that is done with a connection from now on."""
    vars(connection)[GUARD] = guard
    vars(connection)[TIMES] = ConnectionTimes(guard.scope)
    connection.__class__ = WatchedConnection
    guard.took(connection)
    engine = connection.engine
    if engine in _watched:
        return
    _watched.add(engine)
    event.listen(engine, "before_cursor_execute", _before_cursor_execute)
    event.listen(engine, "after_cursor_execute", _after_cursor_execute)
    event.listen(engine, "handle_error", _on_error)
    event.listen(engine, "commit", _before_commit)
    event.listen(engine, "rollback", _work)


def unwatch(connection: Connection) -> None:
    """Check nothing any more."""
    connection.__class__ = Connection
    del vars(connection)[GUARD]
    vars(connection).pop(TIMES).given_back()


def _guard_on(connection: Connection) -> SessionGuard | None:
    return vars(connection).get(GUARD)


def _before_commit(connection: Connection) -> None:
    """
    Ask a connection on which something failed whether its transaction still lives.

    PostgreSQL answers the COMMIT of an aborted transaction by rolling back, and says nothing.
    """
    _work(connection)
    guard = _guard_on(connection)
    if guard is not None and guard.failed_on is connection:
        guard.failed_on = None
        try:
            Connection.scalar(connection, select(literal(1)))
        except BaseException:
            connection._rollback_impl()  # SQLAlchemy takes a COMMIT that failed for the end of it
            raise


def _work(connection: Connection) -> None:
    times: ConnectionTimes | None = vars(connection).get(TIMES)
    if times is not None:
        times.work()


def _rest(connection: Connection) -> None:
    times: ConnectionTimes | None = vars(connection).get(TIMES)
    if times is not None:
        times.rest()


def _check(connection: Connection) -> None:
    guard = _guard_on(connection)
    if guard is not None and not guard.is_closed:  # else a late call cleans up behind itself
        guard.check()


# --- statements -------------------------------------------------------------------------------


def _before_cursor_execute(
    connection: Connection, cursor: Any, statement: str, *_unused: object
) -> None:
    guard = _guard_on(connection)
    if guard is None:
        return
    guard.check()
    effect = effect_of(statement)
    if effect == "writes" and guard.is_read_only():
        raise read_only(guard.scope)
    _work(connection)
    if effect == "reads":
        return
    before_writing(guard, connection)
    guard.wrote(connection)


def _after_cursor_execute(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: ExecutionContext,
    executemany: bool,
) -> None:
    if not context.execution_options.get("stream_results"):
        _rest(connection)


def _on_error(failure: ExceptionContext) -> DatabasePolicyError | None:
    connection = failure.connection
    guard = None if connection is None else _guard_on(connection)
    if connection is None or guard is None:
        return None
    if connection.invalidated:  # a cancelled statement costs its connection
        _lost(connection)
    else:
        _rest(connection)
    guard.failed_on = connection
    return name_the_holder(guard, connection, failure.original_exception)


def read_only(scope: RequestScope) -> DatabasePolicyError:
    """The error for a change in a scope that may only read."""
    return DatabasePolicyError(
        f"Request `{scope.request_id}` may only read, and tried to write.",
        'Leave out `transaction="read_only"`, or write in a `child_context` with a transaction '
        "policy of its own.",
        request_id=scope.request_id,
    )


_READING = frozenset("SELECT VALUES SHOW EXPLAIN PRAGMA SET SAVEPOINT RELEASE ROLLBACK".split())
_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)
_NOT_CODE = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_MORE = re.compile(r";\s*\S|\bINTO\b", re.IGNORECASE)  # another statement, or a table made
_CHANGING = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_LOCKING = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b", re.IGNORECASE)


def first_word(statement: str) -> str:
    """
    The first word of a statement, in capitals, behind comments and parentheses.

    >>> first_word("/* trace 17 */ rollback to savepoint one")
    'ROLLBACK'
    """
    found = _FIRST_WORD.match(statement)
    return found[1].upper() if found else ""


def effect_of(statement: str) -> Literal["reads", "locks", "writes"]:
    """
    What a statement does to the database, as far as its text tells; in doubt, it writes.

    >>> effect_of("SELECT 1"), effect_of("SELECT 1 FOR UPDATE"), effect_of("CALL purge()")
    ('reads', 'locks', 'writes')
    """
    word, upper = first_word(statement), statement.upper()
    if word == "WITH" or (word == "EXPLAIN" and "ANALY" in upper):
        word = "WRITE" if _CHANGING.search(statement) else "SELECT"
    if word not in _READING:
        return "writes"
    if (";" in upper or "INTO" in upper) and _MORE.search(_NOT_CODE.sub("", statement)):
        return "writes"
    if "FOR" in upper and _LOCKING.search(statement):  # the search alone is slow
        return "locks"
    return "reads"
