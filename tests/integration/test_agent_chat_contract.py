"""What is owed end to end: a real sign-in, `POST /agent/chat`, and events on one's own socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

ROOT = Path(__file__).parents[2]
KEY = "a key of the tests, 32 bytes or more"
PASSWORDS = {"ann": "ann's password", "bob": "bob's password"}
PATIENCE = 5  # seconds

httpx = pytest.importorskip("httpx2")
client = pytest.importorskip("websockets.asyncio.client")
exceptions = pytest.importorskip("websockets.exceptions")
pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(params=["planner", "pydantic_agent"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    if request.param == "pydantic_agent":
        pytest.importorskip("pydantic_ai")
    import importlib

    from examples.agent_chat import sign_in
    from examples.agent_chat.app import create_app
    from examples.agent_chat.database import sqlite_url
    from examples.agent_chat.serving import serve
    from examples.agent_chat.tokens import bearer
    from examples.agent_chat.users import User, Users

    users = Users(*(User(user, user.title(), given) for user, given in PASSWORDS.items()))
    work = importlib.import_module(f"examples.agent_chat.{request.param}").work
    router = sign_in.router_of(users, KEY)
    app = create_app(sqlite_url(tmp_path / "chat.db"), bearer(KEY), router, work=work)
    async with serve(app) as port:
        yield port


class Client:
    """One user's, by HTTP and WebSocket. Lives as long as the block of `signed_in`."""

    def __init__(self, wire: Any, user: str, port: int) -> None:
        self.wire = wire
        self.user = user
        self.port = port
        self.token = ""

    async def sign_in(self) -> None:
        given = {"user": self.user, "password": PASSWORDS[self.user]}
        answer = await self.wire.post("/sign-in", json=given)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        self.token = answer.json()["token"]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def chat(self, thread: str, run: str, message: str) -> Any:
        said = {"message": message, "thread_id": thread, "run_id": run}
        return await self.wire.post("/agent/chat", json=said, headers=self.headers)

    @contextlib.asynccontextmanager
    async def socket(self) -> AsyncIterator[Any]:
        protocols: Any = ["ringfence.bearer", self.token]
        uri = f"ws://127.0.0.1:{self.port}/events"
        async with client.connect(uri, subprotocols=protocols, max_queue=None) as socket:
            assert socket.subprotocol == "ringfence.bearer"
            assert (await heard(socket))["kind"] == "ready"
            yield socket


@contextlib.asynccontextmanager
async def signed_in(port: int, *users: str) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for user in users:
            wire = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
            await stack.enter_async_context(wire)
            clients.append(Client(wire, user, port))
            await clients[-1].sign_in()
        yield clients


async def heard(socket: Any) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE):
        document: dict[str, Any] = json.loads(await socket.recv())
    return document


async def heard_of(socket: Any, run: str) -> list[dict[str, Any]]:
    """All up to the end of this run, whatever is among it."""
    found = [await heard(socket)]
    while (found[-1]["run_id"], found[-1]["depth"], found[-1]["kind"]) != (
        run,
        1,
        "agent_completed",
    ):
        found.append(await heard(socket))
    return found


async def test_agent_started_is_seen_on_one_s_own_socket_and_on_no_other(port: int) -> None:
    async with (
        signed_in(port, "ann", "bob") as (ann, bob),
        ann.socket() as anns,
        bob.socket() as bobs,
    ):
        answer = await ann.chat("t-7", "r-7", "a word or two")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["user_id"], body["thread_id"], body["run_id"]) == ("ann", "t-7", "r-7")
        events = await heard_of(anns, "r-7")
        first = events[0]
        assert (first["kind"], first["data"]["name"]) == ("agent_started", "planner")
        assert (first["thread_id"], first["run_id"]) == ("t-7", "r-7")
        assert first["parent_request_id"] == answer.headers["x-request-id"]
        # Whatever of ann's went to bob would be there before the end of his own.
        await bob.chat("t-8", "r-8", "anything else")
        assert {event["run_id"] for event in await heard_of(bobs, "r-8")} == {"r-8"}


