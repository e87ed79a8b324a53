"""Tables under row-level security, and the roles that touch them, for the tests of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from ringfence import Identity, Ringfence
from ringfence.integrations.postgres import RowLevelSecurity, enable_row_security
from ringfence.integrations.sqlalchemy import Database
from ringfence.testing.postgres import PostgresServer

SCHEMA = "rls"
ALICE = Identity("5b0c7f2e-0f0f-4a45-9a6f-2d5f7f6b0001", "acme")
BOB = Identity("5b0c7f2e-0f0f-4a45-9a6f-2d5f7f6b0002", "globex")

ROLES = ("rls_app", "rls_owner", "rls_bypass")
TABLES = ("note", "account", "ticket", "deal", "event", "event_1")
ROOTS = TABLES[:-1]
COMMANDS = ("select", "insert", "update", "delete")

_SET_UP = """
DROP SCHEMA IF EXISTS rls CASCADE
CREATE SCHEMA rls
GRANT USAGE ON SCHEMA rls TO PUBLIC
CREATE TABLE rls.note (owner_id varchar(40) NOT NULL, tenant_id text, body text)
CREATE TABLE rls.account (owner_id text, tenant_id text, body text)
CREATE TABLE rls.ticket (owner_id uuid, tenant_id text, body text)
CREATE TABLE rls.deal (owner_id char(36), tenant_id text, body text)
CREATE TABLE rls.event (owner_id text, tenant_id text, body text, at int DEFAULT 1) PARTITION BY RANGE (at)
CREATE TABLE rls.event_1 PARTITION OF rls.event FOR VALUES FROM (0) TO (10)
CREATE TABLE rls.alembic_version (version_num text)
"""  # noqa: E501
_COLUMNS: dict[str, dict[str, Any]] = {
    "account": {"user": None, "tenant": "tenant_id"},
    "deal": {"tenant": "tenant_id"},
}
_MAKE_ROLE = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{0}') THEN CREATE ROLE {0} LOGIN PASSWORD 'rls'; END IF;
END $$
"""  # noqa: E501


@attrs.frozen
class Databases:
    """The same database by an administrator, and by each role."""

    url: URL
    admin: AsyncEngine

    async def run(self, *statements: Any) -> None:
        async with self.admin.begin() as connection:
            for each in statements:
                await connection.execute(text(each) if isinstance(each, str) else each)

    @contextlib.asynccontextmanager
    async def engine(self, role: str | None = "rls_app", **options: Any) -> AsyncIterator[Any]:
        url = self.url if role is None else self.url.set(username=role, password="rls")
        engine = create_async_engine(url, **options)
        try:
            yield engine
        finally:
            await engine.dispose()


@contextlib.asynccontextmanager
async def databases(server: PostgresServer, driver: str) -> AsyncIterator[Databases]:
    """Fresh tables of six kinds, each with a row of Alice's and one of Bob's."""
    url = make_url(server.url(driver))
    admin = create_async_engine(url, poolclass=NullPool)
    all_of_it = Databases(url, admin)
    await all_of_it.run(
        *(_MAKE_ROLE.format(role) for role in ROLES),
        "ALTER ROLE rls_bypass BYPASSRLS",
        *_SET_UP.strip().splitlines(),
        *(insertion(table, whose) for table in ROOTS for whose in (ALICE, BOB)),
        *(enable_row_security(each, schema=SCHEMA, **_COLUMNS.get(each, {})) for each in ROOTS),
        *(f"ALTER TABLE rls.{table} OWNER TO rls_owner" for table in TABLES),
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rls TO rls_app, rls_bypass",
    )
    yield all_of_it


def insertion(table: str, whose: Identity) -> str:
    return (
        f"INSERT INTO rls.{table} (owner_id, tenant_id, body) "
        f"VALUES ('{whose.user_id}', '{whose.tenant_id}', 'x')"
    )


def statement(command: str, table: str, whose: Identity) -> str:
    where = f"owner_id = '{whose.user_id}'"
    match command:
        case "insert":
            return insertion(table, whose)
        case "select":
            return f"SELECT * FROM rls.{table} WHERE {where}"
        case "update":
            return f"UPDATE rls.{table} SET body = 'y' WHERE {where}"
    return f"DELETE FROM rls.{table} WHERE {where}"


async def touched(session: Any, command: str, table: str, whose: Identity) -> int:
    """How many rows a command reaches; it is undone."""
    try:
        result = await session.execute(text(statement(command, table, whose)))
        return len(result.all()) if command == "select" else result.rowcount
    except DBAPIError as error:
        if "row-level security policy" not in str(error):
            raise
        return 0
    finally:
        await session.rollback()


def cells() -> Iterator[tuple[str, str, Identity]]:
    for table in TABLES:
        for command in COMMANDS:
            for whose in (ALICE, BOB):
                yield table, command, whose


class Unchecked(RowLevelSecurity):
    """Serves with any role, to see what becomes of it."""

    async def verify(self, engine: Any, *_unused: Any) -> None:
        self._engines.add(engine.sync_engine)


def rules(**options: Any) -> RowLevelSecurity:
    return RowLevelSecurity(schemas=(SCHEMA,), **options)


def fence_of(engine: Any, rls: RowLevelSecurity | None = None, **options: Any) -> Ringfence:
    rls = rules() if rls is None else rls
    return Ringfence(
        database=Database(async_sessionmaker(engine), row_level_security=rls, **options)
    )


SETTINGS = text(
    "SELECT current_setting('ringfence.user_id', true), "
    "current_setting('ringfence.tenant_id', true)"
)


async def said(session: Any) -> tuple[str | None, str | None]:
    """What PostgreSQL has been told, as the session or connection sees it."""
    return tuple((await session.execute(SETTINGS)).one())  # type: ignore[return-value]
