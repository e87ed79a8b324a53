"""Whose a session is: every way to use one, tried from another request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import greenlet
import pytest
from sqlalchemy import Connection, event, insert, inspect, select, text
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from ringfence import (
    ConcurrentSessionError,
    ContextClosedError,
    ContextIsolationError,
    NoContextError,
    SessionIsolationError,
    child_context,
    counters,
    current_context,
    user_context,
)
from ringfence.integrations.sqlalchemy import session_owner
from ringfence.state import _current

from .notes import Note, bodies, checked_out, fence_for, notes_engine
from .session_uses import ENDED, PERMITTED, REFUSED, Stolen, Use, World, do, enter


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with notes_engine(tmp_path) as engine:
        yield engine


@pytest.fixture(params=["own", "explicit"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def world(engine: AsyncEngine, kind: str) -> AsyncIterator[World]:
    world = World(engine, kind)
    yield world
    if world.given is not None:
        await world.given.close()
    assert checked_out(engine) == 0


@pytest.mark.parametrize("name", REFUSED)
async def test_a_use_from_another_request_is_refused(
    world: World, engine: AsyncEngine, name: str
) -> None:
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        async with world.bob() as bob:
            with pytest.raises(SessionIsolationError) as caught:
                await do(REFUSED[name], stolen)
        assert caught.value.owner_request_id == alice.request_id
        assert caught.value.request_id == bob.request_id
        # Nothing came of it, and alice goes on.
        alice.db_session.add(Note(body="alice's"))
        await alice.db_session.commit()
    assert await bodies(engine) == ["one", "two", "alice's"]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_use_where_no_scope_is_open_is_refused(world: World, name: str) -> None:
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        token = _current.set(None)
        try:
            with pytest.raises(NoContextError):
                await do(REFUSED[name], stolen)
        finally:
            _current.reset(token)


@pytest.mark.parametrize("name", ENDED)
async def test_a_use_after_its_scope_has_ended_is_refused(engine: AsyncEngine, name: str) -> None:
    fence = fence_for(engine)
    async with fence.user_context("alice-1") as alice:
        stolen = await Stolen(alice.db_session).take()
    async with fence.user_context("bob-22"):
        with pytest.raises(ContextClosedError, match=alice.request_id):
            await do(ENDED[name], stolen)
    with pytest.raises(ContextClosedError):
        await do(ENDED[name], stolen)
    assert checked_out(engine) == 0


@pytest.mark.parametrize("name", ENDED)
async def test_a_use_by_a_task_whose_scope_has_ended_is_refused(world: World, name: str) -> None:
    """The session is open still, but the child that the task holds is not."""
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        leave = asyncio.Event()

        async def late() -> None:
            await leave.wait()
            with pytest.raises(ContextClosedError, match=child.request_id):
                await do(ENDED[name], stolen)

        async with child_context("tool") as child:
            task = asyncio.create_task(late())
        leave.set()
        await task


@pytest.mark.parametrize("name", PERMITTED)
async def test_what_is_not_refused(world: World, name: str) -> None:
    """Documented: see the reason beside each. If one is refused one day, the better."""
    use, _reason = PERMITTED[name]
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        if name == "setting an attribute, after other changes":
            stolen.author.name = "by alice"
        async with world.bob():
            await do(use, stolen)
        await alice.db_session.rollback()


def test_the_count() -> None:
    assert (len(REFUSED), len(PERMITTED)) == (66, 11)


async def test_setting_is_checked_by_itself(world: World) -> None:
    """Also where setting reads nothing: a transaction's own methods set before they read."""
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        async with world.bob():
            with pytest.raises(SessionIsolationError):
                stolen.sync_session.autoflush = False
            with pytest.raises(SessionIsolationError):
                stolen.sync_session.get_transaction  # noqa: B018
        transaction = stolen.transaction.sync_transaction
        async with world.bob():
            with pytest.raises(SessionIsolationError):
                transaction.close()
        assert alice.db_session.in_transaction()


@pytest.mark.filterwarnings("ignore:transaction already deassociated")
async def test_a_held_connections_transaction_cannot_be_ended(
    world: World, engine: AsyncEngine
) -> None:
    """The object itself is spoilt by the refusal, and SQLAlchemy warns of it; nothing is lost."""
    for end in ("commit", "rollback"):
        async with world.alice() as alice:
            await alice.db_session.execute(insert(Note).values(body="alice's"))
            held = (await alice.db_session.connection()).get_transaction()
            async with world.bob():
                with pytest.raises(SessionIsolationError):
                    await getattr(held, end)()
            assert await bodies(engine) == ["one", "two"]
            await alice.db_session.rollback()


