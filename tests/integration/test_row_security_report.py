"""Each hole in row-level security is planted, and found; and without one nothing is."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from ringfence import ConfigurationError, RowSecurityError, counters
from ringfence.integrations.postgres import enable_row_security

from .row_security import ALICE, SCHEMA, Databases, Unchecked, fence_of, rules


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _findings(db: Databases, role: str | None = "rls_app") -> tuple[str, ...]:
    async with db.engine(role) as engine:
        try:
            await rules().verify(engine)
        except RowSecurityError as error:
            lines = str(error).splitlines()
            return tuple(line[2:] for line in lines if line.startswith("- "))
    return ()


async def test_a_sound_database_has_none(db: Databases) -> None:
    assert await _findings(db) == ()


MINE = "nullif(current_setting('ringfence.user_id', true), '')"
NO_POLICY = (
    "Table `rls.note` has no restrictive policy for all commands and everybody that compares a "
    "column with `ringfence.user_id` or `ringfence.tenant_id`."
)


def _policy(clauses: str) -> list[str]:
    """Instead of ours."""
    return ["DROP POLICY ringfence_owner ON rls.note", f"CREATE POLICY other ON rls.note {clauses}"]


RULE = f"owner_id = (SELECT {MINE})"
POLICIES = {
    "none": ["DROP POLICY ringfence_owner ON rls.note"],
    "permissive": _policy(f"FOR ALL USING ({RULE})"),
    "for one command": _policy(f"AS RESTRICTIVE FOR SELECT USING ({RULE})"),
    "to one role": _policy(f"AS RESTRICTIVE TO rls_app USING ({RULE})"),
    "with a back door": _policy(f"AS RESTRICTIVE USING ({RULE} OR body = 'x')"),
    "checks nothing": _policy(f"AS RESTRICTIVE USING ({RULE}) WITH CHECK (true)"),
    "checks another column": _policy(f"AS RESTRICTIVE USING ({RULE}) WITH CHECK (body = {MINE})"),
    "says nothing of what is seen": _policy(f"AS RESTRICTIVE WITH CHECK ({RULE})"),
    "sees everything": _policy(f"AS RESTRICTIVE USING (true) WITH CHECK ({RULE})"),
    "not": _policy(f"AS RESTRICTIVE USING (NOT ({RULE}))"),
    "another setting": _policy(
        "AS RESTRICTIVE USING (owner_id = nullif(current_setting('app.user_id', true), ''))"
    ),
    "cuts ids": _policy(f"AS RESTRICTIVE USING (owner_id::bpchar = (SELECT {MINE}::char(3)))"),
    "rounds ids": _policy(f"AS RESTRICTIVE USING (owner_id::real = (SELECT {MINE}::real))"),
    "'' is somebody": _policy(
        "AS RESTRICTIVE USING (owner_id = current_setting('ringfence.user_id', true))"
    ),
}


@pytest.mark.parametrize("kind", POLICIES)
async def test_policies_that_are_not_enough(db: Databases, kind: str) -> None:
    await db.run(*POLICIES[kind])
    assert await _findings(db) == (NO_POLICY,)


@pytest.mark.parametrize(
    "rule",
    [RULE, f"owner_id = {MINE}", f"{RULE} AND tenant_id = (SELECT {MINE})"],
)
async def test_policies_of_ones_own_that_are(db: Databases, rule: str) -> None:
    await db.run(*_policy(f"AS RESTRICTIVE USING ({rule})"))
    assert await _findings(db) == ()


TABLES = {
    "ALTER TABLE rls.note DISABLE ROW LEVEL SECURITY": (
        "Table `rls.note` has no row-level security."
    ),
    "ALTER TABLE rls.event_1 DISABLE ROW LEVEL SECURITY": (
        "Table `rls.event_1` has no row-level security."
    ),
    "ALTER TABLE rls.event NO FORCE ROW LEVEL SECURITY": (
        "Table `rls.event` does not force row-level security on its owner."
    ),
    "CREATE TABLE rls.new (id int)": "Table `rls.new` has no row-level security.",
    "GRANT TRUNCATE ON rls.ticket TO rls_app": (
        "The login role `rls_app` may truncate `rls.ticket`."
    ),
    "GRANT TRUNCATE ON rls.ticket TO PUBLIC": (
        "The login role `rls_app` may truncate `rls.ticket`."
    ),
    "ALTER TABLE rls.ticket OWNER TO rls_app": "The login role `rls_app` owns `rls.ticket`.",
    "ALTER TABLE rls.event_1 OWNER TO rls_app": "The login role `rls_app` owns `rls.event_1`.",
}


@pytest.mark.parametrize("hole", TABLES)
async def test_tables(db: Databases, hole: str) -> None:
    await db.run(hole)
    assert await _findings(db) == (TABLES[hole],)


async def test_roles(db: Databases) -> None:
    assert await _findings(db, None) == (f"The login role `{db.url.username}` is a superuser.",)
    assert await _findings(db, "rls_bypass") == (
        "The login role `rls_bypass` bypasses row-level security.",
    )
    owned = await _findings(db, "rls_owner")
    assert "The login role `rls_owner` owns `rls.event_1`." in owned
    assert len(owned) == 6


@pytest.mark.parametrize("inherits", ["", "NOINHERIT"])
@pytest.mark.parametrize(
    ("role", "what"),
    [("rls_bypass", "bypasses row-level security."), ("rls_owner", "owns `rls.note`.")],
)
async def test_roles_that_the_login_role_may_take(
    db: Databases, role: str, what: str, inherits: str
) -> None:
    await db.run(f"ALTER ROLE rls_app {inherits or 'INHERIT'}", f"GRANT {role} TO rls_app")
    try:
        findings = await _findings(db)
    finally:
        await db.run(f"REVOKE {role} FROM rls_app", "ALTER ROLE rls_app INHERIT")
    assert f"Role `{role}`, which the login role may take, {what}" in findings
    assert await _findings(db) == ()


async def test_roles_that_reach_the_files(db: Databases) -> None:
    await db.run("GRANT pg_read_server_files TO rls_app")
    try:
        [finding] = await _findings(db)
    finally:
        await db.run("REVOKE pg_read_server_files FROM rls_app")
    assert finding == (
        "Role `pg_read_server_files`, which the login role may take, has the files of the server."
    )
    await db.run("ALTER ROLE rls_app REPLICATION")
    try:
        [finding] = await _findings(db)
    finally:
        await db.run("ALTER ROLE rls_app NOREPLICATION")
    assert "`rls_app` may copy the whole database" in finding


async def test_partitions_in_another_schema(db: Databases) -> None:
    await db.run(
        "DROP SCHEMA IF EXISTS rls_archive CASCADE",
        "CREATE SCHEMA rls_archive",
        "CREATE TABLE rls_archive.old PARTITION OF rls.event FOR VALUES FROM (10) TO (20)",
    )
    try:
        assert await _findings(db) == ("Table `rls_archive.old` has no row-level security.",)
    finally:
        await db.run("DROP SCHEMA rls_archive CASCADE")


async def test_an_operator_of_somebodys_own(db: Databases) -> None:
    """It looks the same in a policy, in a schema of the search path."""
    await db.run(
        "CREATE FUNCTION public.always(varchar, text) RETURNS bool LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.always)",
        enable_row_security("note", schema=SCHEMA),
    )
    try:
        assert await _findings(db) == (NO_POLICY,)
    finally:
        await db.run("DROP FUNCTION public.always CASCADE")


async def test_parents_in_another_schema(db: Databases) -> None:
    await db.run(
        "DROP SCHEMA IF EXISTS rls_above CASCADE",
        "CREATE SCHEMA rls_above",
        "CREATE TABLE rls_above.event (owner_id text, at int) PARTITION BY RANGE (at)",
        "CREATE TABLE rls.event_2 PARTITION OF rls_above.event FOR VALUES FROM (0) TO (10)",
        enable_row_security("event_2", schema=SCHEMA),
    )
    try:
        assert await _findings(db) == ("Table `rls_above.event` has no row-level security.",)
        await db.run(
            enable_row_security("event", schema="rls_above"),
            "GRANT TRUNCATE ON rls_above.event TO rls_app",
        )
        [finding] = await _findings(db)
        assert finding == "The login role `rls_app` may truncate `rls_above.event`."
    finally:
        await db.run("DROP SCHEMA rls_above CASCADE")


async def test_a_role_that_reads_the_statistics(db: Databases) -> None:
    await db.run("GRANT pg_read_all_data TO rls_app")
    try:
        own, taken = sorted(await _findings(db), reverse=True)
    finally:
        await db.run("REVOKE pg_read_all_data FROM rls_app")
    assert own.startswith("The login role `rls_app` may read the statistics")
    assert taken.startswith("Role `pg_read_all_data`")


async def test_who_owns_a_schema_may_drop_what_is_in_it(db: Databases) -> None:
    await db.run("ALTER SCHEMA rls OWNER TO rls_app")
    assert "The login role `rls_app` may drop `rls.note`." in await _findings(db)


async def test_a_function_that_is_somebody_else(db: Databases) -> None:
    await db.run(
        f"CREATE FUNCTION rls.peek() RETURNS int LANGUAGE sql "
        f"SET ringfence.user_id = '{ALICE.user_id}' SET work_mem = '1MB' AS 'SELECT 1'",
        "CREATE FUNCTION rls.slow() RETURNS int LANGUAGE sql SET work_mem = '1MB' AS 'SELECT 1'",
    )
    [finding] = await _findings(db)
    assert finding.startswith("Function `rls.peek()` sets `ringfence.user_id`")


async def test_a_function_of_an_owner_may_turn_the_policies_off(db: Databases) -> None:
    await db.run(
        "CREATE FUNCTION rls.peek() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION rls.peek OWNER TO rls_owner",
    )
    [finding] = await _findings(db)
    assert "runs with the rights of `rls_owner`" in finding
    await db.run("ALTER FUNCTION rls.peek OWNER TO rls_app")
    assert await _findings(db) == ()


async def test_a_role_that_was_taken_can_be_given_back(db: Databases) -> None:
    """It is the login role that is judged: `RESET ROLE` is all it needs."""
    async with db.engine(None) as engine:
        async with engine.connect() as connection:
            await connection.execute(text("SET ROLE rls_app"))
            await connection.commit()
        with pytest.raises(RowSecurityError, match="is a superuser"):
            await rules().verify(engine)


async def test_a_user_that_was_taken_can_be_given_back(db: Databases) -> None:
    """`SET SESSION AUTHORIZATION` is not another login either."""
    async with db.engine(None) as engine:
        async with engine.connect() as connection:
            await connection.execute(text("SET SESSION AUTHORIZATION rls_app"))
            await connection.commit()
        with pytest.raises(RowSecurityError, match="is a superuser"):
            await rules().verify(engine)


async def test_a_role_that_makes_roles(db: Databases) -> None:
    """Up to PostgreSQL 15 it may take any but a superuser's."""
    async with db.admin.connect() as connection:
        version = (await connection.execute(text("SHOW server_version_num"))).scalar_one()
    await db.run("ALTER ROLE rls_app CREATEROLE")
    try:
        findings = await _findings(db)
    finally:
        await db.run("ALTER ROLE rls_app NOCREATEROLE")
    expected = "The login role `rls_app` may make itself a member of any role (CREATEROLE)."
    assert findings == ((expected,) if int(version) < 160000 else ())


