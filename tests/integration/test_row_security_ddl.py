"""The DDL of row-level security: what it makes, on which tables, and that it can be undone."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from ringfence import ConfigurationError, Identity, RowSecurityError
from ringfence.integrations.postgres import (
    RowLevelSecurity,
    disable_row_security,
    enable_row_security,
)

from .row_security import ALICE, BOB, SCHEMA, Databases, Unchecked, fence_of, rules

POLICIES = text("SELECT tablename, policyname FROM pg_policies WHERE schemaname = 'rls'")
STATE = text(
    "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class "
    "WHERE relnamespace = 'rls'::regnamespace AND relkind IN ('r', 'p')"
)
CHECKS = text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conname LIKE 'ringfence%'")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _all(db: Databases, query: Any) -> list[Any]:
    async with db.admin.connect() as connection:
        return sorted(tuple(row) for row in await connection.execute(query))


async def _seen(db: Databases, table: str, who: Identity) -> int:
    async with db.engine() as engine, fence_of(engine, Unchecked()) as fence:
        async with fence.user_context(who) as ctx:
            count = await ctx.db_session.scalar(text(f"SELECT count(*) FROM {table}"))
            return int(count)


async def test_once_or_twice_is_the_same_and_it_can_be_undone(db: Databases) -> None:
    policies, checks = await _all(db, POLICIES), await _all(db, CHECKS)
    assert len(policies) == 2 * 6
    for table in ("note", "event"):
        await db.run(enable_row_security(table, schema=SCHEMA))
    assert await _all(db, POLICIES) == policies
    assert await _all(db, CHECKS) == checks
    for table in ("note", "account", "ticket", "deal", "event"):
        await db.run(*[disable_row_security(table, schema=SCHEMA)] * 2)
    assert await _all(db, POLICIES) == await _all(db, CHECKS) == []
    assert not any(enabled or forced for _, enabled, forced in await _all(db, STATE))
    assert await _seen(db, "rls.note", ALICE) == 2


async def test_disabling_leaves_what_is_not_ours(db: Databases) -> None:
    await db.run(
        "ALTER TABLE rls.note ADD CONSTRAINT own_check CHECK (body <> '')",
        "CREATE POLICY own_policy ON rls.note USING (true)",
        disable_row_security("note", schema=SCHEMA),
    )
    assert ("note", "own_policy") in await _all(db, POLICIES)
    with pytest.raises(DBAPIError, match="own_check"):
        await db.run("UPDATE rls.note SET body = ''")


async def test_a_partition_that_is_made_later_needs_its_own(db: Databases) -> None:
    await db.run(
        "CREATE TABLE rls.event_2 PARTITION OF rls.event FOR VALUES FROM (10) TO (20)",
        "GRANT SELECT ON rls.event_2 TO rls_app",
        f"INSERT INTO rls.event SELECT '{BOB.user_id}', 'globex', 'x', 11",
    )
    assert await _seen(db, "rls.event", ALICE) == 1
    assert await _seen(db, "rls.event_2", ALICE) == 1, "the trap: a partition asked by name"
    async with db.engine() as engine:
        with pytest.raises(RowSecurityError) as caught:
            await rules().verify(engine)
        assert caught.value.findings == ("Table `rls.event_2` has no row-level security.",)
        await db.run(
            enable_row_security("event_2", schema=SCHEMA),
            "ALTER TABLE rls.event_2 OWNER TO rls_owner",
        )
        await rules().verify(engine)
    assert await _seen(db, "rls.event_2", ALICE) == 0


async def test_children_that_inherit_and_partitions_of_partitions(db: Databases) -> None:
    await db.run(
        "CREATE TABLE rls.old_note () INHERITS (rls.note)",
        "CREATE TABLE rls.sub PARTITION OF rls.event FOR VALUES FROM (20) TO (40) "
        "PARTITION BY RANGE (at)",
        "CREATE TABLE rls.sub_1 PARTITION OF rls.sub FOR VALUES FROM (20) TO (30)",
        enable_row_security("note", schema=SCHEMA),
        enable_row_security("event", schema=SCHEMA),
    )
    enabled = {name for name, *both in await _all(db, STATE) if all(both)}
    assert {"old_note", "sub", "sub_1"} <= enabled


@pytest.mark.parametrize(
    ("kind", "user", "other"),
    [
        ("bigint", "170", "171"),
        ("numeric(5, 1)", "17", "18"),
        ("varchar(3)", "abcdef", "abc"),
        ("char(3)", "abcdef", "abc"),
        ("name", "abc", "abd"),
        ("rls.short", "abcdef", "abc"),
        ("rls.round", "17.4", "17"),
    ],
)
async def test_types_of_owner(db: Databases, kind: str, user: str, other: str) -> None:
    """An id is never cut to the length of the column: that would be somebody else's."""
    await db.run(
        "CREATE DOMAIN rls.short AS varchar(3)",
        "CREATE DOMAIN rls.round AS numeric(5, 0)",
        f"CREATE TABLE rls.kind (owner_id {kind})",
        f"INSERT INTO rls.kind VALUES ('{other}')",
        enable_row_security("kind", schema=SCHEMA),
        "GRANT SELECT ON rls.kind TO rls_app",
    )
    assert await _seen(db, "rls.kind", Identity(user)) == 0
    assert await _seen(db, "rls.kind", Identity(other)) == 1


