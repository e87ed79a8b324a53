"""A session that is given to one request after the other: nobody saves another's work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ringfence import Ringfence, SessionIsolationError

from .notes import Note, bodies, fence_for, notes_engine

Work = Callable[[AsyncSession], Awaitable[object]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with notes_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def fence(engine: AsyncEngine) -> Ringfence:
    return fence_for(engine)


@pytest.fixture
async def given(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


async def add(session: AsyncSession) -> None:
    session.add(Note(body="alice's"))


async def flush(session: AsyncSession) -> None:
    session.add(Note(body="alice's"))
    await session.flush()


async def write(session: AsyncSession) -> None:
    await session.execute(insert(Note).values(body="alice's"))


@pytest.mark.parametrize("work", [add, flush, write])
async def test_another_users_unsaved_work_is_not_taken_over(
    work: Work, fence: Ringfence, given: AsyncSession, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1", db_session=given):
        await work(given)
    with pytest.raises(SessionIsolationError, match="unsaved work"):
        async with fence.user_context("bob-22", db_session=given):
            await given.commit()
    with pytest.raises(SessionIsolationError, match="unsaved work"):
        async with fence.user_context("alice-1", tenant_id="t-2", db_session=given):
            await given.commit()
    assert "alice's" not in await bodies(engine)


@pytest.mark.parametrize("work", [add, flush, write])
async def test_the_same_user_goes_on(
    work: Work, fence: Ringfence, given: AsyncSession, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1", db_session=given):
        await work(given)
    async with fence.user_context("alice-1", db_session=given):
        await given.commit()
    assert "alice's" in await bodies(engine)


@pytest.mark.parametrize("end", [AsyncSession.commit, AsyncSession.rollback, AsyncSession.close])
async def test_what_is_settled_is_in_nobodys_way(
    end: Work, fence: Ringfence, given: AsyncSession
) -> None:
    async with fence.user_context("alice-1", db_session=given):
        await flush(given)
    await end(given)
    async with fence.user_context("bob-22", db_session=given):
        await given.execute(select(Note))
    async with fence.user_context("carol-3", db_session=given):
        await given.commit()
