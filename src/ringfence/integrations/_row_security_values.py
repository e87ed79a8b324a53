"""Whose rows a transaction may touch: said to PostgreSQL in each transaction, and until its end."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, TextClause, event
from sqlalchemy.orm import Session, SessionTransaction

from ..errors import ConfigurationError
from ._session_connections import first_word

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["VALUES", "Values", "answer_for", "answer_for_nobody"]

VALUES = "_ringfence_row_security"
"""Where a session that is bound, and a connection that it uses, keep what is to be said."""

_listening: weakref.WeakSet[Engine] = weakref.WeakSet()


class Values:
    """
    Who a session answers for. Lives on it until it is released, and on connections meanwhile.

    Attributes:
        owner: the root that the session belongs to, never what happens to be current.
        statement: what tells PostgreSQL, until the end of the transaction.
        values: its parameters; empty strings are nobody's.
        engines: those that were looked at; on no other is anything said.
    """

    __slots__ = ("engines", "owner", "statement", "values")

    def __init__(
        self,
        owner: RequestScope | None,
        statement: TextClause,
        values: dict[str, str],
        engines: Collection[Engine],
    ) -> None:
        self.owner = owner
        self.statement = statement
        self.values = values
        self.engines = engines

    def nobodys(self) -> Values:
        """The same for nobody."""
        return Values(None, self.statement, dict.fromkeys(self.values, ""), self.engines)

    @property
    def is_over(self) -> bool:
        """Whether there is nobody any more to answer for."""
        return self.owner is not None and self.owner.state == "closed"


class _Said:
    """What is, or is due to be, said on one connection."""

    __slots__ = ("is_due", "values")

    def __init__(self, values: Values) -> None:
        self.values = values
        self.is_due = True


# --- sessions ---------------------------------------------------------------------------------


def answer_for(session: Session, values: Values) -> None:
    """Say it in each transaction of the session, and in the one that is open, before all else."""
    if VALUES not in vars(session):
        event.listen(session, "after_begin", _after_begin)
    vars(session)[VALUES] = values
    for connection in _connections_of(session):
        _owe(connection, values)


def answer_for_nobody(session: Session) -> None:
    """Say nothing any more; and take back what was said, in the transaction that is open."""
    values: Values | None = vars(session).pop(VALUES, None)
    if values is None:
        return
    event.remove(session, "after_begin", _after_begin)
    for connection in _connections_of(session):
        _owe(connection, values.nobodys())


def _connections_of(session: Session) -> set[Connection]:
    """Those of the open transaction, given ones included."""
    transaction = session.get_transaction()
    entries = () if transaction is None else transaction._connections.values()
    return {connection for connection, *_ in entries}


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.nested:
        return  # said in the transaction around it
    _owe(connection, vars(session)[VALUES])
    _pay(connection)


# --- connections ------------------------------------------------------------------------------


def _owe(connection: Connection, values: Values) -> None:
    vars(connection)[VALUES] = _Said(values)
    engine = connection.engine
    if engine not in _listening:
        _listening.add(engine)
        event.listen(engine, "begin", _on_begin)
        event.listen(engine, "before_cursor_execute", _before_cursor_execute)


def _pay(connection: Connection) -> None:
    said: _Said = vars(connection)[VALUES]
    _refuse_what_has_no_transaction(connection)
    _refuse_what_nobody_looked_at(connection, said.values)
    said.is_due = False  # or it would be said before itself
    try:
        values = said.values.nobodys() if said.values.is_over else said.values
        connection.execute(values.statement, values.values)
    except BaseException:
        said.is_due = True
        raise


def _refuse_what_has_no_transaction(connection: Connection) -> None:
    dialect = connection.dialect.name
    if dialect != "postgresql":
        raise ConfigurationError(
            f"Row-level security is configured, and this database is `{dialect}`.",
            "Use PostgreSQL, or leave out `row_level_security=`.",
        )
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise ConfigurationError(
            "Row-level security is configured, and this connection is in autocommit: what is said "
            "until the end of the transaction would be over at once.",
            'Leave out `isolation_level="AUTOCOMMIT"`; what needs it belongs on an engine and '
            "role of its own.",
        )


def _refuse_what_nobody_looked_at(connection: Connection, values: Values) -> None:
    # Copies of an engine, with options of their own, have its pool.
    if not any(engine.pool is connection.engine.pool for engine in values.engines):
        raise ConfigurationError(
            "Row-level security is configured, and nobody has looked at the engine of this "
            "session: its role may be one that policies do not apply to.",
            "Use the engine that the fence's session maker names, or `await rls.verify(engine)` "
            "for this one too, when the application starts.",
        )


def _on_begin(connection: Connection) -> None:
    """A held connection was committed or rolled back beneath its session, and begins again."""
    said: _Said | None = vars(connection).get(VALUES)
    if said is not None:
        said.is_due = True


def _before_cursor_execute(
    connection: Connection, cursor: Any, statement: str, *_unused: Any
) -> None:
    said: _Said | None = vars(connection).get(VALUES)
    if said is None:
        return
    # What was said in a savepoint goes with it: back to what was said before, to somebody else.
    # SQLAlchemy's event comes before the statement, when it is too early to say it again.
    if first_word(statement) == "ROLLBACK":
        said.is_due = True
    elif said.is_due:
        _pay(connection)
