"""The tables that mixed users fight over, and the ways in which PostgreSQL is told who asks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import attrs
from sqlalchemy import URL, NullPool, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from ringfence import Ringfence, Settings, child_context
from ringfence.integrations.postgres import RowLevelSecurity, enable_row_security
from ringfence.integrations.sqlalchemy import Database

from .mixed_plans import ROWS, USERS, Plan
from .mixed_users import APP, OWNER

DRIVERS = ("asyncpg", "psycopg")
PLAIN: dict[str, dict[str, Any]] = {
    "asyncpg": {"ssl": False},
    "psycopg": {"sslmode": "disable", "gssencmode": "disable"},
}
_SET_UP = f"""
DROP SCHEMA IF EXISTS torture CASCADE
DROP ROLE IF EXISTS {APP}
DROP ROLE IF EXISTS {OWNER}
CREATE ROLE {OWNER}
CREATE ROLE {APP} LOGIN
CREATE SCHEMA torture
GRANT USAGE ON SCHEMA torture TO {APP}, {OWNER}
CREATE TABLE torture.note (id serial PRIMARY KEY, owner_id text NOT NULL)
CREATE TABLE torture.entry (owner_id text DEFAULT nullif(current_setting('ringfence.user_id', true), ''), body text)
INSERT INTO torture.note (owner_id) SELECT 'u' || u FROM generate_series(0, {USERS - 1}) u, generate_series(1, {ROWS})
"""  # noqa: E501
# A row that belongs to the empty string: whoever takes nobody for somebody is shown it.
_TRAP = (
    "ALTER TABLE torture.note DROP CONSTRAINT ringfence_owner_id_not_empty",
    "INSERT INTO torture.note (owner_id) VALUES ('')",
)
_RIGHTS = f"""
ALTER TABLE torture.note OWNER TO {OWNER}
ALTER TABLE torture.entry OWNER TO {OWNER}
GRANT SELECT, INSERT ON torture.note, torture.entry TO {APP}
GRANT USAGE ON SEQUENCE torture.note_id_seq TO {APP}
"""


async def make_tables(admin: AsyncEngine) -> None:
    """Fresh ones, and a role that owns nothing."""
    async with admin.begin() as connection:
        for line in _SET_UP.strip().splitlines():
            await connection.execute(text(line))
        for table in ("note", "entry"):
            await connection.execute(enable_row_security(table, schema="torture"))
        for line in (*_TRAP, *_RIGHTS.strip().splitlines()):
            await connection.execute(text(line))


@contextlib.asynccontextmanager
async def engines(url: URL, driver: str, pool: int) -> AsyncIterator[tuple[Any, AsyncEngine]]:
    """The application's, with a pool of that many, and an administrator's."""
    admin = create_async_engine(url, poolclass=NullPool)
    engine = pooled(url, driver, pool)
    try:
        yield engine, admin
    finally:
        await engine.dispose()
        await admin.dispose()


def pooled(url: URL, driver: str, pool: int) -> AsyncEngine:
    return create_async_engine(
        url.set(username=APP),
        pool_size=pool,
        max_overflow=0,
        pool_timeout=10,
        connect_args=PLAIN[driver],
    )


# --- ways -------------------------------------------------------------------------------------


@attrs.frozen
class ByRingfence:
    """What ringfence does."""

    fence: Ringfence
    may_be_left = True

    def open(self, plan: Plan) -> Any:
        if not plan.who:
            return self.fence.nobody()
        timeout = plan.after if plan.cancel == "deadline" else None
        return self.fence.user_context(plan.who, timeout=timeout, transaction=plan.transaction)

    def child(self, plan: Plan) -> Any:
        if plan.who:
            return child_context("tool")
        return self.fence.nobody()


@contextlib.asynccontextmanager
async def by_ringfence(engine: AsyncEngine) -> AsyncIterator[ByRingfence]:
    rls = RowLevelSecurity(schemas=("torture",))
    database = Database(async_sessionmaker(engine), row_level_security=rls)
    settings = Settings(nested_checkout_timeout=0.2)
    async with Ringfence(database=database, settings=settings) as fence:
        yield ByRingfence(fence)


@attrs.frozen
class BySession:
    """What people write: a setting of the session, as PostgreSQL calls a connection."""

    engine: AsyncEngine
    may_be_left = False  # the connection is lost to the pool, and everybody waits for it

    @contextlib.asynccontextmanager
    async def open(self, plan: Plan) -> AsyncIterator[Any]:
        async with AsyncSession(self.engine) as session:
            if plan.who:
                event.listen(session.sync_session, "after_begin", _set_for(plan.who))
            yield SimpleNamespace(db_session=session)
            await session.commit()

    child = open


def _set_for(who: str) -> Any:
    def after_begin(session: Session, transaction: Any, connection: Any) -> None:
        connection.execute(text(f"SET ringfence.user_id = '{who}'"))

    return after_begin


@contextlib.asynccontextmanager
async def by_session(engine: AsyncEngine) -> AsyncIterator[BySession]:
    yield BySession(engine)


@contextlib.asynccontextmanager
async def by_session_and_reset(engine: AsyncEngine) -> AsyncIterator[BySession]:
    """The repair that does nothing: the pool rolls it back."""

    @event.listens_for(engine.sync_engine, "reset")
    def reset(connection: Any, record: Any, state: Any) -> None:
        if not state.terminate_only:
            cursor = connection.cursor()
            cursor.execute("RESET ALL")
            cursor.close()

    yield BySession(engine)


@attrs.define
class Once:
    """Told until the end of a transaction, but only of the first."""

    engine: AsyncEngine
    is_closed: bool = True
    may_be_left = False
    kept: list[AsyncSession] = attrs.Factory(list)

    @contextlib.asynccontextmanager
    async def open(self, plan: Plan) -> AsyncIterator[Any]:
        session = AsyncSession(self.engine)
        self.kept.append(session)  # as a cache does, or a traceback
        say = text("SELECT set_config('ringfence.user_id', :who, true)")
        try:
            await session.execute(say, {"who": plan.who or ""})
            yield SimpleNamespace(db_session=session)
        finally:
            if self.is_closed:
                await session.close()

    child = open


@contextlib.asynccontextmanager
async def once(engine: AsyncEngine) -> AsyncIterator[Once]:
    yield Once(engine)


@contextlib.asynccontextmanager
async def never_closed(engine: AsyncEngine) -> AsyncIterator[Once]:
    way = Once(engine, is_closed=False)
    yield way
    for session in way.kept:
        with contextlib.suppress(DBAPIError):  # its backend may have been killed
            await session.close()