async def test_a_setting_that_is_not_empty_to_begin_with(db: Databases) -> None:
    await db.run("ALTER ROLE rls_app SET ringfence.user_id = 'alice-1'")
    try:
        [finding] = await _findings(db)
    finally:
        await db.run("ALTER ROLE rls_app RESET ringfence.user_id")
    assert finding.startswith("`ringfence.user_id` is set before anybody has set it")


RULE_OF_NOTE = "CREATE RULE also AS ON INSERT TO rls.alembic_version DO ALSO DELETE FROM rls.note"
RULE_OF_VIEW = (
    "CREATE VIEW rls.mine WITH (security_invoker) AS SELECT * FROM rls.note; "
    "CREATE RULE instead AS ON DELETE TO rls.mine DO INSTEAD DELETE FROM rls.note"
)
ROUNDABOUT = {
    RULE_OF_NOTE: "Rule `also` of `rls.alembic_version` acts with the rights of `{}`.",
    "CREATE VIEW rls.all_notes AS SELECT * FROM rls.note": (
        "View `rls.all_notes` reads protected tables with the rights of `{}`."
    ),
    "CREATE MATERIALIZED VIEW rls.kept AS SELECT * FROM rls.event_1": (
        "Materialised view `rls.kept` keeps rows of protected tables, whoever reads it."
    ),
    "CREATE FUNCTION rls.peek() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS "
    "'SELECT count(*) FROM rls.note'": (
        "Function `rls.peek()` runs with the rights of `{}` (SECURITY DEFINER)."
    ),
}


