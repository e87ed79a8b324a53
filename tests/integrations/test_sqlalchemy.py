"""Sessions of scopes: opened on first use, settled by policy, closed on every ending."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import anyio
import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlmodel import select as sqlmodel_select
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from ringfence import (
    ConcurrentSessionError,
    ConfigurationError,
    ContextClosedError,
    DatabasePolicyError,
    Ringfence,
    ScopeCloseError,
    SessionIsolationError,
    Settings,
    child_context,
    closing,
    counters,
    current_context,
    current_scope,
    managed_user_context,
    task_group,
    user_context,
)
from ringfence import UserExecutionContext as Context
from ringfence.integrations import (
    _guarded_session,
    _session_connections,
    _session_guard,
    _session_waits,
)
from ringfence.integrations.sqlalchemy import Database, released_connection, session_owner

from .notes import Author, Note, bodies, checked_out, fence_for, notes_engine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with notes_engine(tmp_path) as engine:
        yield engine
        assert checked_out(engine) == 0


@pytest.fixture
def fence(engine: AsyncEngine) -> Ringfence:
    return fence_for(engine)


async def respond(status: int) -> None:
    """What the middleware does when a response starts."""
    scope = current_scope()
    await scope._recipes.database.before_response(scope.root, status)


# --- opening ----------------------------------------------------------------------------------


async def test_nothing_is_opened_until_it_is_used(fence: Ringfence, engine: AsyncEngine) -> None:
    async with fence.user_context("alice-1") as alice:
        assert alice.has_db_session
        assert current_scope().report == ()
        session = alice.db_session
        assert alice.db_session is session
        assert checked_out(engine) == 0  # nor does a session take a connection by itself
        await session.scalar(text("select 1"))
        assert checked_out(engine) == 1
    assert checked_out(engine) == 0


async def test_each_scope_has_its_own(fence: Ringfence) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        async with child_context("tool") as child:
            assert child.db_session is not session
        async with child_context("tool", session="share") as child:
            assert child.db_session is session
        async with fence.user_context("bob-22") as bob:
            assert bob.db_session is not session
    async with fence.nobody() as scope:  # as a login route needs
        assert await scope.db_session.scalar(text("select 1")) == 1


async def test_the_makers_class_and_arguments_are_kept(engine: AsyncEngine) -> None:
    class MySyncSession(Session):
        def greet(self) -> str:
            return "hello"

    class MySession(AsyncSession):
        sync_session_class = MySyncSession
        sync_session: MySyncSession

    maker = async_sessionmaker(engine, class_=MySession, autoflush=False, info={"from": "maker"})
    async with Ringfence(database=Database(maker)).user_context("alice-1") as alice:
        session = alice.db_session
        assert type(session) is MySession
        assert isinstance(session.sync_session, MySyncSession)
        assert session.sync_session.greet() == "hello"
        assert not session.autoflush
        assert session.info == {"from": "maker"}
        async with user_context("bob-22"):
            with pytest.raises(SessionIsolationError):
                session.sync_session.greet()


async def test_a_factory_of_sync_sessions_is_kept(engine: AsyncEngine) -> None:
    """`sync_session_class` may be any callable."""

    class Routing(Session):
        pass

    maker = async_sessionmaker(engine, sync_session_class=sessionmaker(class_=Routing))
    async with Ringfence(database=Database(maker)).user_context("alice-1") as alice:
        assert isinstance(alice.db_session.sync_session, Routing)
        async with user_context("bob-22"):
            with pytest.raises(SessionIsolationError):
                await alice.db_session.execute(select(Note))


async def test_sqlmodels_session_works(engine: AsyncEngine) -> None:
    maker = async_sessionmaker(engine, class_=SQLModelSession)
    async with Ringfence(database=Database(maker)).user_context("alice-1") as alice:
        session = alice.db_session
        assert type(session) is SQLModelSession
        assert (await session.exec(sqlmodel_select(Note.body))).all() == ["one", "two"]
        async with user_context("bob-22"):
            with pytest.raises(SessionIsolationError):
                await session.exec(sqlmodel_select(Note.body))
        both = await asyncio.gather(
            session.exec(sqlmodel_select(Note.body)),
            session.exec(sqlmodel_select(Note.body)),
            return_exceptions=True,
        )
        assert [type(one) for one in both].count(ConcurrentSessionError) == 1


@pytest.mark.parametrize("wish", [False, True])
async def test_expire_on_commit_is_off_unless_asked_for(engine: AsyncEngine, wish: bool) -> None:
    database = Database(async_sessionmaker(engine), **({"expire_on_commit": True} if wish else {}))
    async with Ringfence(database=database).user_context("alice-1") as alice:
        assert alice.db_session.sync_session.expire_on_commit is wish
        note = await alice.db_session.get_one(Note, 1)
        await alice.db_session.commit()
        assert ("body" in vars(note)) is not wish


async def test_a_closed_session_does_not_open_again(fence: Ringfence) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        await session.close()
        with pytest.raises(InvalidRequestError, match="closed"):
            await session.scalar(text("select 1"))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("no maker",), {}),
        ((sessionmaker(),), {}),
        ((async_sessionmaker(),), {"policy": "commit"}),
        ((async_sessionmaker(),), {"policy_outside": "never"}),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, options: Any) -> None:
    with pytest.raises(ConfigurationError):
        Database(*arguments, **options)


def test_without_sqlalchemy_it_says_what_to_install() -> None:
    for missing in ("sqlalchemy", "greenlet"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None\nimport ringfence.integrations.sqlalchemy"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (
            "ImportError: ringfence.integrations.sqlalchemy needs SQLAlchemy: "
            'pip install "ringfence[sqlalchemy]"'
        ) in ran.stderr


# --- given sessions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing", [object(), "text", Mock(), Mock(spec=AsyncSession), AsyncMock(spec=AsyncSession)]
)
async def test_what_is_no_session_is_left_alone(fence: Ringfence, thing: object) -> None:
    if isinstance(thing, str):
        fence.database.adopt_session(None, thing)  # type: ignore[arg-type]
        return
    async with fence.user_context("alice-1", db_session=thing) as alice:
        assert alice.db_session is thing
        async with child_context("tool") as child:
            assert child.db_session is not thing
        await respond(200)
        async with released_connection():
            pass


async def test_a_given_session_is_not_settled(fence: Ringfence, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        async with fence.user_context("alice-1", db_session=session):
            session.add(Note(body="three"))
            await session.flush()
            await respond(200)
            assert session.in_transaction()
        assert session.in_transaction()
        assert await bodies(engine) == ["one", "two"]
        await session.commit()
    assert await bodies(engine) == ["one", "two", "three"]


async def test_a_managed_session_is_closed(fence: Ringfence, engine: AsyncEngine) -> None:
    session = AsyncSession(engine)
    given = Context("alice-1", "t-1", "r-1", db_session=session)
    async with fence.nobody():
        async with managed_user_context(given):
            await session.scalar(text("select 1"))
            assert checked_out(engine) == 1
    assert checked_out(engine) == 0


async def test_entering_twice_guards_once(fence: Ringfence, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        plain = type(session.sync_session)
        async with fence.user_context("alice-1", db_session=session):
            async with child_context("tool", session=session):
                async with child_context("deeper", session="share"):
                    await session.scalar(text("select 1"))
            assert session_owner(session) is current_scope()
        assert type(session.sync_session) is plain


async def test_the_guard_of_a_scope_that_was_lost_is_replaced(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        block = fence.user_context("alice-1", db_session=session)
        await block.__aenter__()
        closing.release(block)  # as when an event loop is torn down beneath it
        block._end(None, 0)
        async with fence.user_context("bob-22", db_session=session):
            assert await session.scalar(text("select 1")) == 1


# --- policies ---------------------------------------------------------------------------------


async def _write(session: AsyncSession, body: str) -> None:
    session.add(Note(body=body))
    await session.flush()


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (None, True),
        ("commit_on_exit", True),
        ("commit_before_response", True),
        ("manual", False),
    ],
)
async def test_at_the_end(fence: Ringfence, engine: AsyncEngine, policy: Any, kept: bool) -> None:
    async with fence.user_context("alice-1", transaction=policy) as alice:
        await _write(alice.db_session, "three")
    assert await bodies(engine) == ["one", "two", *(["three"] if kept else [])]


@pytest.mark.parametrize("policy", [None, "commit_on_exit", "commit_before_response", "manual"])
async def test_a_failed_scope_is_rolled_back(
    fence: Ringfence, engine: AsyncEngine, policy: Any
) -> None:
    with pytest.raises(ValueError, match="no"):
        async with fence.user_context("alice-1", transaction=policy) as alice:
            await _write(alice.db_session, "three")
            raise ValueError("no")
    assert await bodies(engine) == ["one", "two"]


async def test_a_cancelled_scope_is_rolled_back(fence: Ringfence, engine: AsyncEngine) -> None:
    with anyio.move_on_after(0.05):
        async with fence.user_context("alice-1") as alice:
            await _write(alice.db_session, "three")
            await anyio.sleep_forever()
    with pytest.raises(TimeoutError):
        async with fence.user_context("alice-1", timeout=0.05) as alice:
            await _write(alice.db_session, "four")
            await anyio.sleep_forever()
    assert await bodies(engine) == ["one", "two"]


async def test_a_child_settles_its_own(fence: Ringfence, engine: AsyncEngine) -> None:
    with pytest.raises(ValueError, match="no"):
        async with fence.user_context("alice-1"):
            async with child_context("good") as child:
                await _write(child.db_session, "three")
            async with child_context("manual", transaction="manual") as child:
                await _write(child.db_session, "four")
            raise ValueError("no")
    assert await bodies(engine) == ["one", "two", "three"]


async def test_a_child_that_its_parent_closes_is_rolled_back(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async def tool() -> None:
        async with child_context("tool") as child:
            await _write(child.db_session, "three")
            written.set()
            await anyio.sleep_forever()

    written = anyio.Event()
    async with fence.user_context("alice-1"):
        task = asyncio.create_task(tool())
        await written.wait()
    assert await bodies(engine) == ["one", "two"]
    task.cancel()
    await asyncio.wait({task})


async def test_a_commit_that_fails_at_the_end_is_raised(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    with pytest.raises(ScopeCloseError) as caught:
        async with fence.user_context("alice-1") as alice:
            alice.db_session.add(Note(body="one"))
    assert isinstance(caught.value.exceptions[0], IntegrityError)
    assert counters.value("session.invalidated") == 0, "a sound connection was thrown away"
    assert checked_out(engine) == 0
    assert await bodies(engine) == ["one", "two"]


@pytest.mark.parametrize("outside", ["commit_on_exit", "manual"])
async def test_the_database_has_policies(engine: AsyncEngine, outside: Any) -> None:
    fence = fence_for(engine, policy="manual", policy_outside=outside)
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "outside")
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "inside")
        await respond(200)
    kept = ["outside"] if outside == "commit_on_exit" else []
    assert await bodies(engine) == ["one", "two", *kept]


# --- read only --------------------------------------------------------------------------------


async def test_read_only_refuses_to_write(fence: Ringfence, engine: AsyncEngine) -> None:
    async with fence.user_context("alice-1", transaction="read_only") as alice:
        session = alice.db_session
        note = await session.get_one(Note, 1)
        session.add(Note(body="three"))
        with pytest.raises(DatabasePolicyError, match=alice.request_id):
            await session.flush()
        with pytest.raises(DatabasePolicyError):
            await session.commit()
        session.expunge_all()
        await session.rollback()
        for statement in (insert(Note).values(body="x"), text("delete from note")):
            with pytest.raises(DatabasePolicyError):
                await session.execute(statement)
        note = await session.get_one(Note, 1)
        note.body = "one"  # no change
        assert await session.scalar(select(Note.body).limit(1)) == "one"
        async with child_context("writer", transaction="commit_on_exit") as child:
            await _write(child.db_session, "three")
    assert await bodies(engine) == ["one", "two", "three"]


async def test_read_only_refuses_before_a_flush_begins(fence: Ringfence) -> None:
    heard: list[object] = []
    async with fence.user_context("alice-1", transaction="read_only") as alice:
        session = alice.db_session
        event.listen(session.sync_session, "before_flush", lambda *_: heard.append(1))
        session.add(Note(body="three"))
        with pytest.raises(DatabasePolicyError):
            await session.flush()
        assert session.new
        assert heard == []


async def test_read_only_holds_for_given_sessions_too(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        async with fence.user_context("alice-1", db_session=session, transaction="read_only"):
            session.add(Note(body="three"))
            with pytest.raises(DatabasePolicyError):
                await session.flush()
        await session.commit()
    assert await bodies(engine) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        ("SELECT 1", "reads"),
        ("select id from note", "reads"),
        ("  (SELECT 1) UNION (SELECT 2)", "reads"),
        ("-- why\nSELECT 1", "reads"),
        ("/* route: /notes */ SELECT 1", "reads"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "reads"),
        ("SAVEPOINT sa_savepoint_1", "reads"),
        ("SELECT platform FROM fortune", "reads"),
        ("SELECT id FROM note FOR UPDATE", "locks"),
        ("select id from note for  no key update", "locks"),
        ("SELECT id FROM note FOR SHARE OF note", "locks"),
        ("INSERT INTO note VALUES (1)", "writes"),
        ("update note set body = ''", "writes"),
        ("WITH x AS (DELETE FROM note RETURNING id) SELECT * FROM x", "writes"),
        ("CALL purge()", "writes"),
        ("SELECT * INTO copied FROM note", "writes"),
        ("WITH x AS (SELECT 1) SELECT * INTO copied FROM x", "writes"),
        ("SELECT 1; DELETE FROM note", "writes"),
        ("ROLLBACK; DELETE FROM note", "writes"),
        ("EXPLAIN ANALYZE DELETE FROM note", "writes"),
        ("explain (analyse, buffers) update note set body = ''", "writes"),
        ("EXPLAIN DELETE FROM note", "reads"),
        ("EXPLAIN ANALYZE SELECT 1", "reads"),
        ("SELECT 1;", "reads"),
        ("SELECT 'a; b', \"into\" FROM note -- ; into", "reads"),
        ("SELECT intonation FROM note", "reads"),
        ("", "writes"),
    ],
)
def test_what_a_statement_does(statement: str, effect: str) -> None:
    assert _session_connections.effect_of(statement) == effect


# --- the response -----------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kept"), [(200, True), (399, True), (400, False), (500, False)])
async def test_the_response_settles(
    fence: Ringfence, engine: AsyncEngine, status: int, kept: bool
) -> None:
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "three")
        await respond(status)
        assert not alice.db_session.in_transaction()
        assert await bodies(engine) == ["one", "two", *(["three"] if kept else [])]
    assert await bodies(engine) == ["one", "two", *(["three"] if kept else [])]


async def test_commit_when_decides(engine: AsyncEngine) -> None:
    fence = fence_for(engine, commit_when=lambda status: status == 418)
    for status in (200, 418):
        async with fence.user_context("alice-1") as alice:
            await _write(alice.db_session, f"by {status}")
            await respond(status)
    assert await bodies(engine) == ["one", "two", "by 418"]


async def test_what_is_written_after_the_response_is_committed_at_the_end(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "three")
        await respond(200)
        await _write(alice.db_session, "four")
    with pytest.raises(ValueError, match="no"):
        async with fence.user_context("alice-1") as alice:
            await respond(200)
            await _write(alice.db_session, "five")
            raise ValueError("no")
    assert await bodies(engine) == ["one", "two", "three", "four"]


async def test_the_response_commits_the_whole_tree_first_opened_first(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    order: list[Session] = []
    async with fence.user_context("alice-1"):
        async with child_context("outer") as outer:
            async with child_context("inner") as inner:
                sessions = [inner.db_session, current_scope().root.db_session, outer.db_session]
                for session in sessions:
                    await session.scalar(text("select 1"))
                    event.listen(session.sync_session, "after_commit", order.append)
                await sessions[2].execute(insert(Note).values(body="three"))
                await respond(200)
                assert await bodies(engine) == ["one", "two", "three"]
    assert order == [session.sync_session for session in sessions]


async def test_a_scope_that_says_so_keeps_to_its_own_policy(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1", transaction="manual") as alice:
        await _write(alice.db_session, "three")
        await respond(200)
        assert alice.db_session.in_transaction()
    async with fence.user_context("alice-1"):
        async with child_context("tool", transaction="commit_on_exit") as child:
            await _write(child.db_session, "four")
            await respond(500)
    assert await bodies(engine) == ["one", "two", "four"]


async def test_a_commit_that_fails_is_raised_and_the_rest_is_rolled_back(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1") as alice:
        first = alice.db_session
        first.add(Note(body="one"))  # there is one already
        async with child_context("tool") as child:
            await child.db_session.execute(select(Note))
            child.db_session.add(Note(body="three"))
            with pytest.raises(IntegrityError):
                await respond(200)
            assert not first.in_transaction()
            assert not child.db_session.in_transaction()
        assert await first.scalar(text("select 1")) == 1
    assert await bodies(engine) == ["one", "two"]


async def test_a_session_in_use_is_left_to_its_own_end(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        task = asyncio.create_task(session.execute(insert(Note).values(body="three")))
        await asyncio.sleep(0)
        await respond(500)
        assert counters.value("session.busy_before_response") == 1
        await task
    assert await bodies(engine) == ["one", "two", "three"]


async def test_the_response_may_start_in_another_scope(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    """As when a handler enters another user's context and answers from in there."""
    async with fence.user_context("alice-1") as alice:
        root = current_scope()
        await _write(alice.db_session, "three")
        async with fence.user_context("bob-22"):
            await fence.database.before_response(root, 200)
    assert await bodies(engine) == ["one", "two", "three"]


