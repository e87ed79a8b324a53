"""The middleware with a real database: a client that saw 201 finds its row, or it saw no 201."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.responses import StreamingResponse

from ringfence import OwnershipError, Ringfence, counters, current_context, current_scope
from ringfence.integrations.sqlalchemy import Database

from .asgi_driver import call, fenced, ok, respond

pytest.importorskip("aiosqlite")


@pytest.fixture(params=[("asyncio", {})], ids=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def check_references(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE author (id TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO author VALUES ('alice-1')"))
        await connection.execute(
            text(
                "CREATE TABLE note (author TEXT REFERENCES author (id) "
                "DEFERRABLE INITIALLY DEFERRED)"  # so that the commit fails, not the insert
            )
        )
    yield engine
    await engine.dispose()


async def _count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM note"))).scalar_one())


def _writing(engine: AsyncEngine, status: int = 201, error: Exception | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = current_scope().db_session
        values = {"author": current_context().user_id}
        await session.execute(text("INSERT INTO note VALUES (:author)"), values)
        if error is not None:
            raise error
        await respond(send, status, b"saved")

    return fenced(app, fence=Ringfence(database=Database(async_sessionmaker(engine))))


async def test_what_was_written_is_committed_before_the_response(engine: AsyncEngine) -> None:
    async def then(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            seen.append(await _count(engine))
            await send(message)

        await app(scope, receive, watch)

    app, seen = _writing(engine), list[int]()
    assert (await ok(then, user="alice-1")).status == 201
    assert seen == [1, 1]


@pytest.mark.parametrize("error", [None, OwnershipError("x"), ValueError("x")])
async def test_or_rolled_back(engine: AsyncEngine, error: Exception | None) -> None:
    await call(_writing(engine, 422, error), user="alice-1")
    assert await _count(engine) == 0


async def test_a_commit_that_fails_is_a_conflict(engine: AsyncEngine) -> None:
    answer = await ok(_writing(engine), user="bob-22")
    assert answer.status == 409
    assert answer.problem["title"] == "Conflict"
    assert b"saved" not in answer.body
    assert b"bob" not in answer.body
    assert await _count(engine) == 0
    assert counters.value("commit.failed") == 1
    assert (await ok(_writing(engine), user="alice-1")).status == 201


# --- a client that leaves, and a policy that only reads ----------------------------------------


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_what_a_stream_wrote_is_kept_only_if_somebody_heard_its_end(
    engine: AsyncEngine, spec_version: str, leaves: bool
) -> None:
    async def written() -> AsyncIterator[str]:
        for _ in range(3):
            await current_context().db_session.execute(
                text("INSERT INTO note VALUES (:author)"), {"author": current_context().user_id}
            )
            yield "line"
            await anyio.sleep(0.01)

    def lost(message: Any) -> OSError | None:
        nonlocal sent
        sent += message["type"] == "http.response.body"
        is_lost = leaves and spec_version == "2.4" and sent == 2
        return OSError("gone") if is_lost else None

    sent = 0
    app = fenced(
        StreamingResponse(written()), fence=Ringfence(database=Database(async_sessionmaker(engine)))
    )
    gone = [{"type": "http.disconnect"}] if leaves and spec_version == "2.3" else []
    answer = await call(
        app,
        user="alice-1",
        asgi={"version": "3.0", "spec_version": spec_version},
        incoming=gone,
        send_error=lost,
    )
    assert answer.outcome == ("client_disconnect" if leaves else "completed")
    assert await _count(engine) == (0 if leaves else 3)


@pytest.mark.parametrize("commits", [True, False])
async def test_read_only_holds_from_the_first_statement_of_a_request(
    engine: AsyncEngine, commits: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = current_scope().db_session
        await session.execute(text("SELECT count(*) FROM note"))
        await session.execute(text("INSERT INTO note VALUES ('alice-1')"))
        if commits:
            await session.commit()
        await respond(send, 201)

    database = Database(async_sessionmaker(engine), policy="read_only")
    answer = await ok(fenced(app, fence=Ringfence(database=database)), user="alice-1")
    assert answer.status == 500
    assert answer.problem["type"] == "urn:ringfence:error:RF501"
    assert await _count(engine) == 0
