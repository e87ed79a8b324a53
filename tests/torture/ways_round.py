"""
Ways round row-level security, each tried: those that lead somewhere, and those that do not.

One that leads nowhere counts only if its statements do what they are meant to: they show their user
her own rows, or by a superuser they reach another's.
"""

from __future__ import annotations

import contextlib
from typing import Any

import attrs
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ringfence import RowSecurityError
from ringfence.integrations.postgres import enable_row_security

from ..integration.row_security import ALICE, BOB, ROOTS, Databases, Unchecked, fence_of, rules

MINE = "nullif(current_setting('ringfence.user_id', true), '')"
NAIVE = "current_setting('ringfence.user_id', true)"
OURS = "DROP POLICY ringfence_owner ON rls.note"
NOTES = "SELECT owner_id FROM rls.note"
WAY = "SELECT owner_id FROM rls.way"
VIEW = "CREATE VIEW rls.way AS SELECT * FROM rls.note"
DEFINER = (
    "CREATE FUNCTION rls.way() RETURNS SETOF rls.note SECURITY DEFINER LANGUAGE sql AS "
    "'SELECT * FROM rls.note'"
)
TURNS_OFF = (
    "CREATE FUNCTION rls.way() RETURNS SETOF rls.note SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN "
    "ALTER TABLE rls.note DISABLE ROW LEVEL SECURITY; RETURN QUERY SELECT * FROM rls.note; "
    "ALTER TABLE rls.note ENABLE ROW LEVEL SECURITY; END'"
)
TO_BOB = f"UPDATE rls.note SET owner_id = '{BOB.user_id}'"
GRANT = "GRANT SELECT ON rls.way TO PUBLIC"


@attrs.frozen
class Way:
    """
    One way round.

    Attributes:
        set_up: by an administrator, statements; `undo` what outlives the schema.
        attack: by `who`, in one transaction; its last statement returns owners, or changes rows.
        is_hole: whether it leads to another's rows; what does must be found by the check.
    """

    name: str
    set_up: tuple[Any, ...]
    attack: tuple[str, ...]
    is_hole: bool
    who: str = "alice"
    role: str = "rls_app"
    undo: tuple[str, ...] = ()


def _way(name: str, *set_up: Any, attack: Any = WAY, is_hole: bool = True, **more: Any) -> Way:
    return Way(name, set_up, (attack,) if isinstance(attack, str) else attack, is_hole, **more)


def _sound(name: str, *set_up: str, **more: Any) -> Way:
    return _way(name, *set_up, is_hole=False, **more)