# --- closing ----------------------------------------------------------------------------------


async def test_a_session_may_be_used_by_finalisers_that_came_after_it(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async def last_words(session: AsyncSession) -> None:
        await session.execute(insert(Note).values(body="three"))

    async with fence.user_context("alice-1") as alice:
        current_scope().callback(last_words, alice.db_session)
    assert await bodies(engine) == ["one", "two", "three"]


async def test_an_ended_scope_keeps_no_session(fence: Ringfence) -> None:
    async with fence.user_context("alice-1") as alice:
        scope = current_scope()
        session = weakref.ref(alice.db_session)
        await alice.db_session.scalar(text("select 1"))
    await asyncio.sleep(0)
    gc.collect()
    assert session() is None
    with pytest.raises(ContextClosedError):
        alice.db_session  # noqa: B018
    assert scope.report[0].error is None


async def test_a_session_that_does_not_end_is_invalidated(engine: AsyncEngine) -> None:
    """A commit that hangs: cut short in time, named, and its connection dropped by the pool."""
    fence = fence_for(engine, settings=Settings(finaliser_timeout=0.2))
    hang = asyncio.Event()

    def hanging(session: Session) -> None:
        _session_waits._await(hang.wait())

    with pytest.raises(ScopeCloseError) as caught:
        async with fence.user_context("alice-1") as alice:
            await _write(alice.db_session, "three")
            event.listen(alice.db_session.sync_session, "before_commit", hanging)
    assert isinstance(caught.value.exceptions[0], TimeoutError)
    assert counters.value("session.invalidated") == 1
    assert checked_out(engine) == 0
    assert await bodies(engine) == ["one", "two"]


async def test_a_call_that_does_not_end_is_cut_off(engine: AsyncEngine) -> None:
    """A task that outlives its scope is in the middle of a call: no connection is left to it."""
    fence = fence_for(engine, settings=Settings(finaliser_timeout=0.2))
    release = asyncio.Event()
    began = asyncio.Event()

    def stay(session: Session) -> object:
        session.execute(select(Note))
        began.set()
        _session_waits._await(release.wait())
        return session.execute(select(Note))

    with pytest.raises(ScopeCloseError):
        async with fence.user_context("alice-1") as alice:
            task = asyncio.create_task(alice.db_session.run_sync(stay))
            await began.wait()
            assert checked_out(engine) == 1
    assert checked_out(engine) == 0
    release.set()
    with pytest.raises(ContextClosedError):
        await task
    assert checked_out(engine) == 0


async def test_a_connection_that_was_left_behind_is_dropped(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    """A rollback that is cancelled takes the connection out of the session, and leaves it so."""

    def interrupt(_connection: object) -> None:
        raise asyncio.CancelledError

    async with fence.user_context("alice-1") as alice:
        await alice.db_session.execute(select(Note))
        event.listen(engine.sync_engine, "rollback", interrupt, once=True)
        with pytest.raises(asyncio.CancelledError):
            await alice.db_session.close()
        assert not alice.db_session.in_transaction()
        assert checked_out(engine) == 1
    assert checked_out(engine) == 0


async def test_a_close_of_ones_own_is_called(engine: AsyncEngine) -> None:
    closed: list[AsyncSession] = []

    class MySession(AsyncSession):
        async def close(self) -> None:
            closed.append(self)
            await super().close()

    fence = Ringfence(database=Database(async_sessionmaker(engine, class_=MySession)))
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
    assert closed == [session]


async def test_connections_come_back_after_any_cancel(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    """200 requests with a child each, cancelled or timed out at a random moment."""
    rng = random.Random(17)

    async def request(number: int, timeout: float | None) -> None:
        async with fence.user_context(f"user-{number}", timeout=timeout) as user:
            await user.db_session.execute(select(Note))
            await user.db_session.commit()
            async with child_context("tool") as child:
                notes = (await child.db_session.scalars(select(Note))).all()
                assert len(notes) >= 2
                async with released_connection():
                    await asyncio.sleep(0.001)
                await child.db_session.execute(select(Author))

    for number in range(200):
        kind = number % 3
        task = asyncio.create_task(
            request(number, rng.uniform(0.0001, 0.02) if kind == 2 else None)
        )
        delay = rng.uniform(0, 0.02)
        if kind == 0:
            await asyncio.sleep(delay)
            task.cancel()
        elif kind == 1:
            for _ in range(3):
                await asyncio.sleep(delay / 3)
                task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert ended is None or isinstance(ended, (asyncio.CancelledError, TimeoutError))
        assert checked_out(engine) == 0, number


# --- released connections ---------------------------------------------------------------------


async def test_a_released_connection_is_back_in_the_pool(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        author = (await session.scalars(select(Author))).one()
        assert checked_out(engine) == 1
        async with released_connection():
            assert checked_out(engine) == 0
            assert author.name == "ada"  # what was loaded stays loaded
            assert await session.scalar(text("select 1")) == 1  # and using it takes one again
            assert checked_out(engine) == 1
        await session.refresh(author)
        author.name = "grace"
    async with engine.connect() as connection:
        assert await connection.scalar(select(Author.name)) == "grace"


@pytest.mark.parametrize("change", ["new", "dirty", "deleted", "flushed", "statement", "text"])
async def test_unsaved_changes_are_not_released(
    fence: Ringfence, engine: AsyncEngine, change: str
) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        note = await session.get_one(Note, 2)
        if change in ("new", "flushed"):
            session.add(Note(body="three"))
        if change == "flushed":
            await session.flush()
        if change == "dirty":
            note.body = "three"
        if change == "deleted":
            await session.delete(note)
        if change == "statement":
            await session.execute(update(Note).values(author_id=None))
        if change == "text":
            await session.execute(text("delete from note where id = 2"))
        with pytest.raises(DatabasePolicyError, match="not committed"):
            async with released_connection():
                pytest.fail("the block is not entered")
        async with released_connection(commit=True):
            assert checked_out(engine) == 0
            assert not session.in_transaction()
        async with released_connection():  # committed: nothing is unsaved any more
            pass


@pytest.mark.parametrize("commit", [False, True])
async def test_an_explicit_block_is_not_released(fence: Ringfence, commit: bool) -> None:
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        async with session.begin():
            await session.execute(select(Note))
            with pytest.raises(DatabasePolicyError, match="begin"):
                async with released_connection(commit=commit):
                    pytest.fail("the block is not entered")
        async with session.begin_nested():
            with pytest.raises(DatabasePolicyError, match="begin"):
                async with released_connection(commit=commit):
                    pytest.fail("the block is not entered")


async def test_releasing_needs_a_scope_but_no_session() -> None:
    async with user_context("alice-1"):
        async with released_connection():
            pass
    with pytest.raises(LookupError):
        async with released_connection():
            pass


async def test_a_given_session_without_a_database_is_released_by_commit_only(
    engine: AsyncEngine,
) -> None:
    """Nobody watched what it wrote."""
    async with AsyncSession(engine) as session:
        async with user_context("alice-1", db_session=session):
            await session.execute(select(Note))
            with pytest.raises(DatabasePolicyError):
                async with released_connection():
                    pass
            async with released_connection(commit=True):
                assert checked_out(engine) == 0


# --- children and the pool --------------------------------------------------------------------


async def _serve(fence: Ringfence, everybody: asyncio.Barrier, commit_first: bool) -> list[Any]:
    """One request with three tools at once, as agents run them."""

    async def tool() -> object:
        try:
            async with child_context("tool") as child:
                return await child.db_session.scalar(select(Note.body).limit(1))
        except DatabasePolicyError as error:
            return error

    async with fence.user_context("user-1") as user:
        await user.db_session.execute(select(Note))
        await everybody.wait()  # all of them hold a connection now
        if commit_first:
            await user.db_session.commit()
        results = await asyncio.gather(*(tool() for _ in range(3)))
        return [(user.request_id, result) for result in results]


async def test_fifteen_requests_with_three_tools_finish_if_they_commit_first(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    everybody = asyncio.Barrier(15)
    with anyio.fail_after(2):
        served = await asyncio.gather(*(_serve(fence, everybody, True) for _ in range(15)))
    assert [result for request in served for _, result in request] == ["one"] * 45


async def test_fifteen_requests_with_three_tools_are_refused_by_name_if_they_hold_theirs(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    everybody = asyncio.Barrier(15)
    with anyio.fail_after(4):
        served = await asyncio.gather(*(_serve(fence, everybody, False) for _ in range(15)))
    refused = [pair for request in served for pair in request if pair[1] != "one"]
    assert len(refused) >= 30  # the last ones may get what the first gave back
    for request_id, error in refused:
        assert isinstance(error, DatabasePolicyError)
        assert error.ancestor_request_id == request_id
        assert request_id in str(error)
        for remedy in ("Commit", "released_connection()", 'session="share"'):
            assert remedy in error.remedy


async def test_a_connection_that_comes_back_in_time_is_taken(tmp_path: Path) -> None:
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0) as engine:
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.execute(select(Note))

            async def tool() -> object:
                async with child_context("tool") as child:
                    return await child.db_session.scalar(select(Note.body).limit(1))

            task = asyncio.create_task(tool())
            await asyncio.sleep(0.1)
            assert not task.done()
            await alice.db_session.commit()
            assert await task == "one"


@pytest.mark.parametrize("way", ["execute", "flush", "connection", "released", "share", "deeper"])
async def test_every_way_to_a_connection_is_limited(tmp_path: Path, way: str) -> None:
    settings = Settings(nested_checkout_timeout=0.1)
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0) as engine:
        async with fence_for(engine, settings=settings).user_context("alice-1") as alice:
            await alice.db_session.execute(select(Note))
            if way == "share":
                async with child_context("tool", session="share") as child:
                    await child.db_session.execute(select(Note))
                return
            if way == "released":
                async with released_connection():
                    async with child_context("tool") as child:
                        await child.db_session.execute(select(Note))
                return
            with pytest.raises(DatabasePolicyError) as caught:
                async with child_context("tool") as child:
                    if way == "execute":
                        await child.db_session.execute(select(Note))
                    if way == "flush":
                        child.db_session.add(Note(body="three"))
                        await child.db_session.flush()
                    if way == "connection":
                        await child.db_session.connection()
                    if way == "deeper":
                        async with child_context("deeper") as grandchild:
                            await grandchild.db_session.execute(select(Note))
            assert caught.value.ancestor_request_id == alice.request_id
            assert await alice.db_session.scalar(text("select 1")) == 1


async def test_a_given_session_is_an_ancestors_too(tmp_path: Path) -> None:
    settings = Settings(nested_checkout_timeout=0.1)
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0) as engine:
        async with AsyncSession(engine) as session:
            await session.execute(select(Note))
            fence = fence_for(engine, settings=settings)
            async with fence.user_context("alice-1", db_session=session) as alice:
                with pytest.raises(DatabasePolicyError, match=alice.request_id):
                    async with child_context("tool", session="own") as child:
                        await child.db_session.execute(select(Note))


async def test_a_pools_own_timeout_is_named_too(tmp_path: Path) -> None:
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0, pool_timeout=0.1) as engine:
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.execute(select(Note))
            with pytest.raises(DatabasePolicyError, match=alice.request_id):
                async with child_context("tool") as child:
                    await child.db_session.execute(select(Note))


async def test_plain_contention_keeps_the_pools_own_timeout(tmp_path: Path) -> None:
    settings = Settings(nested_checkout_timeout=0.05)
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0) as engine:
        fence = fence_for(engine, settings=settings)
        async with fence.user_context("alice-1") as alice:
            await alice.db_session.execute(select(Note))

            async def other() -> object:
                async with fence.user_context("bob-22"):
                    async with child_context("tool") as child:  # no ancestor holds one
                        return await child.db_session.scalar(select(Note.body).limit(1))

            task = asyncio.create_task(other())
            await asyncio.sleep(0.2)
            assert not task.done()
            await alice.db_session.commit()
            assert await task == "one"


async def test_another_pool_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    settings = Settings(nested_checkout_timeout=0.05)
    async with (
        notes_engine(tmp_path / "a") as one,
        notes_engine(tmp_path / "b", pool_size=1, max_overflow=0) as two,
    ):
        async with fence_for(one, settings=settings).user_context("alice-1") as alice:
            await _write(alice.db_session, "three")
            async with AsyncSession(two) as busy:
                await busy.execute(select(Note))

                async def tool() -> None:
                    async with child_context("tool") as child:
                        child.db_session.sync_session.bind = two.sync_engine
                        await _write(child.db_session, "four")

                task = asyncio.create_task(tool())
                await asyncio.sleep(0.2)
                assert not task.done()
            await task
        assert await bodies(two) == ["one", "two", "four"]


async def test_the_limit_leaves_cancellation_alone(tmp_path: Path) -> None:
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0) as engine:
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.execute(select(Note))
            with anyio.move_on_after(0.1) as scope:
                async with child_context("tool") as child:
                    await child.db_session.execute(select(Note))
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    async with child_context("tool") as child:
                        await child.db_session.execute(select(Note))
            await alice.db_session.commit()
        assert checked_out(engine) == 0


