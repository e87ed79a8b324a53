"""Row-level security on a real PostgreSQL, by both drivers: who touches what, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from ringfence import (
    ConfigurationError,
    Ringfence,
    RowSecurityError,
    SessionIsolationError,
    child_context,
    current_context,
    current_scope,
)
from ringfence.integrations._session_guard import guard_of
from ringfence.integrations.asgi import UserContextMiddleware
from ringfence.integrations.sqlalchemy import Database, released_connection

from ..integrations.asgi_driver import ok, respond
from .row_security import (
    ALICE,
    BOB,
    COMMANDS,
    TABLES,
    Databases,
    Unchecked,
    cells,
    fence_of,
    rules,
    said,
    touched,
)

NOBODY = ("", "")
HERS, HIS = ((who.user_id, who.tenant_id) for who in (ALICE, BOB))
NOTES = text("SELECT owner_id FROM rls.note ORDER BY 1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(db: Databases) -> AsyncIterator[Any]:
    """One connection, so that whoever comes next gets the same."""
    async with db.engine(pool_size=1, max_overflow=0) as engine:
        yield engine
        assert engine.pool.checkedout() == 0


@pytest.fixture
async def fence(engine: Any) -> AsyncIterator[Ringfence]:
    async with fence_of(engine) as fence:
        yield fence


async def _owners(session: Any) -> list[str]:
    return list((await session.scalars(NOTES)).all())


# --- who touches what -------------------------------------------------------------------------

SUBJECT = {"rls_app": True, "rls_owner": True, "rls_bypass": False, None: False}


@pytest.mark.parametrize("role", SUBJECT)
async def test_roles_tables_commands_and_rows(db: Databases, role: str | None) -> None:
    """Each denial stands beside the same statement on one's own row, and by a role that may."""
    seen = 0
    async with db.engine(role) as engine, fence_of(engine, Unchecked()) as fence:
        for table, command, whose in cells():
            async with fence.user_context(ALICE) as alice:
                reached = await touched(alice.db_session, command, table, whose)
            async with fence.nobody() as scope:
                by_nobody = await touched(scope.db_session, command, table, whose)
            async with db.engine(role) as fresh, fresh.connect() as connection:
                assert await said(connection) == (None, None)
                unset = await touched(connection, command, table, whose)
            is_allowed = whose is ALICE or not SUBJECT[role]
            expected = (int(is_allowed), *[int(not SUBJECT[role])] * 2)
            assert (reached, by_nobody, unset) == expected, (table, command, whose)
            seen += 1
    assert seen == len(TABLES) * len(COMMANDS) * 2


async def test_a_tenant_alone_is_not_the_user(fence: Ringfence) -> None:
    other = ALICE.user_id, BOB.tenant_id
    async with fence.user_context(other[0], tenant_id=other[1]) as mixed:
        assert await touched(mixed.db_session, "select", "deal", ALICE) == 0
        assert await touched(mixed.db_session, "select", "account", BOB) == 1
    async with fence.user_context(ALICE.user_id) as alone:
        assert await said(alone.db_session) == (ALICE.user_id, "")
        assert await touched(alone.db_session, "select", "note", ALICE) == 1
        assert await touched(alone.db_session, "select", "deal", ALICE) == 0


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE rls.note SET owner_id = '{BOB.user_id}'",
        f"WITH moved AS (DELETE FROM rls.note RETURNING *) INSERT INTO rls.note "
        f"SELECT '{BOB.user_id}', tenant_id, body FROM moved",
        f"MERGE INTO rls.note USING (SELECT 1) s ON false WHEN NOT MATCHED THEN "
        f"INSERT (owner_id) VALUES ('{BOB.user_id}')",
    ],
)
async def test_no_row_is_given_away(fence: Ringfence, change: str) -> None:
    async with fence.user_context(ALICE) as alice:
        with pytest.raises(DBAPIError, match="row-level security policy"):
            await alice.db_session.execute(text(change))
        await alice.db_session.rollback()
        own = text(change.replace(BOB.user_id, ALICE.user_id))
        await alice.db_session.execute(own)