async def test_a_statement_is_checked_when_it_is_sent(world: World) -> None:
    """Not only by the methods that people call: what a method of tomorrow sends, is sent here."""
    async with world.alice() as alice:
        connection = await alice.db_session.connection()

        def send(sync: Any) -> None:
            Connection.execute(sync, text("select 1"))

        async with world.bob():
            with pytest.raises(SessionIsolationError):
                await connection.run_sync(send)


async def test_an_event_loop_in_a_greenlet_admits_nobody(tmp_path: Path) -> None:
    """As under Playwright or gevent: being in a greenlet does not mean being in a call."""

    async def main() -> None:
        async with notes_engine(tmp_path) as engine:
            fence = fence_for(engine)
            async with fence.user_context("alice-1") as alice:
                session = alice.db_session
                session.add(Note(body="alice's"))
                async with fence.user_context("bob-22"):
                    with pytest.raises(SessionIsolationError):
                        session.add(Note(body="bob's"))
                await session.flush()

    def run() -> None:
        with asyncio.Runner() as runner:
            runner.run(main())

    await asyncio.to_thread(lambda: greenlet.greenlet(run).switch())


async def test_the_whole_tree_may_use_it(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        async with child_context("tool"):
            async with child_context("deeper"):
                assert (await session.get_one(Note, 1)).body == "one"
        task = asyncio.create_task(session.get_one(Note, 1))
        assert (await task).body == "one"


async def test_a_childs_session_ends_with_the_child(world: World) -> None:
    async with world.alice():
        async with child_context("tool") as child:
            session = child.db_session
            await session.execute(select(Note))
        with pytest.raises(ContextClosedError, match=child.request_id):
            await session.execute(select(Note))


async def test_the_message_names_both_requests_and_no_user(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        async with world.bob() as bob:
            with pytest.raises(SessionIsolationError) as caught:
                session.add(Note(body="bob's"))
    message = str(caught.value)
    assert alice.request_id in message
    assert bob.request_id in message
    assert f"{Path(__file__).name}:" in message  # where alice's scope was opened
    assert "alice" not in message.replace(alice.request_id, "")
    assert "bob-22" not in message
    assert counters.value("refused.RF203") == 1


async def test_the_owner_is_known(world: World) -> None:
    async with world.alice() as alice:
        owner = session_owner(alice.db_session)
        assert owner is not None
        assert owner.context is alice
        assert session_owner(alice.db_session.sync_session) is owner
    assert session_owner(AsyncSession()) is None


async def test_a_session_of_one_request_cannot_be_given_to_another(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    async with fence.user_context("alice-1") as alice:
        session = alice.db_session
        with pytest.raises(SessionIsolationError):
            await enter(fence.user_context("bob-22", db_session=session))
        async with child_context("tool", session=session) as child:
            assert child.db_session is session
        async with child_context("tool") as child:
            childs = child.db_session
        with pytest.raises(ContextClosedError):
            await enter(child_context("tool", session=childs))
    with pytest.raises(ContextClosedError):
        await enter(fence.user_context("bob-22", db_session=session))


# --- explicit sessions ------------------------------------------------------------------------


async def test_a_given_session_is_its_givers_again(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    async with AsyncSession(engine) as session:
        before = type(session.sync_session)
        connection = await session.connection()
        for number in range(2):
            async with fence.user_context("alice-1", db_session=session):
                assert type(session.sync_session) is not before
                session.add(Note(body=f"by alice-1, {number}"))
                await session.flush()
            assert type(session.sync_session) is before
            assert session_owner(session) is None
            assert session.in_transaction()  # neither committed nor closed
            await connection.execute(select(Note))
        await session.commit()
    assert await bodies(engine) == ["one", "two", "by alice-1, 0", "by alice-1, 1"]


async def test_a_connection_from_before_is_guarded_too(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    async with AsyncSession(engine) as session:
        connection = await session.connection()
        async with fence.user_context("alice-1", db_session=session):
            async with fence.user_context("bob-22"):
                with pytest.raises(SessionIsolationError):
                    await connection.execute(select(Note))
            await connection.execute(select(Note))


async def test_a_given_session_is_left_alone_by_the_response(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    async with AsyncSession(engine) as session:
        async with fence.user_context("alice-1", db_session=session) as alice:
            session.add(Note(body="three"))
            await session.flush()
            await fence.database.before_response(alice._scope, 200)
            assert session.in_transaction()
        await session.rollback()
    assert await bodies(engine) == ["one", "two"]


# --- two tasks --------------------------------------------------------------------------------


async def test_two_statements_at_once_are_refused(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        first, second = await asyncio.gather(
            session.execute(select(Note.id)),
            session.execute(select(Note.id)),
            return_exceptions=True,
        )
        assert len(first.all()) == 2
        assert isinstance(second, ConcurrentSessionError)
        assert alice.request_id in str(second)
        assert len((await session.execute(select(Note.id))).all()) == 2
    assert counters.value("refused.RF204") == 1


FIRSTS: dict[str, Use] = {
    "execute": lambda it: it.session.execute(select(Note)),
    "commit": lambda it: it.session.commit(),
    "transaction": lambda it: it.transaction.commit(),
    "lazy load": lambda it: it.author.awaitable_attrs.notes,
    "connection": lambda it: it.connection.execute(select(Note)),
}


PAIRS = [("execute", name) for name in REFUSED] + [
    (first, second)
    for first in FIRSTS
    for second in ("execute", "add", "commit", "connection")
    if first != "execute"
]


@pytest.mark.parametrize(("first", "name"), PAIRS)
async def test_a_use_while_another_task_is_in_it_is_refused(
    world: World, engine: AsyncEngine, first: str, name: str
) -> None:
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        await stolen.stream.close()
        task = asyncio.ensure_future(do(FIRSTS[first], stolen))
        await asyncio.sleep(0)  # it has begun, and waits for the database
        assert not task.done()
        # A transaction that is ending refuses its own methods by itself.
        with pytest.raises((ConcurrentSessionError, IllegalStateChangeError)) as caught:
            await do(REFUSED[name], stolen)
        assert caught.type is ConcurrentSessionError or "held transaction" in name
        await task
        assert (await alice.db_session.scalar(text("select 1"))) == 1


async def test_one_task_after_the_other_is_fine(world: World) -> None:
    async with world.alice() as alice:

        async def work(number: int) -> None:
            async with lock:
                alice.db_session.add(Note(body=f"note {number}"))
                await alice.db_session.flush()

        lock = asyncio.Lock()
        await asyncio.gather(*(work(number) for number in range(10)))
        assert len((await alice.db_session.scalars(select(Note))).all()) == 12


async def test_calls_within_calls_of_one_task_are_fine(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        async with session.begin():
            async with session.begin_nested():
                session.add(Note(body="three"))
            notes = await session.run_sync(lambda s: s.scalars(select(Note)).all())
            assert len(notes) == 3


async def test_a_cancelled_call_leaves_it_usable(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        task = asyncio.ensure_future(session.execute(select(Note)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.rollback()
        assert (await session.scalar(text("select 1"))) == 1


async def test_a_call_that_gather_left_behind_is_awaited_at_the_end(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    with pytest.raises(ConcurrentSessionError):
        async with fence.user_context("alice-1") as alice:
            session = alice.db_session
            await asyncio.gather(
                session.execute(insert(Note).values(body="three")),
                session.execute(insert(Note).values(body="four")),
            )
    assert checked_out(engine) == 0
    assert await bodies(engine) == ["one", "two"]


# --- what stays as it was ---------------------------------------------------------------------


async def test_listeners_of_sessions_are_heard(engine: AsyncEngine) -> None:
    heard: list[Session] = []

    def listen(session: Session, *_: object) -> None:
        heard.append(session)

    event.listen(Session, "after_begin", listen)
    try:
        async with fence_for(engine).user_context("alice-1") as alice:
            await alice.db_session.scalar(text("select 1"))
            assert heard == [alice.db_session.sync_session]
    finally:
        event.remove(Session, "after_begin", listen)


async def test_its_connection_can_be_inspected(world: World) -> None:
    async with world.alice() as alice:
        connection = await alice.db_session.connection()
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert names == ["author", "note"]


async def test_refusals_are_context_isolation_errors(world: World) -> None:
    async with world.alice() as alice:
        session = alice.db_session
        async with world.bob():
            with pytest.raises(ContextIsolationError):
                await session.commit()


async def test_other_users_of_the_engine_are_not_touched(engine: AsyncEngine) -> None:
    async with fence_for(engine).user_context("alice-1"):
        await current_context().db_session.scalar(text("select 1"))  # the engine is watched now
        async with AsyncSession(engine) as session:
            async with user_context("bob-22"):
                await session.execute(select(Note))
                await session.rollback()
