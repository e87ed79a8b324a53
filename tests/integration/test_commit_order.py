"""Over HTTP, on PostgreSQL: a status is never ahead of the database."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from ringfence import ScopeCloseError, counters, current_context
from ringfence.integrations._session_waits import _await

from ..integrations.asgi_driver import Answer, call, fenced, ok, respond
from ..integrations.notes import Note, bodies, checked_out, fence_for, postgres_notes
from ..trials import commit_order


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


async def _get(app: Any, path: str, query: str) -> Answer:
    return await ok(
        app,
        path,
        user="alice-1",
        query_string=query.encode(),
        incoming=[],
    )


async def test_a_client_that_saw_2xx_finds_its_row(engine: AsyncEngine) -> None:
    held = await commit_order.run(engine, 1000)
    control = await commit_order.run(engine, 100, control=True)
    commit_order.show("commit_before_response", held)
    commit_order.show("control: commit_on_exit", control)
    assert (held.trials, held.seen, held.missing) == (1000, 1000, 0)
    assert (control.trials, control.seen, control.missing) == (100, 100, 100)
    assert len(await bodies(engine)) == 2 + 1000 + 100


async def test_a_conflict_that_the_handler_answers_leaves_no_row(engine: AsyncEngine) -> None:
    app = commit_order.application(engine)
    answer = await _get(app, "/409", "body=three")
    assert answer.status == 409
    assert await bodies(engine) == ["one", "two"]
    assert (await _get(app, "/notes", "body=three")).status == 201
    assert await bodies(engine) == ["one", "two", "three"]


@pytest.fixture
async def deferred(engine: AsyncEngine) -> AsyncEngine:
    """Uniqueness is looked at when committing, not before."""
    async with engine.begin() as connection:
        await connection.execute(text("alter table note drop constraint note_body_key"))
        await connection.execute(
            text("alter table note add unique (body) deferrable initially deferred")
        )
    return engine


async def test_a_constraint_that_fails_the_commit_is_a_409(deferred: AsyncEngine) -> None:
    answer = await _get(commit_order.application(deferred), "/notes", "body=one")
    assert (answer.status, answer.problem["title"]) == (409, "Conflict")
    assert await bodies(deferred) == ["one", "two"]
    assert counters.value("commit.failed") == 1


async def _break(engine: AsyncEngine, how: str, session: Session) -> None:
    """Make the commit of this session fail, as another client of the database may."""
    process = await _process_of(session)
    async with engine.connect() as other:
        if how == "killed":
            await other.execute(text(f"select pg_terminate_backend({process})"))
        else:
            await other.execute(text("select count(*) from note"))
            await other.execute(text("insert into note (body) values ('other')"))
        await other.commit()


async def _process_of(session: Session) -> int:
    return int(session.execute(text("select pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize("how", ["killed", "serialization"])
async def test_a_commit_that_fails_otherwise_is_a_500(
    engine: AsyncEngine, driver: str, postgres: Any, how: str
) -> None:
    url = postgres.url(driver)
    level = "SERIALIZABLE"
    async with postgres_notes(url, isolation_level=level) as serial:
        app = commit_order.application(serial)

        def meddle(session: Session) -> None:
            session.execute(text("select count(*) from note"))
            _await(_break(serial, how, session))

        event.listen(Session, "before_commit", meddle, once=True)
        answer = await call(app, "/notes", user="alice-1", query_string=b"body=three")
        assert answer.status == 500, answer.body
        assert answer.problem["status"] == 500
        assert b"three" not in answer.body
        assert "three" not in await bodies(serial)
        assert checked_out(serial) == 0
        assert (await _get(app, "/notes", "body=four")).status == 201
        assert "four" in await bodies(serial)


@pytest.mark.parametrize(("query", "kept"), [("body=three", True), ("body=three&fail=1", False)])
async def test_what_a_stream_writes_is_there_if_it_ended_well(
    engine: AsyncEngine, query: str, kept: bool
) -> None:
    app = commit_order.application(engine)
    answer = await call(app, "/stream", user="alice-1", query_string=query.encode())
    assert answer.status == 200
    assert answer.body == b"begun\nwritten\n"
    assert (answer.error is None) is kept
    assert ("three" in await bodies(engine)) is kept
    assert checked_out(engine) == 0


@pytest.mark.parametrize("path", ["/caught", "/caught-table", "/saved"])
async def test_what_a_caught_error_has_aborted_is_no_201(engine: AsyncEngine, path: str) -> None:
    """PostgreSQL answers the COMMIT of an aborted transaction by rolling back, without a word."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = current_context().db_session
        await session.execute(insert(Note).values(body="three"))
        with contextlib.suppress(DBAPIError):
            if path == "/saved":
                async with session.begin_nested():
                    await session.execute(insert(Note).values(body="one"))
            elif path == "/caught":
                await session.execute(insert(Note).values(body="one"))
            else:
                await session.execute(text("select * from nowhere"))
        await respond(send, 201)

    answer = await ok(fenced(app, fence=fence_for(engine)), path, user="alice-1")
    if path == "/saved":
        assert answer.status == 201
        assert await bodies(engine) == ["one", "two", "three"]
    else:
        assert answer.status == 500
        assert await bodies(engine) == ["one", "two"]
    assert checked_out(engine) == 0


async def test_nor_a_block_that_ended_well(engine: AsyncEngine) -> None:
    fence = fence_for(engine)
    with pytest.raises(ScopeCloseError):
        async with fence.user_context("alice-1") as alice:
            await alice.db_session.execute(insert(Note).values(body="three"))
            with contextlib.suppress(DBAPIError):
                await alice.db_session.execute(insert(Note).values(body="one"))
    with pytest.raises(DBAPIError):
        async with fence.user_context("alice-1") as alice:
            with contextlib.suppress(DBAPIError):
                await alice.db_session.execute(insert(Note).values(body="one"))
            await alice.db_session.commit()
    assert await bodies(engine) == ["one", "two"]
    assert checked_out(engine) == 0
    assert counters.value("session.invalidated") == 0


async def test_the_next_request_finds_a_sound_connection(driver: str, postgres: Any) -> None:
    async with postgres_notes(postgres.url(driver), pool_size=1, max_overflow=0) as engine:
        fence = fence_for(engine)
        for _ in range(3):
            with pytest.raises(ScopeCloseError):
                async with fence.user_context("alice-1") as alice:
                    with contextlib.suppress(DBAPIError):
                        await alice.db_session.execute(text("select * from nowhere"))
            async with fence.user_context("bob-22") as bob:
                assert await bob.db_session.scalar(text("select 1")) == 1
        assert checked_out(engine) == 0