async def test_a_careless_policy_later_opens_nothing(db: Databases, fence: Ringfence) -> None:
    await db.run("CREATE POLICY careless ON rls.note USING (true) WITH CHECK (true)")
    async with fence.user_context(ALICE) as alice:
        assert await _owners(alice.db_session) == [ALICE.user_id]
        assert await touched(alice.db_session, "insert", "note", BOB) == 0


async def test_a_row_of_nobody_is_nobodys(db: Databases, fence: Ringfence) -> None:
    """A connection that was told something once says '' ever after, and no more NULL."""
    with pytest.raises(DBAPIError, match="ringfence_owner_id_not_empty"):
        await db.run("INSERT INTO rls.note (owner_id) VALUES ('')")
    await db.run(
        "ALTER TABLE rls.note DROP CONSTRAINT ringfence_owner_id_not_empty",
        "INSERT INTO rls.note (owner_id) VALUES ('')",
    )
    async with fence.user_context(ALICE) as alice:
        assert await _owners(alice.db_session) == [ALICE.user_id]
    async with fence.nobody() as scope:
        assert await said(scope.db_session) == NOBODY
        assert await _owners(scope.db_session) == []


# --- each transaction -------------------------------------------------------------------------


async def test_every_transaction_says_it_again(fence: Ringfence) -> None:
    async with fence.user_context(ALICE) as alice:
        session = alice.db_session
        for end in (session.commit, session.rollback, session.commit):
            assert await said(session) == HERS
            await end()
        async with released_connection():
            assert await said(session) == HERS
            await session.rollback()
        assert await said(session) == HERS
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
        await session.rollback()
        assert await said(session) == HERS


