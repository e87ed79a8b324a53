"""Every way to use a session that we know, and what a thief may hold of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_object_session
from sqlalchemy.orm import Session, object_session

from .notes import Author, Note, fence_for


class Stolen:
    """What bob got hold of: alice's session and what hangs on it, her transaction open."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.sync_session = session.sync_session

    async def take(self) -> Stolen:
        session = self.session
        self.author = (await session.scalars(select(Author))).one()
        self.note = await session.get_one(Note, 1)
        self.connection = await session.connection()
        self.transaction = session.get_transaction()
        self.rows = await session.execute(select(Note.body).order_by(Note.id))
        self.stream = await session.stream(select(Note.body))
        self.raw = await self.connection.get_raw_connection()
        return self


Use = Callable[[Stolen], Any]


def _in_greenlet(use: Callable[[Session], object]) -> Callable[[Stolen], Awaitable[object]]:
    """As a function of bob's own `run_sync` would use alice's sync session."""

    async def run(stolen: Stolen) -> object:
        own = AsyncSession()
        return await own.run_sync(lambda _: use(stolen.sync_session))

    return run


async def enter(manager: Any) -> None:
    async with manager:
        pass


REFUSED: dict[str, Use] = {
    # statements
    "execute": lambda it: it.session.execute(select(Note)),
    "execute text": lambda it: it.session.execute(text("select 1")),
    "execute insert": lambda it: it.session.execute(insert(Note).values(body="bob's")),
    "scalar": lambda it: it.session.scalar(select(Note.body)),
    "scalars": lambda it: it.session.scalars(select(Note)),
    "stream": lambda it: it.session.stream(select(Note)),
    "stream_scalars": lambda it: it.session.stream_scalars(select(Note)),
    "get from the identity map": lambda it: it.session.get(Note, 1),
    "get by a statement": lambda it: it.session.get(Note, 2),
    "get_one": lambda it: it.session.get_one(Note, 1),
    "refresh": lambda it: it.session.refresh(it.note),
    # the unit of work
    "add": lambda it: it.session.add(Note(body="bob's")),
    "add_all": lambda it: it.session.add_all([Note(body="bob's")]),
    "delete": lambda it: it.session.delete(it.note),
    "merge": lambda it: it.session.merge(Note(id=1, body="bob's")),
    "expunge": lambda it: it.session.expunge(it.note),
    "expunge_all": lambda it: it.session.expunge_all(),
    "expire": lambda it: it.session.expire(it.note),
    "expire_all": lambda it: it.session.expire_all(),
    "flush": lambda it: it.session.flush(),
    "setting an attribute, as the first change": lambda it: setattr(it.note, "body", "bob's"),
    "no_autoflush": lambda it: it.session.no_autoflush,
    "autoflush =": lambda it: setattr(it.session, "autoflush", False),
    # looking into it
    "iteration": lambda it: list(it.session),
    "in": lambda it: it.note in it.session,
    "new": lambda it: it.session.new,
    "dirty": lambda it: it.session.dirty,
    "deleted": lambda it: it.session.deleted,
    "identity_map": lambda it: it.session.identity_map,
    "info": lambda it: it.session.info,
    "is_modified": lambda it: it.session.is_modified(it.note),
    "in_transaction": lambda it: it.session.in_transaction(),
    "get_transaction": lambda it: it.session.get_transaction(),
    "get_bind": lambda it: it.session.get_bind(),
    # transactions
    "begin": lambda it: enter(it.session.begin()),
    "begin_nested": lambda it: enter(it.session.begin_nested()),
    "commit": lambda it: it.session.commit(),
    "rollback": lambda it: it.session.rollback(),
    "close": lambda it: it.session.close(),
    "async with": lambda it: enter(it.session),
    "reset": lambda it: it.session.reset(),
    "invalidate": lambda it: it.session.invalidate(),
    "a held transaction's commit": lambda it: it.transaction.commit(),
    "a held transaction's rollback": lambda it: it.transaction.rollback(),
    # lazy loading
    "lazy load in run_sync": lambda it: it.session.run_sync(lambda _: it.author.notes),
    "lazy load by awaitable_attrs": lambda it: it.author.awaitable_attrs.notes,
    "query in run_sync": lambda it: it.session.run_sync(lambda s: s.query(Note).all()),
    # the connection
    "connection": lambda it: it.session.connection(),
    "a held connection's execute": lambda it: it.connection.execute(select(Note)),
    "a held connection's exec_driver_sql": lambda it: it.connection.exec_driver_sql("select 1"),
    "a held connection's scalars": lambda it: it.connection.scalars(select(Note)),
    "a held connection's begin_nested": lambda it: enter(it.connection.begin_nested()),
    "a held connection's commit": lambda it: it.connection.commit(),
    "a held connection's rollback": lambda it: it.connection.rollback(),
    "a held connection's close": lambda it: it.connection.close(),
    "a held connection's invalidate": lambda it: it.connection.invalidate(),
    "a held connection's get_transaction": lambda it: it.connection.get_transaction(),
    "a held connection's execution_options": lambda it: it.connection.execution_options(
        isolation_level="AUTOCOMMIT"
    ),
    "a held connection's driver connection": lambda it: it.connection.get_raw_connection(),
    # the sync session beneath
    "a held sync_session's execute": _in_greenlet(lambda held: held.execute(select(Note))),
    "a held sync_session's get from the identity map": _in_greenlet(lambda held: held.get(Note, 1)),
    "a held sync_session's add": lambda it: it.sync_session.add(Note(body="bob's")),
    "a held sync_session's commit": _in_greenlet(lambda held: held.commit()),
    "a held sync_session's bulk insert": _in_greenlet(
        lambda held: held.bulk_insert_mappings(Note, [{"body": "bob's"}])
    ),
    "object_session(...).add": lambda it: object_session(it.note).add(Note(body="bob's")),
    "async_object_session(...).execute": lambda it: async_object_session(it.note).execute(
        select(Note)
    ),
}

