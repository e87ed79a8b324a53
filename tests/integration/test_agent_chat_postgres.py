"""The example against a real PostgreSQL: nothing changes but the database's address."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from ringfence.errors import ConfigurationError
from ringfence.state import open_roots
from ringfence.testing.postgres import PostgresServer, postgres_server

ROOT = Path(__file__).parents[2]
KEY = "a key of the tests, 32 bytes or more"
USERS = ("ann", "bob")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as server:
            yield server
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise  # there it is required
        pytest.skip(str(error))


def rows(server: PostgresServer, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(server.url("psycopg"))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


async def test_the_example_on_postgresql(server: PostgresServer) -> None:
    from websockets.asyncio.client import connect

    from examples.agent_chat.app import create_app
    from examples.agent_chat.serving import serve
    from examples.agent_chat.tokens import bearer, issue
    from examples.agent_chat.wire import Answer, Stream, exchange, request

    tokens = {user: issue(KEY, user) for user in USERS}

    def asked(user: str, method: str, path: str, run: str = "") -> bytes:
        said = {"message": f"{user} says so", "thread_id": "t-1", "run_id": run}
        return request(method, path, tokens[user], said if run else None)

    async def chat(user: str, number: int) -> Answer:
        run = f"{user}-{number}"
        (answer,) = await exchange(port, asked(user, "POST", "/agent/chat", run))
        return answer

    async def talk(user: str) -> str:
        protocols: Any = ["ringfence.bearer", tokens[user]]
        uri = f"ws://127.0.0.1:{port}/agent/ws"
        async with connect(uri, subprotocols=protocols) as websocket:
            message = {"message": f"{user} talks", "thread_id": "t-1", "run_id": f"{user}-talk"}
            await websocket.send(json.dumps(message))
            frames = [json.loads(await websocket.recv()) for _ in range(5)]
        return " ".join(frame.get("token", "") for frame in frames).strip()

    app = create_app(server.dsn, bearer(KEY))
    assert app.state.engine.url.drivername == "postgresql+asyncpg"
    pool = app.state.engine.pool
    async with serve(app) as port:
        answers = await asyncio.gather(*(chat(user, n) for n in range(2) for user in USERS))
        assert {answer.status for answer in answers} == {200}
        assert [len(answer.body["notes"]) for answer in answers] == [3] * 4

        left = await Stream.open(port, asked("bob", "POST", "/agent/stream", "bob-left"))
        left.reset()
        whole = await Stream.open(port, asked("ann", "POST", "/agent/stream", "ann-whole"))
        heard = [data async for event, data in whole if event == "token"]
        assert heard == ["You", "said:", "ann", "says", "so"]
        assert await asyncio.gather(*(talk(user) for user in USERS)) == [
            f"You said: {user} talks" for user in USERS
        ]

        (accepted,) = await exchange(port, asked("ann", "POST", "/notes/summary"))
        for user in USERS:
            (notes,) = await exchange(port, asked(user, "GET", "/notes"))
            assert all(note["run_id"].startswith(user) for note in notes.body)
    assert not open_roots()
    assert pool.checkedout() == 0
    kept = rows(server, "SELECT user_id, run_id, text FROM notes WHERE tool = 'answer' ORDER BY id")
    assert ("ann", "ann-whole", "You said: ann says so") in kept
    assert sorted(run for _, run, _ in kept) == ["ann-talk", "ann-whole", "bob-talk"]
    assert rows(server, "SELECT user_id, request_id FROM summaries") == [
        ("ann", accepted.body["job"])  # waited for at shutdown
    ]
    assert rows(server, "SELECT DISTINCT user_id, split_part(run_id, '-', 1) FROM notes") in (
        [("ann", "ann"), ("bob", "bob")],
        [("bob", "bob"), ("ann", "ann")],
    )