async def test_both_at_once_with_the_same_thread_and_run(port: int) -> None:
    async with signed_in(port, "ann", "bob") as users, contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(user.socket()) for user in users]
        answers: dict[str, Any] = {}

        async def ask(user: Client) -> None:
            answers[user.user] = await user.chat("t-1", "r-1", f"only {user.user}")

        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(ask, user)
        for user, socket in zip(users, sockets, strict=True):
            tree = answers[user.user].json()["operations"]
            told = {event["request_id"] for event in await heard_of(socket, "r-1")}
            assert told == ids_of(tree) - {tree["request_id"]}


def ids_of(node: dict[str, Any]) -> set[str]:
    return {node["request_id"]}.union(*map(ids_of, node["children"]))


async def test_the_tree_can_be_drawn_from_the_events(port: int) -> None:
    async with signed_in(port, "ann") as (ann,), ann.socket() as socket:
        root = (await ann.chat("t-1", "r-1", "a word or two")).json()["operations"]
        events = await heard_of(socket, "r-1")
        begun = [e for e in events if e["kind"] in ("agent_started", "tool_executing")]
        ends = {e["data"]["start_id"]: e for e in events if "start_id" in e["data"]}
        assert sorted(ends) == sorted(event["id"] for event in begun)
        assert {end["data"]["outcome"] for end in ends.values()} == {"completed"}
        above = {event["request_id"]: event["parent_request_id"] for event in begun}
        assert above == parents_of(root)
        assert {event["kind"] for event in events} >= {
            "agent_started", "agent_thinking", "tool_executing", "tool_completed",
            "agent_completed", "message_kept", "answer_kept",
        }  # fmt: skip


def parents_of(node: dict[str, Any]) -> dict[str, str]:
    found = {child["request_id"]: node["request_id"] for child in node["children"]}
    for child in node["children"]:
        found |= parents_of(child)
    return found


async def test_server_sent_events_resume_too(port: int) -> None:
    async with signed_in(port, "ann", "bob") as (ann, bob), ann.socket() as socket:
        for run in ("r-1", "r-2"):
            await ann.chat("t-1", run, "a word or two")
            await bob.chat("t-1", run, "a word or two")
        first, second = await heard_of(socket, "r-1"), await heard_of(socket, "r-2")
        last = {**ann.headers, "last-event-id": first[-1]["id"]}
        ids: list[str] = []
        with anyio.fail_after(PATIENCE):
            async with ann.wire.stream("GET", "/events", headers=last) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                async for line in stream.aiter_lines():
                    if line.startswith("id: "):
                        ids.append(line[4:])
                    if len(ids) == 1 + len(second):
                        break
        assert ids == [first[-1]["id"], *(event["id"] for event in second)]


async def test_without_a_token_nobody_is_told_anything(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as wire:
        assert (await wire.get("/events")).status_code == 401
        wrong = {"user": "ann", "password": PASSWORDS["bob"]}
        refused = await wire.post("/sign-in", json=wrong)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await wire.post("/sign-in", json={"user": "ann"})).status_code == 422
    for protocols in (["ringfence.bearer"], ["ringfence.bearer", "nonsense"]):
        with pytest.raises(exceptions.InvalidStatus) as denied:
            async with client.connect(f"ws://127.0.0.1:{port}/events", subprotocols=protocols):
                pass
        assert denied.value.response.status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("null", 403), (None, None)]
)
async def test_another_page_is_told_nothing(
    port: int, origin: str | None, status: int | None
) -> None:
    async with signed_in(port, "ann") as (ann,):
        uri, protocols = f"ws://127.0.0.1:{port}/events", ["ringfence.bearer", ann.token]
        with contextlib.ExitStack() as stack:
            denied: Any = None
            if status is not None:
                denied = stack.enter_context(pytest.raises(exceptions.InvalidStatus))
            async with client.connect(uri, subprotocols=protocols, origin=origin) as socket:
                assert (await heard(socket))["kind"] == "ready"
        if denied is not None:
            assert denied.value.response.status_code == status