@pytest.mark.parametrize("hole", ROUNDABOUT)
async def test_what_reads_with_other_rights(db: Databases, hole: str) -> None:
    await db.run(hole)
    assert await _findings(db) == (ROUNDABOUT[hole].format(db.url.username),)


async def test_a_rule_of_a_view_that_reads_with_ones_own_rights(db: Databases) -> None:
    await db.run(*RULE_OF_VIEW.split("; "))
    owner = db.url.username
    assert await _findings(db) == (
        f"Rule `instead` of `rls.mine` acts with the rights of `{owner}`.",
    )


async def test_a_rule_does_what_its_owner_may(db: Databases) -> None:
    """The trap that the finding is about."""
    await db.run(RULE_OF_NOTE, "GRANT INSERT ON rls.alembic_version TO rls_app")
    async with db.engine() as engine, fence_of(engine, Unchecked()) as fence:
        async with fence.user_context(ALICE) as alice:
            await alice.db_session.execute(text("INSERT INTO rls.alembic_version VALUES ('1')"))
    async with db.admin.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM rls.note"))).scalar_one() == 0


async def test_a_materialised_view_of_a_view(db: Databases) -> None:
    await db.run(
        "CREATE VIEW rls.mine WITH (security_invoker = true) AS SELECT * FROM rls.note",
        "CREATE MATERIALIZED VIEW rls.kept AS SELECT * FROM rls.mine",
    )
    [finding] = await _findings(db)
    assert "`rls.kept`" in finding


