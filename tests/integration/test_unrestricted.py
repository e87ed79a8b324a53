"""Going past row-level security: asked for by name, with a role of its own, and written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    DatabasePolicyError,
    NoContextError,
    Ringfence,
    SessionIsolationError,
    counters,
)
from ringfence.integrations.postgres import RowLevelSecurity

from .row_security import ALICE, BOB, Databases, fence_of, rules

COUNT = text("SELECT count(*) FROM rls.note")
CHANGE = text("UPDATE rls.note SET body = 'changed'")
CHANGED = text("SELECT count(*) FROM rls.note WHERE body = 'changed'")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def wide(db: Databases) -> AsyncIterator[Any]:
    async with db.engine("rls_bypass", pool_size=1, max_overflow=0) as engine:
        yield engine
        assert engine.pool.checkedout() == 0


@pytest.fixture(params=["engine", "maker"])
def rls(request: pytest.FixtureRequest, wide: Any) -> RowLevelSecurity:
    return rules(unrestricted=wide if request.param == "engine" else async_sessionmaker(wide))


@pytest.fixture
async def fence(db: Databases, rls: RowLevelSecurity) -> AsyncIterator[Ringfence]:
    async with db.engine() as engine, fence_of(engine, rls) as fence:
        yield fence


async def _changed(db: Databases) -> int:
    async with db.admin.connect() as connection:
        return int((await connection.execute(CHANGED)).scalar_one())


async def test_it_sees_all_rows_and_is_written_down(
    fence: Ringfence, rls: RowLevelSecurity, caplog: pytest.LogCaptureFixture
) -> None:
    async with fence.user_context(ALICE) as alice:
        assert await alice.db_session.scalar(COUNT) == 1
        async with rls.unrestricted(reason=" monthly invoices ") as session:
            assert await session.scalar(COUNT) == 2
            assert await alice.db_session.scalar(COUNT) == 1
    [record] = [each for each in caplog.records if each.name == "ringfence.row_level_security"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"Request `{alice.request_id}` goes past row-level security: monthly invoices"
    )
    assert counters.value("row_level_security.unrestricted") == 1


async def test_it_is_committed_if_the_block_ends_well(
    db: Databases, fence: Ringfence, rls: RowLevelSecurity
) -> None:
    async with fence.nobody():
        with pytest.raises(KeyError):
            async with rls.unrestricted(reason="test") as session:
                await session.execute(CHANGE)
                raise KeyError
        assert await _changed(db) == 0
        async with rls.unrestricted(reason="test") as session:
            await session.execute(CHANGE)
        assert await _changed(db) == 2


async def test_it_belongs_to_its_request_and_ends_with_its_block(
    fence: Ringfence, rls: RowLevelSecurity
) -> None:
    async with fence.user_context(ALICE):
        async with rls.unrestricted(reason="test") as session:
            async with fence.user_context(BOB):
                with pytest.raises(SessionIsolationError):
                    await session.scalar(COUNT)
        with pytest.raises(ContextClosedError):
            await session.scalar(COUNT)


async def test_a_request_that_may_only_read_may_only_read(
    fence: Ringfence, rls: RowLevelSecurity
) -> None:
    async with fence.user_context(ALICE, transaction="read_only"):
        async with rls.unrestricted(reason="test") as session:
            assert await session.scalar(COUNT) == 2
            with pytest.raises(DatabasePolicyError):
                await session.execute(CHANGE)


async def test_its_connection_comes_back_whatever_cancels(
    db: Databases, fence: Ringfence, rls: RowLevelSecurity, wide: Any
) -> None:
    async def request() -> None:
        async with fence.user_context(ALICE):
            async with rls.unrestricted(reason="test") as session:
                await session.execute(CHANGE)
                await session.execute(text("SELECT pg_sleep(1)"))

    for again in range(1, 6):
        task = asyncio.create_task(request())
        await asyncio.sleep(0.2)
        assert wide.pool.checkedout() == 1
        for _ in range(again):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wide.pool.checkedout() == 0
    assert await _changed(db) == 0


class Slow(AsyncSession):
    """Has something to do before it closes, as classes that applications write may."""

    async def close(self) -> None:
        await asyncio.sleep(0.1)
        await super().close()


async def test_closing_it_cannot_be_cancelled(db: Databases, wide: Any) -> None:
    rls = rules(unrestricted=async_sessionmaker(wide, class_=Slow))

    async def request(fence: Ringfence) -> None:
        async with fence.user_context(ALICE):
            async with rls.unrestricted(reason="test") as session:
                await session.execute(CHANGE)
                await asyncio.sleep(1)

    async with db.engine() as engine, fence_of(engine, rls) as fence:
        task = asyncio.create_task(request(fence))
        await asyncio.sleep(0.2)
        assert wide.pool.checkedout() == 1
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wide.pool.checkedout() == 0
    assert await _changed(db) == 0


async def test_a_block_that_is_never_left_ends_with_the_scope(
    db: Databases, fence: Ringfence, rls: RowLevelSecurity, wide: Any
) -> None:
    async with fence.user_context(ALICE):
        block = rls.unrestricted(reason="test")
        session = await block.__aenter__()
        await session.execute(CHANGE)
        assert wide.pool.checkedout() == 1
    assert wide.pool.checkedout() == 0
    with pytest.raises(ContextClosedError):
        await block.__aexit__(None, None, None)
    assert await _changed(db) == 0


async def test_a_role_that_is_subject_itself_is_told_so(db: Databases) -> None:
    """An owner, under forced policies: its report would be empty, and nobody know why."""
    async with db.engine("rls_owner") as owner, db.engine() as engine:
        rls = rules(unrestricted=owner)
        async with fence_of(engine, rls) as fence, fence.nobody():
            async with rls.unrestricted(reason="test") as session:
                for _ in range(2):
                    with pytest.raises(DBAPIError, match="affected by row-level security"):
                        await session.scalar(COUNT)
                    await session.rollback()
        async with owner.connect() as connection:
            assert await connection.scalar(COUNT) == 0
            assert await connection.scalar(text("SHOW row_security")) == "on"


async def test_it_needs_a_scope_a_reason_and_a_role(
    fence: Ringfence, rls: RowLevelSecurity
) -> None:
    with pytest.raises(NoContextError):
        async with rls.unrestricted(reason="test"):
            pass
    async with fence.nobody():
        with pytest.raises(ConfigurationError, match="needs a reason"):
            async with rls.unrestricted(reason=" "):
                pass
        with pytest.raises(ConfigurationError, match="unrestricted=engine"):
            async with rules().unrestricted(reason="test"):
                pass
    assert counters.value("row_level_security.unrestricted") == 0
