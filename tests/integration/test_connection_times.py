"""A connection that is held while nothing goes over it is counted, and named when it is long."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ringfence import DatabasePolicyError, Settings, child_context, counters
from ringfence.integrations import _session_waits
from ringfence.integrations.sqlalchemy import released_connection

from ..integrations.notes import Note, checked_out, fence_for

LOGGER = "ringfence.sqlalchemy"
PAUSE = 0.1
SLOW = {
    "postgresql": "select pg_sleep(0.3)",
    "sqlite": "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000000) "
    "select count(*) from n",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def held() -> float:
    return counters.value("connection.held_us") / 1e6


def idle() -> float:
    return counters.value("connection.idle_us") / 1e6


async def test_what_a_model_thinks_is_idle(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1") as alice:
        await alice.db_session.scalars(select(Note))
        await asyncio.sleep(PAUSE)
        await alice.db_session.scalars(select(Note))
        await asyncio.sleep(PAUSE)
        assert counters.value("connection.held") == 0
    assert counters.value("connection.held") == 1
    assert 2 * PAUSE <= idle() <= held() < 2


async def test_and_not_once_the_connection_was_given_back(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1") as alice:
        await alice.db_session.scalars(select(Note))
        async with released_connection():
            await asyncio.sleep(5 * PAUSE)
        await alice.db_session.scalars(select(Note))
    assert counters.value("connection.held") == 2
    assert held() < 5 * PAUSE


async def test_a_statement_is_no_idleness(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1") as alice:
        await alice.db_session.execute(text(SLOW[engine.dialect.name]))
    assert held() - idle() > 0.05


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_ending_a_transaction_is_no_idleness(engine: AsyncEngine, end: str) -> None:
    def slow(_connection: object) -> None:
        _session_waits._await(asyncio.sleep(PAUSE))

    async with fence_for(engine).user_context("alice-1") as alice:
        await alice.db_session.scalars(select(Note))
        event.listen(engine.sync_engine, end, slow)
        await getattr(alice.db_session, end)()
    assert counters.value("connection.held") == 1
    assert held() - idle() > PAUSE


async def test_after_a_statement_that_failed_it_is_idle(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1") as alice:
        with pytest.raises(IntegrityError):
            await alice.db_session.execute(insert(Note).values(body="one"))
        await asyncio.sleep(PAUSE)
        await alice.db_session.rollback()
    assert PAUSE <= idle() <= held()


async def test_after_a_statement_that_was_refused_it_is_idle(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1", transaction="read_only") as alice:
        await alice.db_session.scalars(select(Note))
        with pytest.raises(DatabasePolicyError):
            await alice.db_session.execute(insert(Note).values(body="three"))
        await asyncio.sleep(PAUSE)
    assert PAUSE <= idle() <= held()


async def test_a_stream_is_not_called_idle(engine: AsyncEngine) -> None:
    """Documented: nothing tells us when its rows are fetched."""
    async with fence_for(engine).user_context("alice-1") as alice:
        rows = await alice.db_session.stream(select(Note))
        await asyncio.sleep(PAUSE)
        await rows.fetchall()
        await alice.db_session.scalars(select(Note))
        await asyncio.sleep(PAUSE)
    assert held() - idle() > PAUSE
    assert idle() > PAUSE


async def test_given_sessions_and_children_count_too(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await session.scalars(select(Note))
        async with fence_for(engine).user_context("alice-1", db_session=session):
            await asyncio.sleep(PAUSE)
            async with child_context("tool") as child:
                await child.db_session.scalars(select(Note))
            assert counters.value("connection.held") == 1
        assert counters.value("connection.held") == 2
        assert PAUSE <= idle() <= held()
        await session.scalars(select(Note))
    assert counters.value("connection.held") == 2


async def test_one_that_was_cancelled_counts(engine: AsyncEngine) -> None:
    async def request() -> None:
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.scalars(select(Note))
            began.set()
            await alice.db_session.execute(text(SLOW[engine.dialect.name]))

    began = asyncio.Event()
    task = asyncio.create_task(request())
    await began.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert checked_out(engine) == 0
    assert counters.value("connection.held") == 1
    assert 0 < idle() <= held()


# --- the warning ------------------------------------------------------------------------------


async def _think(engine: AsyncEngine, limit: float, times: int = 1) -> str:
    settings = Settings(idle_connection_warning=limit)
    async with fence_for(engine, settings=settings).user_context("alice-1") as alice:
        for _ in range(times):
            await alice.db_session.scalars(select(Note))
            await asyncio.sleep(PAUSE)
        return alice.request_id


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == LOGGER]


async def test_a_long_stretch_is_named_once(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    request_id = await _think(engine, PAUSE / 2, times=3)
    [warning] = _warnings(caplog)
    assert f"Request `{request_id}` held a database connection for 0.1 s" in warning
    assert "`async with released_connection():`" in warning
    assert "alice" not in warning.replace(request_id, "")
    assert [r.levelno for r in caplog.records if r.name == LOGGER] == [logging.WARNING]
    assert counters.value("connection.idle_warned") == 1


@pytest.mark.parametrize("limit", [0, PAUSE * 2.5])
async def test_a_short_one_is_not_nor_any_where_it_is_off(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    await _think(engine, limit, times=3)  # together they are longer: it is stretches that count
    assert _warnings(caplog) == []
    assert idle() > 3 * PAUSE


async def test_the_default_is_five_seconds(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("ringfence.integrations._connection_times.perf_counter", lambda: now[0])
    for stretch in (4.9, 5.1):
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.scalars(select(Note))
            now[0] += stretch
    assert len(_warnings(caplog)) == 1
    assert counters.value("connection.idle_us") == 10_000_000


def test_it_is_read_from_the_environment() -> None:
    values: dict[str, Any] = {"RINGFENCE_IDLE_CONNECTION_WARNING": "0"}
    assert Settings.from_env(values).idle_connection_warning == 0


@pytest.mark.parametrize("how", ["cancelled", "invalidated"])
async def test_a_connection_that_is_lost_is_held_no_longer(
    engine: AsyncEngine, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    if (how, engine.dialect.name) == ("cancelled", "sqlite"):
        pytest.skip("aiosqlite keeps its connection")
    fence = fence_for(engine, settings=Settings(idle_connection_warning=2 * PAUSE))
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        connection = await session.connection()
        if how == "cancelled":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(PAUSE / 2):
                    await session.execute(text(SLOW[engine.dialect.name]))
        else:
            await connection.invalidate()
        before = held()
        await asyncio.sleep(4 * PAUSE)
        assert counters.value("connection.held") == 1
        await session.rollback()
    assert held() - before < 3 * PAUSE
    assert [r for r in caplog.records if r.name == LOGGER] == []