@pytest.mark.parametrize(
    "sound",
    [
        "CREATE VIEW rls.mine WITH (security_invoker) AS SELECT * FROM rls.note",
        "CREATE VIEW rls.versions AS SELECT * FROM rls.alembic_version",
        "CREATE FUNCTION rls.peek() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM rls.note'",
    ],
)
async def test_what_does_not(db: Databases, sound: str) -> None:
    await db.run(sound)
    assert await _findings(db) == ()


async def test_a_view_or_rule_of_a_role_that_is_subject_itself(db: Databases) -> None:
    await db.run(
        "CREATE VIEW rls.all_notes AS SELECT * FROM rls.note",
        "ALTER VIEW rls.all_notes OWNER TO rls_owner",
        "CREATE RULE also AS ON DELETE TO rls.event_1 DO ALSO DELETE FROM rls.note",
    )
    assert await _findings(db) == ()


async def test_all_at_once_in_one_report(db: Databases) -> None:
    await db.run(*TABLES, *ROUNDABOUT)
    findings = await _findings(db)
    assert len(findings) == 6 + len(ROUNDABOUT), findings
    assert counters.value("refused.RF802") == 1


@pytest.mark.parametrize("name", ["{}", "rls.{}"])
async def test_exempt_is_by_name(db: Databases, name: str) -> None:
    await db.run("CREATE TABLE rls.new (id int)", *ROUNDABOUT)
    names = ["new", "all_notes", "kept", "peek", "also"]
    async with db.engine() as engine:
        exempt = {"alembic_version", *(name.format(each) for each in names)}
        await rules().verify(engine, exempt=exempt)
        with pytest.raises(RowSecurityError) as caught:
            await rules().verify(engine, exempt=exempt - {name.format("new"), "alembic_version"})
        assert len(caught.value.findings) == 2
        with pytest.raises(RowSecurityError):
            await rules().verify(engine, exempt={each.upper() for each in exempt})


async def test_schemas(db: Databases) -> None:
    async with db.engine() as engine:
        with pytest.raises(RowSecurityError) as caught:
            await rules().verify(engine, schemas=(SCHEMA, "rsl"))
    assert caught.value.findings == ("There is no schema `rsl`.",)
    assert "\n- There is no schema `rsl`.\nProtect each table" in str(caught.value)
    assert isinstance(caught.value, ConfigurationError)