WAYS = (
    _way("a view of a superuser's", VIEW, GRANT),
    _sound("a view of the owner's", VIEW, GRANT, "ALTER VIEW rls.way OWNER TO rls_owner"),
    _sound("an invoker's view", VIEW.replace(" AS", " WITH (security_invoker) AS"), GRANT),
    _way("a materialised view", VIEW.replace("VIEW", "MATERIALIZED VIEW"), GRANT),
    _way("a definer's function, a superuser's", DEFINER, attack=WAY + "()"),
    _way(
        "a definer's function, the owner's, that turns them off",
        TURNS_OFF,
        "ALTER FUNCTION rls.way OWNER TO rls_owner",
        attack=WAY + "()",
    ),
    _way(
        "a function that is somebody else",
        DEFINER.replace("SECURITY DEFINER", f"SET ringfence.user_id = '{BOB.user_id}'"),
        attack=WAY + "()",
    ),
    _way(
        "a parent in another schema",
        "DROP SCHEMA IF EXISTS rls_above CASCADE",
        "CREATE SCHEMA rls_above",
        "GRANT USAGE ON SCHEMA rls_above TO PUBLIC",
        "CREATE TABLE rls_above.event (LIKE rls.note)",
        "ALTER TABLE rls.note INHERIT rls_above.event",
        "GRANT SELECT ON rls_above.event TO PUBLIC",
        attack="SELECT owner_id FROM rls_above.event",
        undo=("ALTER TABLE rls.note NO INHERIT rls_above.event", "DROP SCHEMA rls_above CASCADE"),
    ),
    _way(
        "the statistics",
        "GRANT pg_read_all_data TO rls_app",
        f"UPDATE rls.note SET owner_id = '{BOB.user_id}'",
        "INSERT INTO rls.note SELECT * FROM rls.note",
        "ANALYZE rls.note",
        attack="SELECT unnest(stavalues1::text::text[]) FROM pg_statistic "
        "WHERE starelid = 'rls.note'::regclass AND staattnum = 1",
        undo=("REVOKE pg_read_all_data FROM rls_app",),
    ),
    _way(
        "dropping it as the owner of its schema",
        "ALTER SCHEMA rls OWNER TO rls_app",
        attack="DROP TABLE rls.note",
    ),
    _way(
        "an operator of somebody's own",
        "CREATE FUNCTION public.always(varchar, text) RETURNS bool LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.always)",
        enable_row_security("note", schema="rls"),
        attack=NOTES,
        undo=("DROP FUNCTION public.always CASCADE",),
    ),
    _way(
        "a check of another column",
        OURS,
        f"CREATE POLICY own ON rls.note AS RESTRICTIVE USING (owner_id = {MINE}) "
        f"WITH CHECK (body = {MINE})",
        attack=f"INSERT INTO rls.note VALUES ('{BOB.user_id}', 'globex', '{ALICE.user_id}')",
    ),
    _sound("a careless policy", "CREATE POLICY way ON rls.note USING (true)", attack=NOTES),
    _way(
        "a careless policy beside a permissive one",
        OURS,
        f"CREATE POLICY own ON rls.note USING (owner_id = {MINE})",
        attack=NOTES,
    ),
    _way(
        "nobody who is the empty string",
        OURS,
        f"CREATE POLICY own ON rls.note AS RESTRICTIVE USING (owner_id = {NAIVE})",
        "ALTER TABLE rls.note DROP CONSTRAINT ringfence_owner_id_not_empty",
        "INSERT INTO rls.note (owner_id) VALUES ('')",
        attack=NOTES,
        who="nobody",
    ),
    _sound(
        "nobody, and a row of the empty string",
        "ALTER TABLE rls.note DROP CONSTRAINT ringfence_owner_id_not_empty",
        "INSERT INTO rls.note (owner_id) VALUES ('')",
        attack=NOTES,
        who="nobody",
    ),
    _sound(
        "nobody, and a row without an owner",
        "INSERT INTO rls.ticket VALUES (NULL, NULL)",
        attack="SELECT owner_id FROM rls.ticket",
        who="nobody",
    ),
    _way("an owner who is not subject", "ALTER TABLE rls.note NO FORCE ROW LEVEL SECURITY",
         attack=NOTES, role="rls_owner"),
    _way("disabled", "ALTER TABLE rls.note DISABLE ROW LEVEL SECURITY", attack=NOTES),
    _way(
        "a partition that was made later",
        "CREATE TABLE rls.event_2 PARTITION OF rls.event FOR VALUES FROM (10) TO (20)",
        f"INSERT INTO rls.event VALUES ('{BOB.user_id}', 'globex', 'x', 11)",
        "GRANT SELECT ON rls.event_2 TO rls_app",
        attack="SELECT owner_id FROM rls.event_2",
    ),
    _way(
        "a rule",
        "CREATE RULE way AS ON INSERT TO rls.alembic_version DO ALSO DELETE FROM rls.note",
        "GRANT INSERT ON rls.alembic_version TO rls_app",
        attack="INSERT INTO rls.alembic_version VALUES ('1')",
    ),
    _way("truncating", "GRANT TRUNCATE ON rls.note TO rls_app", attack="TRUNCATE rls.note"),
    _sound("truncating without the right", attack="TRUNCATE rls.note"),
    _way(
        "taking a role that bypasses",
        "GRANT rls_bypass TO rls_app",
        attack=("SET LOCAL ROLE rls_bypass", NOTES),
        undo=("REVOKE rls_bypass FROM rls_app",),
    ),
    _sound("taking a role that is not granted", attack=("SET LOCAL ROLE rls_bypass", NOTES)),
    _way(
        "disabling it as a member of the owner",
        "GRANT rls_owner TO rls_app",
        attack=("ALTER TABLE rls.note DISABLE ROW LEVEL SECURITY", NOTES),
        undo=("REVOKE rls_owner FROM rls_app",),
    ),
    _sound("disabling it", attack=("ALTER TABLE rls.note DISABLE ROW LEVEL SECURITY", NOTES)),
    _way(
        "a setting that begins with somebody",
        f"ALTER ROLE rls_app SET ringfence.user_id = '{BOB.user_id}'",
        attack=NOTES,
        who="a bare connection",
        undo=("ALTER ROLE rls_app RESET ringfence.user_id",),
    ),
    _sound("a bare connection", attack=NOTES, who="a bare connection"),
    _sound("row_security = off", attack=("SET LOCAL row_security = off", NOTES)),
    _sound("giving a row away", attack=TO_BOB),
    _sound(
        "an upsert onto a row that is not seen",
        "ALTER TABLE rls.note ADD id int UNIQUE",
        f"UPDATE rls.note SET id = 1 WHERE owner_id = '{BOB.user_id}'",
        attack=f"INSERT INTO rls.note (owner_id, id) VALUES ('{ALICE.user_id}', 1) "
        f"ON CONFLICT (id) DO UPDATE SET owner_id = '{ALICE.user_id}'",
    ),
    _sound("what was prepared for another", attack=("PREPARE way AS " + NOTES, "EXECUTE way")),
    _sound("the whole table, in a subquery",
           attack="SELECT owner_id FROM (TABLE rls.note) every"),
    _sound("settings that are reset", attack=("RESET ALL", NOTES)),
)  # fmt: skip


