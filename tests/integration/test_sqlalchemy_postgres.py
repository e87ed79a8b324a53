"""The SQLAlchemy integration against a real PostgreSQL, by both drivers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ringfence import (
    ConcurrentSessionError,
    DatabasePolicyError,
    SessionIsolationError,
    Settings,
    child_context,
)
from ringfence.integrations.sqlalchemy import released_connection
from ringfence.testing.postgres import PostgresServer

from ..integrations.notes import Note, checked_out, fence_for, postgres_notes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(
    request: pytest.FixtureRequest, postgres: PostgresServer
) -> AsyncIterator[AsyncEngine]:
    async with postgres_notes(postgres.url(request.param)) as engine:
        yield engine
        assert checked_out(engine) == 0


async def test_sessions_are_isolated_and_settled(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        await session.execute(insert(Note).values(body="three"))
        connection = await session.connection()
        async with fence.user_context("bob-22"):
            for use in (
                lambda: session.execute(select(Note)),
                lambda: connection.execute(select(Note)),
                connection.commit,
                connection.get_raw_connection,
                session.rollback,
            ):
                with pytest.raises(SessionIsolationError):
                    await use()
        both = await asyncio.gather(
            session.execute(select(Note)), session.execute(select(Note)), return_exceptions=True
        )
        assert isinstance(both[1], ConcurrentSessionError)
    async with engine.connect() as outside:
        assert await outside.scalar(select(func.count()).select_from(Note)) == 3


async def test_connections_come_back_after_any_cancel(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    rng = random.Random(17)
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(None)  # asyncpg tells it of connections terminated on purpose

    async def request(timeout: float | None) -> None:
        async with fence.user_context("user-1", timeout=timeout) as user:
            await user.db_session.execute(select(Note))
            await user.db_session.commit()
            async with child_context("tool") as child:
                await child.db_session.execute(update(Note).values(author_id=None))
                async with released_connection(commit=True):
                    await asyncio.sleep(0.001)
                await child.db_session.execute(text("select pg_sleep(0.005)"))

    for number in range(200):
        task = asyncio.create_task(request(rng.uniform(0.001, 0.02) if number % 3 == 2 else None))
        await asyncio.sleep(rng.uniform(0, 0.02))
        if number % 3 < 2:
            task.cancel()
        if number % 3 == 1:
            await asyncio.sleep(0)
            task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert ended is None or isinstance(ended, (asyncio.CancelledError, TimeoutError))
        assert checked_out(engine) == 0, number
    loop.set_exception_handler(handler)


@pytest.mark.parametrize("how", ["update", "flush", "for update", "stream"])
async def test_a_child_does_not_wait_for_its_parents_row_lock(
    engine: AsyncEngine, how: str
) -> None:
    """PostgreSQL would wait for ever: it cannot see that the parent awaits the child."""
    fence = fence_for(engine, settings=Settings(nested_checkout_timeout=0.3))
    async with fence.user_context("alice-1") as alice:
        await alice.db_session.execute(update(Note).where(Note.id == 1).values(body="alice's"))
        began = time.monotonic()
        with anyio.fail_after(5), pytest.raises(DatabasePolicyError) as caught:
            async with child_context("tool") as child:
                session = child.db_session
                if how == "update":
                    await session.execute(update(Note).where(Note.id == 1).values(body="x"))
                elif how == "flush":
                    (await session.get_one(Note, 1)).body = "x"
                    await session.flush()
                elif how == "for update":
                    await session.execute(select(Note).where(Note.id == 1).with_for_update())
                else:
                    rows = await session.stream(select(Note).with_for_update())
                    await rows.fetchall()
        assert 0.2 < time.monotonic() - began < 2
        assert caught.value.ancestor_request_id == alice.request_id
        async with child_context("tool") as child:  # another row is no matter
            await child.db_session.execute(
                update(Note).where(Note.id == 2).values(body="the child's")
            )


async def test_another_requests_lock_is_waited_for(engine: AsyncEngine) -> None:
    fence = fence_for(engine, settings=Settings(nested_checkout_timeout=0.1))
    change = update(Note).where(Note.id == 1).values(body="x")
    async with AsyncSession(engine) as other:
        await other.execute(change)

        async def request() -> None:
            async with fence.user_context("alice-1") as alice:
                await alice.db_session.execute(select(Note))
                async with child_context("tool") as child:
                    await child.db_session.execute(change)

        task = asyncio.create_task(request())
        await asyncio.sleep(0.4)
        assert not task.done()
        await other.commit()
        await task


async def test_nowait_stays_the_databases_own_error(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    locked: Any = select(Note).where(Note.id == 1).with_for_update(nowait=True)
    async with fence.user_context("alice-1") as alice:
        await alice.db_session.execute(update(Note).where(Note.id == 1).values(body="alice's"))
        with pytest.raises(DBAPIError):
            async with child_context("tool") as child:
                await child.db_session.execute(locked)