@pytest.mark.parametrize(
    "kind",
    ["bit(8)", '"char"', "boolean", "text[]", "double precision", "real", "money", "regclass",
     "rls.rounder"],
)  # fmt: skip
async def test_types_that_no_id_has_are_refused(db: Databases, kind: str) -> None:
    """Numbers that are not exact too: two ids may be one of them."""
    await db.run(
        "CREATE DOMAIN rls.round AS numeric(5, 0)",
        "CREATE DOMAIN rls.rounder AS rls.round",
        f"CREATE TABLE rls.kind (owner_id {kind})",
    )
    with pytest.raises(DBAPIError, match="has no column owner_id of text, an exact number or uuid"):
        await db.run(enable_row_security("kind", schema=SCHEMA))


async def test_a_column_that_is_not_there_is_named(db: Databases) -> None:
    with pytest.raises(DBAPIError, match="has no column who of text"):
        await db.run(enable_row_security("note", "who", schema=SCHEMA))
    with pytest.raises(ConfigurationError, match="Give `user=`, `tenant=` or both"):
        enable_row_security("note", None)


@pytest.mark.parametrize("how", ["element", "text"])
async def test_odd_names(db: Databases, how: str) -> None:
    name, column = 'Odd "table" 100% :it\'s', "Owner's %s id"
    metadata = MetaData(schema=SCHEMA)
    table = Table(name, metadata, Column(column, String))
    async with db.admin.begin() as connection:
        await connection.run_sync(metadata.create_all)
    for make in (enable_row_security(table, column), disable_row_security(table)):
        statement = make if how == "element" else text(str(make).replace(" :it", r" \:it"))
        await db.run(statement)
        [state] = [both for got, *both in await _all(db, STATE) if got == name]
        assert state == [make.__class__.__name__.startswith("Enable")] * 2


@pytest.mark.parametrize("name", ["a\\b", "a$ringfence$b", "a\0b"])
def test_names_that_would_end_the_statement_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be named"):
        str(enable_row_security("note", name))


async def test_as_a_listener_of_after_create(db: Databases) -> None:
    metadata = MetaData(schema=SCHEMA)
    table = Table("made", metadata, Column("owner_id", String))
    event.listen(table, "after_create", enable_row_security(table))
    async with db.admin.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert ("made", True, True) in await _all(db, STATE)


async def test_the_schema_is_translated_as_that_of_the_table_is(db: Databases) -> None:
    metadata = MetaData()
    table = Table("made", metadata, Column("owner_id", String))
    event.listen(table, "after_create", enable_row_security(table))
    async with db.admin.connect() as connection:
        where = {"schema_translate_map": {None: SCHEMA}}
        connection = await connection.execution_options(**where)
        await connection.run_sync(metadata.create_all)
        await connection.commit()
    assert ("made", True, True) in await _all(db, STATE)


def test_as_a_listener_it_lets_other_databases_be() -> None:
    metadata = MetaData()
    table = Table("made", metadata, Column("id", Integer), Column("owner_id", String))
    event.listen(table, "after_create", enable_row_security(table))
    event.listen(table, "before_drop", disable_row_security(table))
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    metadata.drop_all(engine)
    engine.dispose()


async def test_settings_of_ones_own(db: Databases) -> None:
    rls = RowLevelSecurity("app.who", "app.firm", schemas=(SCHEMA,))
    async with db.engine() as engine:
        with pytest.raises(RowSecurityError, match=r"`rls.note` .* `app.who` or `app.firm`"):
            await rls.verify(engine)
        for table, columns in (("note", {}), ("deal", {"tenant": "tenant_id"})):
            options: dict[str, Any] = {"user_setting": "app.who", "tenant_setting": "app.firm"}
            await db.run(enable_row_security(table, schema=SCHEMA, **columns, **options))
        exempt = {"account", "ticket", "event", "rls.event_1", "alembic_version"}
        await rls.verify(engine, exempt=exempt)
        async with fence_of(engine, Unchecked("app.who", "app.firm")) as fence:
            async with fence.user_context(ALICE) as alice:
                for table in ("note", "deal"):
                    count = text(f"SELECT count(*) FROM rls.{table}")
                    assert await alice.db_session.scalar(count) == 1


@pytest.mark.parametrize("name", ["user", "App.user", "a.b'c", "a.", "a b.c", ""])
def test_names_that_are_no_settings(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no name of a setting"):
        RowLevelSecurity(name)
    with pytest.raises(ConfigurationError, match="no name of a setting"):
        RowLevelSecurity(tenant=name)


def test_what_would_go_by_less_than_it_says() -> None:
    with pytest.raises(ConfigurationError, match="user's column and the tenant's"):
        enable_row_security("note", "owner_id", "owner_id")
    with pytest.raises(ConfigurationError, match="user's setting and the tenant's"):
        RowLevelSecurity("app.who", "app.who")
    with pytest.raises(ConfigurationError, match="letter by letter"):
        RowLevelSecurity(schemas="public")
    with pytest.raises(ConfigurationError, match="letter by letter"):
        RowLevelSecurity(exempt="draft")
