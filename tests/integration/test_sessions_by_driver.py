"""What holds of sessions holds by each driver: SQLite's and both of PostgreSQL's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlmodel import select as sqlmodel_select
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from ringfence import (
    ConcurrentSessionError,
    ContextClosedError,
    NoContextError,
    Ringfence,
    SessionIsolationError,
    user_context,
)
from ringfence.integrations.sqlalchemy import Database
from ringfence.state import _current

from ..integrations.notes import Author, Note, bodies, fence_for
from ..integrations.session_uses import PERMITTED, REFUSED
from ..trials import foreign_sessions


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- foreign uses -----------------------------------------------------------------------------


# Of the control, where a stranger closes the connection beneath a stream.
@pytest.mark.filterwarnings("ignore:transaction already deassociated")
@pytest.mark.filterwarnings("ignore:.*AsyncServerCursor.*deleted while still open:ResourceWarning")
async def test_every_foreign_use_is_refused(driver: str, engine: AsyncEngine) -> None:
    report = await foreign_sessions.run(driver, engine)
    foreign_sessions.show(report)
    assert report.wrong == []
    assert report.refused == foreign_sessions.expected_counts()
    assert (len(REFUSED), report.total) == (66, 540)
    assert report.permitted == 2 * len(PERMITTED) == 22
    assert report.unguarded > 60, "the control: without a guard nearly all of them go through"


# --- sessions of one's own class --------------------------------------------------------------


class Audited(AsyncSession):
    """A session class as applications write them."""

    async def count(self) -> int:
        return len((await self.scalars(select(Note.id))).all())

    def remember(self, body: str) -> Note:
        note = Note(body=body)
        self.add(note)
        return note


class Both(SQLModelSession, Audited):
    pass


def _uses(session: Any) -> list[Any]:
    uses = [lambda: session.scalar(select(Note.id).limit(1)), lambda: session.commit()]
    if isinstance(session, Audited):
        uses += [lambda: session.count(), lambda: session.remember("bob's")]
    if isinstance(session, SQLModelSession):
        uses += [lambda: session.exec(sqlmodel_select(Note.body))]
    return uses


async def _refused(session: Any, error: type[Exception]) -> None:
    for use in _uses(session):
        with pytest.raises(error):
            result = use()
            if hasattr(result, "__await__"):
                await result


@pytest.mark.filterwarnings("ignore:(?s).*You probably want to use:DeprecationWarning")
@pytest.mark.parametrize("kind", ["own", "explicit"])
@pytest.mark.parametrize("cls", [Audited, SQLModelSession, Both])
async def test_subclasses_are_guarded_and_keep_their_methods(
    engine: AsyncEngine, cls: type[AsyncSession], kind: str
) -> None:
    fence = Ringfence(database=Database(async_sessionmaker(engine, class_=cls)))
    given = cls(engine) if kind == "explicit" else None
    try:
        async with fence.user_context("alice-1", db_session=given) as alice:
            session = alice.db_session
            assert type(session) is cls
            await _use(session)
            await _steal(session)
            await session.commit()
    finally:
        if given is not None:
            await given.close()
    if given is None:
        await _refused(session, ContextClosedError)
    assert await bodies(engine) == ["one", "two", "three"]


async def _use(session: Any) -> None:
    if isinstance(session, Audited):
        session.remember("three")
        assert await session.count() == 3
    else:
        session.add(Note(body="three"))
    if isinstance(session, SQLModelSession):
        found = await session.exec(sqlmodel_select(Note.body).order_by(Note.id))
        assert list(found.all()) == ["one", "two", "three"]


async def _steal(session: Any) -> None:
    async with user_context("bob-22"):
        await _refused(session, SessionIsolationError)
    token = _current.set(None)
    try:
        await _refused(session, NoContextError)
    finally:
        _current.reset(token)
    first = asyncio.ensure_future(session.scalars(select(Note)))
    await asyncio.sleep(0)
    assert not first.done()
    await _refused(session, ConcurrentSessionError)
    await first


# --- attributes that are not loaded -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "explicit"])
async def test_an_attribute_that_is_not_loaded_says_what_to_do(
    engine: AsyncEngine, kind: str
) -> None:
    """Alike by each driver; by itself SQLAlchemy wraps it, by some, after a leaked coroutine."""
    given = AsyncSession(engine) if kind == "explicit" else None
    fence = fence_for(engine, expire_on_commit=True)
    async with fence.user_context("alice-1", db_session=given) as alice:
        session: AsyncSession = alice.db_session
        author = await session.get_one(Author, 1)
        with pytest.raises(MissingGreenlet, match="`selectinload`.*awaitable_attrs.*xd2s"):
            author.notes  # noqa: B018
        assert [note.body for note in await author.awaitable_attrs.notes] == ["one"]
        await session.commit()
        with pytest.raises(MissingGreenlet, match="expired by a commit.*expire_on_commit=False"):
            author.name  # noqa: B018
        await session.refresh(author)
        assert author.name == "ada"
        with pytest.raises(MissingGreenlet):  # of a session without a transaction too
            session.sync_session.execute(select(Note))
        assert await session.scalar(select(Note.body).limit(1)) == "one"
    if given is not None:
        await given.close()


async def test_what_was_loaded_stays_readable_after_the_session(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1") as alice:
        author = await alice.db_session.get_one(Author, 1)
        await alice.db_session.commit()
    assert author.name == "ada"
    with pytest.raises(DetachedInstanceError, match="not bound to a Session.*'notes'"):
        author.notes  # noqa: B018
    async with fence_for(engine).user_context("bob-22"):
        with pytest.raises(DetachedInstanceError, match="not bound to a Session.*'notes'"):
            await author.awaitable_attrs.notes