# --- SQLite's one lock ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["flush", "statement", "text"])
async def test_a_child_does_not_wait_for_its_parents_lock(
    engine: AsyncEngine, fence: Ringfence, way: str
) -> None:
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "three")
        with anyio.fail_after(3), pytest.raises(DatabasePolicyError) as caught:
            async with child_context("tool") as child:
                if way == "flush":
                    await _write(child.db_session, "four")
                if way == "statement":
                    await child.db_session.execute(insert(Note).values(body="four"))
                if way == "text":
                    await child.db_session.execute(text("delete from note"))
        assert caught.value.ancestor_request_id == alice.request_id
        async with child_context("reader") as child:  # reading is no matter
            assert await child.db_session.scalar(select(Note.body).limit(1)) == "one"
        await alice.db_session.commit()
        async with child_context("tool") as child:
            await _write(child.db_session, "four")
    assert await bodies(engine) == ["one", "two", "three", "four"]


async def test_a_lock_that_is_let_go_in_time_is_taken(
    engine: AsyncEngine, fence: Ringfence
) -> None:
    async with fence.user_context("alice-1") as alice:
        await _write(alice.db_session, "three")

        async def tool() -> None:
            async with child_context("tool") as child:
                await _write(child.db_session, "four")

        async with task_group() as tasks:
            tasks.start_soon(tool)
            await asyncio.sleep(0.1)
            await alice.db_session.commit()
    assert await bodies(engine) == ["one", "two", "three", "four"]