PERMITTED: dict[str, tuple[Use, str]] = {
    "reading a loaded attribute": (lambda it: it.note.body, "plain data; costs no statement"),
    "setting an attribute, after other changes": (
        lambda it: setattr(it.note, "body", "bob's"),
        "plain data; only the first change of a clean session is told to it",
    ),
    "object_session": (lambda it: object_session(it.note), "a look-up; its use is refused"),
    "session.sync_session": (lambda it: it.session.sync_session, "likewise"),
    "begin, not entered": (lambda it: [it.session.begin()], "likewise"),
    "identity_key": (lambda it: it.session.identity_key(instance=it.note), "a class method"),
    "run_sync of what does not use it": (
        lambda it: it.session.run_sync(lambda _: 1),
        "nothing of it is used",
    ),
    "rows that were fetched": (lambda it: it.rows.all(), "plain data"),
    "rows of a stream": (
        lambda it: it.stream.fetchone(),
        "a cursor has no hooks; the statement was checked",
    ),
    "facts of a held connection": (
        lambda it: (it.connection.in_transaction(), it.connection.closed),
        "no statement",
    ),
    "a held driver connection": (
        lambda it: it.raw.driver_connection.execute("select 1"),
        "beneath SQLAlchemy; getting hold of it is refused",
    ),
}

ENDED = {  # of a session whose scope has ended: SQLAlchemy itself has taken these apart
    name: use
    for name, use in REFUSED.items()
    if "held connection" not in name and "held transaction" not in name
    # no instance is attached to it any more
    and not name.startswith(("lazy", "setting", "object_session", "async_object_session"))
}  # fmt: skip


async def do(use: Use, stolen: Stolen) -> Any:
    result = use(stolen)
    return await result if hasattr(result, "__await__") else result


class World:
    """Alice's request with her session, own or given, and bob's beside it."""

    def __init__(self, engine: AsyncEngine, kind: str) -> None:
        self.fence = fence_for(engine)
        self.given = AsyncSession(engine, expire_on_commit=False) if kind == "explicit" else None

    def alice(self) -> Any:
        return self.fence.user_context("alice-1", db_session=self.given)

    def bob(self) -> Any:
        return self.fence.user_context("bob-22")
