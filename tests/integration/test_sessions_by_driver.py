"""What holds of sessions holds by each driver: SQLite's and both of PostgreSQL's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
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

from ..integrations.notes import Note, bodies
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