async def test_sqlites_own_refusal_names_the_ancestor(tmp_path: Path) -> None:
    """A parent that reads rows as they come keeps writers from committing."""
    async with notes_engine(tmp_path, connect_args={"timeout": 0.1}) as engine:
        async with engine.begin() as connection:
            many = [{"body": f"note {number}"} for number in range(5000)]
            await connection.execute(insert(Note), many)
        async with fence_for(engine).user_context("alice-1") as alice:
            rows = await alice.db_session.stream(select(Note).execution_options(yield_per=10))
            await rows.fetchone()
            with pytest.raises(ScopeCloseError) as caught:
                async with child_context("tool") as child:
                    await _write(child.db_session, "three")
            [error] = caught.value.exceptions
            assert isinstance(error, DatabasePolicyError)
            assert error.ancestor_request_id == alice.request_id
            await rows.close()
        assert checked_out(engine) == 0


async def test_one_connection_for_all_is_no_lock() -> None:
    """In-memory databases have a single connection by default, which parent and child share."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Note.metadata.create_all)
    async with fence_for(engine).user_context("alice-1") as alice:
        await _write(alice.db_session, "three")
        async with child_context("tool") as child:
            await _write(child.db_session, "four")
    assert await bodies(engine) == ["three", "four"]
    await engine.dispose()


# --- what we rely on --------------------------------------------------------------------------


async def test_private_parts_of_sqlalchemy(engine: AsyncEngine) -> None:
    """If one of these goes, the guard has to be looked at again."""
    async with AsyncSession(engine) as session:
        sync_session = session.sync_session
        assert session._proxied is sync_session
        assert vars(session)["sync_session"] is sync_session  # a plain attribute
        assert sync_session._flushing is False

        from sqlalchemy.util import greenlet_spawn

        def inside() -> bool:
            return bool(_session_guard.getcurrent().__sqlalchemy_greenlet_provider__)

        assert await greenlet_spawn(inside)
        connection = await session.connection()
        entries = set(sync_session.get_transaction()._connections.values())
        assert [(entry[0], entry[3]) for entry in entries] == [(connection.sync_connection, True)]
        assert vars(connection.sync_connection)  # room for the guard
    for name in ("_connection_for_bind", "get_bind", "flush", "_transaction"):
        assert hasattr(sync_session, name)

    calls: list[str] = []

    class Seen(Session):
        def _connection_for_bind(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("connection")
            return super()._connection_for_bind(*args, **kwargs)

        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("flush" if self._flushing else "bind")
            return super().get_bind(*args, **kwargs)

    async with AsyncSession(engine, sync_session_class=Seen) as session:
        await session.execute(select(Note))
        assert calls == ["bind", "connection"]
        await session.rollback()
        calls.clear()
        session.add(Note(body="three"))
        await session.flush()
        assert calls[0] == "flush"  # a flush asks for the bind first, then takes a connection


def test_twins_are_made_once() -> None:
    assert _guarded_session._guarded(Session) is _guarded_session._guarded(Session)


async def test_parallel_tools_have_sessions_of_their_own(
    fence: Ringfence, engine: AsyncEngine
) -> None:
    async def tool(number: int) -> None:
        async with child_context("tool"):
            assert await current_context().db_session.scalar(select(Note.id).limit(1)) == 1

    async with fence.user_context("alice-1"):
        async with task_group() as tasks:
            for number in range(20):
                tasks.start_soon(tool, number)