async def test_a_savepoint_needs_nothing_but_after_its_rollback(
    fence: Ringfence, engine: Any
) -> None:
    statements: list[str] = []

    def note(*call: Any) -> None:
        statements.append(call[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    async with fence.user_context(ALICE) as alice:
        session = alice.db_session
        async with session.begin_nested() as savepoint:
            assert await said(session) == HERS
            await savepoint.rollback()
        assert await said(session) == HERS
    said_on = [
        each.split()[0] for each in statements if "SAVEPOINT" in each or "set_config" in each
    ]
    assert said_on == ["SELECT", "SAVEPOINT", "ROLLBACK", "SELECT"]


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # SQLAlchemy's own
async def test_a_held_connection_that_is_committed_beneath_its_session(fence: Ringfence) -> None:
    async with fence.user_context(ALICE) as alice:
        connection = await alice.db_session.connection()
        for end in (connection.commit, connection.rollback):
            await end()
            assert await said(connection) == HERS
        await alice.db_session.rollback()


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_isolation_levels(fence: Ringfence, level: str) -> None:
    async with fence.user_context(ALICE) as alice:
        await alice.db_session.connection(execution_options={"isolation_level": level})
        assert await _owners(alice.db_session) == [ALICE.user_id]
        shown = await alice.db_session.scalar(text("SHOW transaction_isolation"))
        assert shown == level.lower()


@pytest.mark.parametrize("where", ["connection", "engine", "driver"])
async def test_autocommit_is_refused_each_time(db: Databases, where: str) -> None:
    """What is said until the end of the transaction would be over: all tables would look empty."""
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if where == "driver" else {}
    async with db.engine(**options) as made:
        engine = made
        if where == "engine":
            engine = made.execution_options(isolation_level="AUTOCOMMIT")
        async with fence_of(engine) as fence, fence.user_context(ALICE) as alice:
            session = alice.db_session
            option = {"isolation_level": "AUTOCOMMIT"} if where == "connection" else {}
            with pytest.raises(ConfigurationError, match="autocommit"):
                await session.connection(execution_options=option)
            with pytest.raises(ConfigurationError, match="autocommit"):
                await session.execute(NOTES)
            await session.rollback()
        assert made.pool.checkedout() == 0


async def test_it_is_the_owners_whoever_is_current(fence: Ringfence) -> None:
    async with fence.user_context(ALICE) as alice:
        session = alice.db_session
        async with fence.user_context(BOB):
            own = guard_of(session.sync_session)
            assert own is not None
            with own.served():
                assert await said(session) == HERS
            own.forget()
        await session.rollback()


async def test_children_answer_for_the_same_user(db: Databases) -> None:
    async with db.engine() as engine, fence_of(engine) as fence, fence.user_context(ALICE):
        async with child_context("tool") as tool:
            assert await said(tool.db_session) == HERS
            assert await _owners(tool.db_session) == [ALICE.user_id]


@pytest.mark.parametrize("transaction", ["read_only", "manual"])
async def test_other_policies(fence: Ringfence, transaction: Any) -> None:
    async with fence.user_context(ALICE, transaction=transaction) as alice:
        assert await _owners(alice.db_session) == [ALICE.user_id]


async def test_at_once_and_mixed(db: Databases) -> None:
    async with db.engine(pool_size=5) as engine, fence_of(engine) as fence:

        async def request(number: int) -> None:
            who = (ALICE, BOB, None)[number % 3]
            block = fence.nobody() if who is None else fence.user_context(who)
            async with block as scope:
                for _ in range(3):
                    expected = [] if who is None else [who.user_id]
                    assert await _owners(scope.db_session) == expected
                    await scope.db_session.commit()

        await asyncio.gather(*(request(number) for number in range(60)))


async def test_detached_work_answers_for_who_detached_it(fence: Ringfence) -> None:
    seen: list[Any] = []

    async def work() -> None:
        seen.append(await said(current_context().db_session))

    async with fence.user_context(ALICE):
        detached = fence.detach(work)
    await detached.wait()
    assert seen == [HERS]


async def test_requests_over_http(fence: Ringfence) -> None:
    """Their context is made late, when a session asks whose it is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = current_scope().db_session
        if current_scope().has_user:
            who = current_context()
            change = f"UPDATE rls.note SET body = '{who.tenant_id}'"
            assert (await session.execute(text(change))).rowcount == 1
        await respond(send, body=repr(await said(session)).encode())

    for who, expected in ((ALICE, HERS), (BOB, HIS), (None, NOBODY)):
        middleware = UserContextMiddleware(
            app, fence=fence, identify=lambda _, who=who: who, required=False
        )
        assert (await ok(middleware)).body == repr(expected).encode()


async def test_other_isolation_levels_and_access_modes(fence: Ringfence) -> None:
    for option in ({"isolation_level": "SERIALIZABLE"}, {"postgresql_readonly": True}):
        async with fence.user_context(ALICE) as alice:
            await alice.db_session.connection(execution_options=option)
            assert await said(alice.db_session) == HERS
            assert await _owners(alice.db_session) == [ALICE.user_id]


async def test_copying_out_of_a_table(db: Databases, fence: Ringfence) -> None:
    """By the driver's own means, on the connection that was told."""
    async with fence.user_context(ALICE) as alice:
        connection = await (await alice.db_session.connection()).get_raw_connection()
        driver: Any = connection.driver_connection
        query = "SELECT owner_id FROM rls.note"
        copied = io.BytesIO()
        if db.url.get_driver_name() == "asyncpg":
            await driver.copy_from_query(query, output=copied)
        else:
            async with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as rows:
                async for row in rows:
                    copied.write(row)
    assert copied.getvalue().decode().split() == [ALICE.user_id]


# --- what is left on a pooled connection ------------------------------------------------------


async def _left_on(engine: Any) -> set[str | None]:
    async with engine.connect() as connection:
        return set(await said(connection))


async def _commits(session: AsyncSession) -> None:
    await session.commit()


async def _rolls_back(session: AsyncSession) -> None:
    await session.rollback()


async def _fails(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def _is_cancelled(session: AsyncSession) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.05, task.cancel)
    await session.execute(text("SELECT pg_sleep(5)"))


async def _is_killed(session: AsyncSession) -> None:
    await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


ENDS = [_commits, _rolls_back, _fails, _is_cancelled, _is_killed]


@pytest.mark.parametrize("end", ENDS)
async def test_nothing_is_left(fence: Ringfence, engine: Any, end: Any) -> None:
    async def request() -> None:
        async with fence.user_context(ALICE) as alice:
            assert await said(alice.db_session) == HERS
            await end(alice.db_session)

    await asyncio.gather(asyncio.ensure_future(request()), return_exceptions=True)
    assert await _left_on(engine) <= {None, ""}
    async with fence.nobody() as scope:
        assert await _owners(scope.db_session) == []
    async with fence.user_context(BOB) as bob:
        assert await _owners(bob.db_session) == [BOB.user_id]


async def test_the_control_leaks(db: Databases, engine: Any) -> None:
    """The naive way: a setting of the session, as PostgreSQL calls a connection."""
    async with AsyncSession(engine) as naive:
        await naive.execute(text(f"SET ringfence.user_id = '{ALICE.user_id}'"))
        await naive.commit()
    async with engine.connect() as whoever_comes_next:
        assert ALICE.user_id in await said(whoever_comes_next)
        assert await _owners(whoever_comes_next) == [ALICE.user_id]


async def test_what_somebody_left_there_is_overruled(fence: Ringfence, engine: Any) -> None:
    async with engine.begin() as connection:
        for name, value in zip(("user_id", "tenant_id"), HERS, strict=True):
            await connection.execute(text(f"SET ringfence.{name} = '{value}'"))
    async with fence.nobody() as scope:
        assert await said(scope.db_session) == NOBODY
    async with fence.user_context(BOB.user_id) as bob:
        assert await said(bob.db_session) == (BOB.user_id, "")


async def test_cancels_and_kills_cross_nobody(db: Databases) -> None:
    rng = random.Random(5)
    seen, ended = 0, 0
    async with db.engine(pool_size=3, max_overflow=0) as engine, fence_of(engine) as fence:

        async def request(number: int) -> None:
            nonlocal seen
            who = (ALICE, BOB)[number % 2]
            async with fence.user_context(who) as ctx:
                for end in (ctx.db_session.commit, ctx.db_session.rollback):
                    assert await _owners(ctx.db_session) == [who.user_id]
                    seen += 1
                    if number % 7 == 0:
                        await _is_killed(ctx.db_session)
                    await ctx.db_session.execute(text("SELECT pg_sleep(0.002)"))
                    await end()

        async def armed(number: int) -> None:
            nonlocal ended
            task = asyncio.ensure_future(request(number))
            if number % 2:
                asyncio.get_running_loop().call_later(rng.uniform(0, 0.03), task.cancel)
            try:
                await task
            except AssertionError:
                raise
            except (Exception, asyncio.CancelledError):
                ended += 1

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # drivers tell it of connections that died
        for _ in range(10):
            await asyncio.gather(*(armed(number) for number in range(20)))
        loop.set_exception_handler(None)
        assert engine.pool.checkedout() == 0
        for _ in range(3):
            with contextlib.suppress(DBAPIError):
                assert await _left_on(engine) <= {None, ""}
    assert seen > 100
    assert ended > 20


# --- sessions that are given ------------------------------------------------------------------


@pytest.fixture
async def given(engine: Any) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


async def test_a_given_session_answers_for_its_user_while_it_is_theirs(
    fence: Ringfence, given: AsyncSession
) -> None:
    async with fence.user_context(ALICE, db_session=given):
        assert await _owners(given) == [ALICE.user_id]
        await given.commit()
        assert await said(given) == HERS
        await given.commit()
    assert await _owners(given) == []
    await given.rollback()
    async with fence.user_context(BOB, db_session=given):
        assert await _owners(given) == [BOB.user_id]


async def test_a_transaction_that_is_open_already(fence: Ringfence, given: AsyncSession) -> None:
    """It goes from one user to the next in mid-transaction, and answers for each in turn."""
    assert await _owners(given) == []
    for who in (ALICE, BOB):
        async with fence.user_context(who, db_session=given):
            assert await _owners(given) == [who.user_id]
    assert await said(given) == NOBODY
    assert await _owners(given) == []
    assert given.in_transaction()


async def test_a_savepoint_that_is_rolled_back_brings_nobody_back(
    fence: Ringfence, given: AsyncSession
) -> None:
    async with fence.user_context(ALICE, db_session=given):
        savepoint = await given.begin_nested()
        assert await said(given) == HERS  # the savepoint is made with the first statement
    async with fence.user_context(BOB, db_session=given):
        assert await said(given) == HIS
        await savepoint.rollback()
        assert await said(given) == HIS
        savepoint = await given.begin_nested()
        assert await said(given) == HIS
    assert await said(given) == NOBODY
    await savepoint.rollback()
    assert await said(given) == NOBODY


async def test_a_savepoint_that_is_written_by_hand(fence: Ringfence, given: AsyncSession) -> None:
    async with fence.user_context(ALICE, db_session=given):
        await given.execute(text("SAVEPOINT one"))
    async with fence.user_context(BOB, db_session=given):
        assert await said(given) == HIS
        await given.execute(text("/* trace 17 */ rollback to savepoint one"))
        assert await said(given) == HIS


async def test_a_given_session_by_a_child(db: Databases) -> None:
    async with (
        db.engine() as engine,
        fence_of(engine) as fence,
        AsyncSession(engine) as given,
        fence.user_context(ALICE),
    ):
        async with child_context("tool", session=given):
            assert await said(given) == HERS
        assert await said(given) == HERS


async def test_a_session_of_one_connection(db: Databases, fence: Ringfence, engine: Any) -> None:
    """As test suites have it: everything in one transaction, and rolled back."""
    async with engine.connect() as connection:
        await connection.begin()
        for who in (ALICE, BOB):
            mode = "create_savepoint"
            session = AsyncSession(connection, join_transaction_mode=mode)  # type: ignore[arg-type]
            async with fence.user_context(who, db_session=session):
                assert await _owners(session) == [who.user_id]
                await session.commit()
                assert await said(session) == (who.user_id, who.tenant_id)
            await session.close()
        await connection.rollback()
        assert set(await said(connection)) <= {None, ""}


async def test_a_connection_of_ones_own_forgets_who_has_gone(db: Databases) -> None:
    async with db.engine() as engine, engine.connect() as connection:
        maker = async_sessionmaker(connection)
        database = Database(maker, row_level_security=rules())
        async with Ringfence(database=database) as fence:
            async with fence.user_context(ALICE) as alice:
                assert await said(alice.db_session) == HERS
            assert set(await said(connection)) <= {None, ""}


async def test_a_foreign_session_stays_refused(fence: Ringfence) -> None:
    async with fence.user_context(ALICE) as alice:
        session = alice.db_session
        async with fence.user_context(BOB):
            with pytest.raises(SessionIsolationError):
                await session.execute(NOTES)


# --- when it cannot be ------------------------------------------------------------------------


async def test_a_fence_that_is_not_open_serves_no_session(db: Databases, engine: Any) -> None:
    fence = fence_of(engine)
    async with fence.user_context(ALICE) as alice:
        with pytest.raises(ConfigurationError, match="lifespan=fence.lifespan"):
            alice.db_session  # noqa: B018
    async with AsyncSession(engine) as given:
        with pytest.raises(ConfigurationError, match="lifespan=fence.lifespan"):
            async with fence.user_context(ALICE, db_session=given):
                pass
        assert guard_of(given.sync_session) is None
    async with fence.lifespan():
        async with fence.user_context(ALICE) as alice:
            assert await _owners(alice.db_session) == [ALICE.user_id]
    async with fence.user_context(ALICE) as alice:
        with pytest.raises(ConfigurationError, match="lifespan=fence.lifespan"):
            alice.db_session  # noqa: B018


async def test_a_database_with_holes_opens_no_fence(db: Databases, engine: Any) -> None:
    await db.run("ALTER TABLE rls.note NO FORCE ROW LEVEL SECURITY")
    fence = fence_of(engine)
    for _ in range(2):
        with pytest.raises(RowSecurityError, match="`rls.note` does not force"):
            async with fence.lifespan():
                pass
        assert not fence.is_open
    await db.run("ALTER TABLE rls.note FORCE ROW LEVEL SECURITY")
    async with fence.lifespan():
        assert fence.is_open


async def test_two_that_open_one_fence_at_once(engine: Any) -> None:
    fence = fence_of(engine)
    opened = await asyncio.gather(fence.__aenter__(), fence.__aenter__(), return_exceptions=True)
    assert [type(each) for each in opened].count(ConfigurationError) == 1
    await fence.__aexit__(None, None, None)


async def test_every_bind_is_looked_at(db: Databases) -> None:
    class Table: ...

    async with db.engine() as engine, db.engine("rls_owner") as other:
        for bind in ({"binds": {Table: other}}, {"bind": engine, "binds": {Table: other}}):
            database = Database(async_sessionmaker(**bind), row_level_security=rules())
            with pytest.raises(RowSecurityError, match="`rls_owner` owns"):
                await database.start()
    with pytest.raises(ConfigurationError, match="does not say on which engine"):
        await Database(async_sessionmaker(), row_level_security=rules()).start()


@pytest.mark.parametrize("how", ["given", "bind_arguments", "routed"])
async def test_an_engine_that_nobody_looked_at_is_refused(
    db: Databases, engine: Any, how: str
) -> None:
    class Routed(Session):
        def get_bind(self, *_unused: Any, **_more: Any) -> Any:
            return other.sync_engine

    async def read(session: AsyncSession) -> list[str]:
        bind = {"bind": other.sync_engine} if how == "bind_arguments" else {}
        return list(await session.scalars(NOTES, bind_arguments=bind))

    rls = rules()
    options: dict[str, Any] = {"sync_session_class": Routed} if how == "routed" else {}
    maker = async_sessionmaker(engine, **options)
    async with (
        db.engine("rls_bypass") as other,
        AsyncSession(other) as given,
        Ringfence(database=Database(maker, row_level_security=rls)) as fence,
    ):
        more = {"db_session": given} if how == "given" else {}
        async with fence.user_context(ALICE, **more) as alice:
            for _ in range(2):
                with pytest.raises(ConfigurationError, match="nobody has looked at the engine"):
                    await read(alice.db_session)
                with pytest.raises(RowSecurityError, match="bypasses"):
                    await rls.verify(other)
            await alice.db_session.rollback()
        async with db.engine() as other:  # as good as the first, once it was looked at
            await rls.verify(other)
            async with AsyncSession(other.execution_options()) as given:
                async with fence.user_context(ALICE, **more and {"db_session": given}) as alice:
                    assert await read(alice.db_session) == [ALICE.user_id]


async def test_another_database_has_none() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(RowSecurityError, match="`sqlite`"):
        async with fence_of(engine):
            pass
    async with fence_of(engine, Unchecked()) as fence, fence.user_context(ALICE) as alice:
        with pytest.raises(ConfigurationError, match="`sqlite`"):
            await alice.db_session.execute(text("SELECT 1"))
    await engine.dispose()


async def test_without_it_nothing_changes(db: Databases, engine: Any) -> None:
    fence = Ringfence(database=Database(async_sessionmaker(engine)))
    async with fence.user_context(ALICE) as alice:
        assert set(await said(alice.db_session)) <= {None, ""}


# --- foreign rows that are named --------------------------------------------------------------


async def test_an_upsert_onto_a_row_that_is_not_seen(db: Databases, fence: Ringfence) -> None:
    await db.run(
        "ALTER TABLE rls.note ADD id int UNIQUE",
        f"UPDATE rls.note SET id = CASE owner_id WHEN '{BOB.user_id}' THEN 1 ELSE 2 END",
    )
    async with fence.user_context(ALICE) as alice:
        for number, is_refused in ((1, True), (2, False)):
            upsert = text(
                f"INSERT INTO rls.note (owner_id, id) VALUES ('{ALICE.user_id}', {number}) "
                "ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id"
            )
            if is_refused:
                with pytest.raises(DBAPIError, match="row-level security policy"):
                    await alice.db_session.execute(upsert)
            else:
                await alice.db_session.execute(upsert)
            await alice.db_session.rollback()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_it_says_so_when_the_fence_opens() -> None:
    with pytest.raises(ConfigurationError, match="does not run on trio"):
        async with fence_of(create_async_engine("sqlite+aiosqlite://")):
            pass