@attrs.frozen
class Outcome:
    """
    What became of it.

    Attributes:
        leads: to somebody else's rows.
        is_found: by the check.
        is_real: what is asked there can be answered, so that no answer says something.
    """

    leads: bool
    is_found: bool
    is_real: bool


async def attempt(db: Databases, way: Way) -> Outcome:
    """Try it, and look whether the check finds it."""
    try:
        await db.run(*way.set_up)
        async with db.engine(way.role) as engine:
            is_found = await _is_found(engine, way)
            reaches = await _reaches_by_a_superuser(db, way)
            seen, leads = await _tried(db, engine, way)
            return Outcome(leads, is_found, reaches or ALICE.user_id in seen)
    finally:
        await db.run(*way.undo)


async def _is_found(engine: Any, way: Way) -> bool:
    # The owner's role is a hole by itself; here it is about the table.
    try:
        await rules().verify(engine)
    except RowSecurityError as error:
        return way.role == "rls_app" or any("does not force" in each for each in error.findings)
    return False


async def _tried(db: Databases, engine: Any, way: Way) -> tuple[list[Any], bool]:
    async with db.admin.connect() as connection:
        before = await _rows_of_bob(connection)
    seen: list[Any] = []
    with contextlib.suppress(DBAPIError):  # it was refused
        seen = await _owners(engine, way)
    allowed = {ALICE.user_id} if way.who == "alice" else set()
    async with db.admin.connect() as connection:
        return seen, not set(seen) <= allowed or await _rows_of_bob(connection) != before


async def _reaches_by_a_superuser(db: Databases, way: Way) -> bool:
    async with db.admin.connect() as connection:
        before = await _rows_of_bob(connection)
        try:
            seen = await _attacked(connection, way)
            return not set(seen) <= {ALICE.user_id} or await _rows_of_bob(connection) != before
        except DBAPIError:
            return False
        finally:
            await connection.rollback()


async def _owners(engine: Any, way: Way) -> list[Any]:
    if way.who == "a bare connection":
        async with engine.connect() as connection:
            return await _attacked(connection, way)
    async with fence_of(engine, Unchecked()) as fence:
        block = fence.nobody() if way.who == "nobody" else fence.user_context(ALICE)
        async with block as scope:
            seen = await _attacked(scope.db_session, way)
            await scope.db_session.commit()
            return seen


async def _attacked(session: Any, way: Way) -> list[Any]:
    *before, last = map(text, way.attack)
    for statement in before:
        await session.execute(statement)
    result = await session.execute(last)
    return [row[0] for row in result] if result.returns_rows else []


async def _rows_of_bob(connection: AsyncConnection) -> list[Any]:
    found: list[Any] = []
    for table in ROOTS:
        if await connection.scalar(text(f"SELECT to_regclass('rls.{table}')")) is not None:
            rows = f"SELECT t::text FROM rls.{table} t WHERE owner_id::text = '{BOB.user_id}'"
            found += [(table, *row) for row in await connection.execute(text(rows))]
    return found
