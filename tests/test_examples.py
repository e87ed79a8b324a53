"""The examples run and print what they say; the demo's steps can fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith("RINGFENCE_")}


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))  # however pytest was started


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**PLAIN, **environ},
        capture_output=True,
        text=True,
        timeout=50,
    )


def printed(name: str) -> str:
    """What an example prints, with request ids replaced by the order they appear in."""
    done = run("-W", "error", f"examples/{name}.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names: dict[str, str] = {}
    return re.sub(
        r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?<=[ ])[0-9a-f]{4}\b",
        lambda found: names.setdefault(found[0][:4], f"#{len(names) + 1}"),
        done.stdout,
    )


# --- the small ones ---------------------------------------------------------------------------


def test_quickstart() -> None:
    lines = printed("quickstart").splitlines()
    assert lines[:4] == ["ann search", "bob search", "ann summary", "bob summary"]
    assert lines[4].startswith("RF101 No scope is open here.")
    assert len(lines) == 5


def test_child_contexts() -> None:
    assert printed("child_contexts") == (
        "ann #1 depth 0  request\n"
        "   ann #2 depth 1  planner thread=thread-7\n"
        "      ann #3 depth 2  summary plan=['summary']\n"
        "      closed: summary\n"
        "      ann #4 depth 2  search plan=['search']\n"
        "      closed: search\n"
        "ann #1 depth 0  request again, plan=[]\n"
    )


def test_streaming() -> None:
    assert printed("streaming") == (
        "RF301 refused: a scope directly in a generator\n"
        "ann: your | bob: your\n"
        "ann: notes | bob: notes\n"
        "closed: the model connection of bob\n"
        "closed: the model connection of ann\n"
    )


def test_background_work() -> None:
    assert printed("background_work") == (
        "request #1 begins\n"
        "indexed a.txt for ann in request #1\n"
        "request #1 ended\n"
        "indexed b.txt for ann in request #2\n"
        "RF102 refused c.txt: The scope of request `#1` has ended\n"
    )


def test_agent_tools() -> None:
    for partner in ("agents", "aiosqlite", "pydantic_ai"):
        pytest.importorskip(partner)
    assert printed("agent_tools") == (
        "pydantic-ai sees note(text)\n"
        "openai-agents sees note(text)\n"
        "ann: remembers ['a', 'cup', 'tea'], wrote ['a', 'cup', 'tea']\n"
        "bob: remembers ['a', 'milk', 'mug'], wrote ['a', 'milk', 'mug']\n"
    )


@pytest.mark.parametrize("name", ["quickstart", "child_contexts", "streaming", "background_work"])
def test_small_examples_are_small_and_need_no_extra(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(source.splitlines()) < 60
    assert f"python examples/{name}.py" in source
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE))
    assert imported <= {"asyncio", "anyio", "collections", "ringfence"}


# --- the demo ---------------------------------------------------------------------------------

DEMO = ("-m", "examples.agent_chat.demo")


def test_the_demo_shows_every_step_and_ends_by_itself(tmp_path: Path) -> None:
    done = run(*DEMO, TMPDIR=str(tmp_path), TEMP=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    steps = re.split(r"^\((\w+)\) ", done.stdout, flags=re.MULTILINE)
    shown = dict(zip(steps[1::2], steps[2::2], strict=True))
    assert list(shown) == ["a", "b", "c", "d", "e", "f", "g", "h", "end"]
    assert "LEAK" in shown["a"] or "mended" in shown["a"]
    assert re.search(r"no token +->  401 application/problem\+json", shown["b"])
    assert len(re.findall(r"depth 2", shown["c"])) == 6
    assert "24 notes" in shown["c"]
    assert "SessionIsolationError" in shown["d"]
    assert "opened at" in " ".join(shown["d"].split())
    assert "ContextClosedError, no row" in shown["e"]
    assert "done, 1 row, ann's" in shown["e"]
    assert "ann's, meanwhile" in shown["f"]
    assert re.search(r"client_disconnect 3, goodbyes to the model \d", shown["f"])
    assert "ann's job, of 0.7 seconds  ->  waited for, 1 row" in shown["g"]
    assert re.search(r"DrainReport\(drained=\d, cancelled=1, abandoned=\(\)\)", shown["g"])
    for user in ("ann", "bob"):
        assert re.search(rf"{user}: 13 events in both, of planner, .*find_longest", shown["h"])
    assert "all 26 events since, in order, each once" in shown["h"]
    assert "resync, and then his own events" in shown["h"]
    for step in ("f", "g", "end"):
        assert "open scopes 0, registry 0, connections checked out 0\n" in shown[step]
    assert re.search(r"^demo ok in \d+\.\d s$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout + done.stderr


def test_the_demo_has_help() -> None:
    done = run(*DEMO, "--help")
    assert done.returncode == 0
    assert "exit code" in done.stdout.lower()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_only(no_color: str, is_coloured: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    paint = "from examples.agent_chat import screen; screen.title('a', 'title')"
    environ = {**PLAIN, "NO_COLOR": no_color, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", paint], cwd=ROOT, env=environ, stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert (b"\x1b[1m" in shown) is is_coloured


DEFECTS = {
    "a server that resets": (
        None,
        "this uvicorn has mended its default",
        """
        import functools, uvicorn
        uvicorn.Config = functools.partial(uvicorn.Config, reset_contextvars=True)
        """,
    ),
    "a request inherits": (
        "b",
        "the anonymous request got 200, not 401",
        """
        from contextvars import ContextVar
        from ringfence.integrations.asgi import UserContextMiddleware
        ambient = ContextVar("ambient", default=None)
        root = UserContextMiddleware._root
        def inherit(self, identity, headers):
            identity = identity or ambient.get()
            ambient.set(identity)
            return root(self, identity, headers)
        UserContextMiddleware._root = inherit
        """,
    ),
    "the fault is not counted": (
        "b",
        "the server's fault was not counted",
        """
        from ringfence.integrations import asgi
        asgi._count_inherited = lambda ambient: None
        """,
    ),
    "a tool keeps what was said last": (
        "c",
        "said",
        """
        import anyio
        from examples.agent_chat import tools
        said = []
        async def quote(message):
            said.append(message)
            await anyio.sleep(0.3)
            return tools.write_note("quote", said[-1])
        tools.TOOLS["quote"] = quote
        """,
    ),
    "everybody's notes are shown": (
        "c",
        "GET /notes gave ann the notes of ['ann', 'bob']",
        """
        from sqlalchemy import select
        from ringfence import current_context
        from examples.agent_chat import chat, tables
        async def all_notes(*which):
            found = await current_context().db_session.scalars(select(tables.Note).where(*which))
            return found.all()
        chat.own_notes = all_notes
        """,
    ),
    "the session guard is off": (
        "d",
        "bob got 200 and ann's notes",
        """
        from ringfence.integrations._session_guard import SessionGuard
        SessionGuard.check = lambda self: None
        """,
    ),
    "closed is not closed": (
        "e",
        "the plain task ended with NoneType",
        """
        from ringfence.scope import RequestScope
        end = RequestScope._end
        def stay_open(self, code, instruction):
            context, root = self._context, self._root
            end(self, code, instruction)
            self._state, self._context, self._root = "open", context, root
        RequestScope._end = stay_open
        RequestScope.state = property(lambda self: "closed")
        """,
    ),
    "half an answer is kept": (
        "f",
        "the answers that were kept are [('bob', 'bob-run-f",
        """
        from ringfence import current_context
        from examples.agent_chat import agent, tools
        keep = agent.keep
        async def keep_too_much(said):
            if said.run_id.startswith("bob-run-f"):
                tools.write_note("answer", "not said yet")
            return await keep(said)
        agent.keep = keep_too_much
        """,
    ),
    "a client's going is not noticed": (
        "f",
        "of 3, 0 ended as client_disconnect",
        """
        from ringfence.integrations._exchange import Exchange
        outcome = Exchange.outcome
        Exchange.outcome = lambda self, error: outcome(self, None)
        Exchange.is_gone = property(lambda self: False, lambda self, value: None)
        """,
    ),
    "a stream forgets its finalisers": (
        "f",
        "models heard no goodbye",
        """
        from ringfence import RequestScope
        kept = []
        async def enter(self, manager):
            kept.append(manager)
            return await manager.__aenter__()
        RequestScope.enter = enter
        """,
    ),
    "a stream keeps its connection": (
        "f",
        "something is left: open scopes 0, registry 0, connections checked out ",
        """
        from ringfence import current_context
        from examples.agent_chat import agent
        keep, kept = agent.keep, []
        async def keep_connection(said):
            message = await keep(said)
            if said.run_id == "bob-run-f3":
                kept.append(await current_context().db_session.bind.connect())
            return message
        agent.keep = keep_connection
        """,
    ),
    "shutdown does not wait": (
        "g",
        "of 5 connections to the model, ",
        """
        from ringfence import fence, shutdown
        async def drain(*arguments):
            return shutdown.DrainReport(4, 1, ()), None
        fence.drain = drain
        """,
    ),
    "shutdown does not wait for jobs": (
        "g",
        "the summaries are those of []",
        """
        from ringfence import Settings
        from examples.agent_chat import shutdown
        shutdown.DRAIN = Settings(drain_timeout=0.1)
        """,
    ),
    "shutdown reports what was not": (
        "g",
        "the report says DrainReport(drained=0, cancelled=0, abandoned=())",
        """
        from ringfence import fence, shutdown
        drain = shutdown.drain
        async def drain_and_forget(*arguments):
            await drain(*arguments)
            return shutdown.DrainReport(0, 0, ()), None
        fence.drain = drain_and_forget
        """,
    ),
    "events go to everybody": (
        "h",
        "'s window was told of ",
        """
        from ringfence.events import hub, subscription
        hub.UserKey = subscription.UserKey = lambda tenant_id, user_id: "everybody"
        """,
    ),
    "what was missed is not told": (
        "h",
        "ann's window was told of ann-run-h3",
        """
        from ringfence.integrations._event_delivery import Delivery
        subscription = Delivery.subscription
        def forget(self, scope, headers, query):
            return subscription(self, scope, headers, {})
        Delivery.subscription = forget
        """,
    ),
    "what was told is told again": (
        "h",
        "ann's window was told of ann-run-h1",
        """
        from ringfence.integrations._event_delivery import Delivery
        subscription = Delivery.subscription
        def start_anew(self, scope, headers, query):
            epoch = query["last_event_id"].partition("-")[0]
            return subscription(self, scope, headers, {"last_event_id": epoch and f"{epoch}-0"})
        Delivery.subscription = start_anew
        """,
    ),
    "another's id is taken": (
        "h",
        "bob's window was told nothing more",
        """
        from ringfence.integrations._event_delivery import Delivery
        subscription = Delivery.subscription
        def forget(self, scope, headers, query):
            from ringfence import current_context
            is_ann = current_context().user_id == "ann"
            return subscription(self, scope, headers, query if is_ann else {})
        Delivery.subscription = forget
        """,
    ),
    "a scope is never left": (
        "end",
        "open scopes 1",
        """
        import contextlib, contextvars
        from ringfence import user_context
        from examples.agent_chat import demo
        entering = user_context("eve").__aenter__()
        async def leak(stage):
            with contextlib.suppress(StopIteration):
                contextvars.Context().run(entering.send, None)
        demo.g_shutdown = leak
        """,
    ),
}
ALONE = {"f": "f", "g": "g", "h": "h", "end": "g"}  # the others build upon each other


@pytest.mark.parametrize("name", DEFECTS)
def test_each_step_can_fail(name: str) -> None:
    step, cause, defect = DEFECTS[name]
    ending = "import sys; from examples.agent_chat.demo import main; sys.exit(main(sys.argv[1:]))"
    done = run("-c", textwrap.dedent(defect) + ending, "--only", ALONE.get(step or "", "a-e"))
    if step is None:
        assert done.returncode == 0, done.stderr
        assert cause in done.stdout
        return
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"demo failed in step ({step}): ")
    assert cause in last
    assert "demo ok" not in done.stdout


# --- the service ------------------------------------------------------------------------------

KEY = "a key of the tests, 32 bytes or more"
GOOD = {"message": "a word or two", "thread_id": "t-1", "run_id": "r-1"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from examples.agent_chat.app import create_app
    from examples.agent_chat.database import sqlite_url
    from examples.agent_chat.tokens import bearer

    with TestClient(create_app(sqlite_url(tmp_path / "chat.db"), bearer(KEY))) as client:
        yield client


def headers(user: str = "ann", seconds: int = 60, **more: str) -> dict[str, str]:
    from examples.agent_chat.tokens import issue

    token = issue(KEY, user, seconds)
    return {"authorization": f"Bearer {token}", "content-type": "application/json", **more}


def test_the_answer_carries_the_tree_and_the_notes(client: Any) -> None:
    answer = client.post("/agent/chat", json=GOOD, headers=headers())
    assert answer.status_code == 200
    body = answer.json()
    root = body["operations"]
    (planner,) = root["children"]
    (*_, reader) = planner["children"]
    assert root["request_id"] == answer.headers["x-request-id"]
    operations = [root, planner, *planner["children"], *reader["children"]]
    assert [(each["operation"], each["depth"]) for each in operations] == [
        ("request", 0),
        ("planner", 1),
        ("count_words", 2),
        ("quote", 2),
        ("reader", 2),
        ("find_longest", 3),
    ]
    assert len({each["request_id"] for each in operations}) == 6
    assert body["answer"] == '4 words; the longest is “word”. "a word or two"'
    assert {note["tool"]: note["text"] for note in body["notes"]} == {
        "count_words": "4 words",
        "find_longest": "word",
        "quote": '"a word or two"',
    }


def test_the_message_is_kept_though_a_tool_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from examples.agent_chat import tools
    from examples.agent_chat.app import create_app
    from examples.agent_chat.database import sqlite_url
    from examples.agent_chat.tokens import bearer

    async def fail(message: str) -> str:
        tools.write_note("fail", "never kept")
        raise OSError("the service is down")

    monkeypatch.setitem(tools.TOOLS, "quote", fail)
    app = create_app(sqlite_url(tmp_path / "chat.db"), bearer(KEY))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/agent/chat", json=GOOD, headers=headers())
        assert answer.status_code == 500
        assert client.get("/notes", headers=headers()).json() == []
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        kept = connection.execute("SELECT user_id, thread_id, run_id, text FROM messages")
        assert kept.fetchall() == [("ann", "t-1", "r-1", "a word or two")]


def test_notes_are_their_own_user_s(client: Any) -> None:
    for user in ("ann", "bob"):  # the same thread and run, by chance or by guessing
        body = {**GOOD, "message": f"only {user}"}
        answer = client.post("/agent/chat", json=body, headers=headers(user))
        assert len(answer.json()["notes"]) == 3
    for user in ("ann", "bob"):
        notes = client.get("/notes", headers=headers(user)).json()
        assert [n["text"] for n in notes if n["tool"] == "quote"] == [f'"only {user}"']
    assert client.get("/notes", headers=headers("eve")).json() == []


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"authorization": "Bearer nonsense"},
        {"authorization": "Basic YW5uOmFubg=="},
        {"authorization": "Bearer "},
        {"x-user-id": "ann"},
    ],
)
def test_without_a_good_token_nobody_gets_in(client: Any, sent: dict[str, str]) -> None:
    answer = client.post("/agent/chat", json=GOOD, headers=sent)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "www-authenticate" in answer.headers


def test_nor_with_one_that_expired_or_was_signed_by_another(client: Any) -> None:
    from examples.agent_chat.tokens import issue

    expired = headers(seconds=-60)
    foreign = {"authorization": f"Bearer {issue('another key of at least 32 bytes', 'ann')}"}
    for sent in (expired, foreign):
        assert client.get("/notes", headers=sent).status_code == 401


def with_(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD_BODIES = {
    "empty": (b"", 422),
    "no JSON": (b"message=hello", 400),
    "not UTF-8": (b'{"message": "\xff"}', 400),
    "cut off": (with_()[:-1], 400),
    "nested too deep": (b"[" * 16_000, 400),
    "half a surrogate pair": (with_(message="\ud800"), 422),
    "a list": (b"[]", 422),
    "a text": (b'"hello"', 422),
    "null": (b"null", 422),
    "no message": (b'{"thread_id": "t-1", "run_id": "r-1"}', 422),
    "an unknown field": (with_(user_id="bob"), 422),
    "a number as message": (with_(message=1), 422),
    "null as message": (with_(message=None), 422),
    "a blank message": (with_(message=" \n "), 422),
    "a long message": (with_(message="x" * 2_001), 422),
    "a number as thread": (with_(thread_id=7), 422),
    "an empty thread": (with_(thread_id=""), 422),
    "a placeholder as thread": (with_(thread_id="null"), 422),
    "a thread with a line break": (with_(thread_id="t-1\nrole: admin"), 422),
    "a long run": (with_(run_id="r" * 129), 422),
    "a run with markup": (with_(run_id="<script>"), 422),
    "too large": (with_(message="x" * 20_000), 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_input_is_refused_and_nothing_is_written(
    client: Any, tmp_path: Path, name: str
) -> None:
    content, status = BAD_BODIES[name]
    answer = client.post("/agent/chat", content=content, headers=headers())
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert len(answer.json()["detail"]) > 10
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        for table in ("messages", "notes"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_json(client: Any, content_type: str) -> None:
    sent = headers(**{"content-type": content_type})
    answer = client.post("/agent/chat", content=with_(), headers=sent)
    assert answer.status_code == 422  # FastAPI parses nothing else


def test_json_with_a_charset_is_json(client: Any) -> None:
    sent = headers(**{"content-type": "Application/JSON; charset=utf-8"})
    assert client.post("/agent/chat", content=with_(), headers=sent).status_code == 200


def test_other_paths_and_methods(client: Any) -> None:
    assert client.get("/agent/chat", headers=headers()).status_code == 405
    missing = client.get("/nothing-here", headers=headers())
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"


# --- what was said, and who signs in -------------------------------------------------------


def test_what_was_said_can_be_had_again(client: Any) -> None:
    for user, run in (("ann", "r-1"), ("bob", "r-2"), ("ann", "r-3")):
        said = {**GOOD, "run_id": run, "message": f"{user} in {run}"}
        assert client.post("/agent/chat", json=said, headers=headers(user)).status_code == 200
    client.post("/agent/chat", json={**GOOD, "run_id": "r-4", "message": "fail"}, headers=headers())
    found = client.get("/agent/messages", headers=headers()).json()
    assert [(each["run_id"], each["text"]) for each in found] == [
        ("r-1", "ann in r-1"),
        ("r-3", "ann in r-3"),
        ("r-4", "fail"),
    ]
    assert found[0]["answer"] == '3 words; the longest is “ann”. "ann in r-1"'
    assert found[-1]["answer"] is None
    assert client.get("/agent/messages").status_code == 401


def test_a_tool_that_fails_is_the_service_s_affair(client: Any) -> None:
    answer = client.post("/agent/chat", json={**GOOD, "message": "fail"}, headers=headers())
    assert (answer.status_code, answer.json()["detail"]) == (502, "A tool failed.")
    notes = client.get("/notes", headers=headers()).json()
    assert "quote" not in [note["tool"] for note in notes]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from examples.agent_chat.app import create_app
    from examples.agent_chat.database import sqlite_url
    from examples.agent_chat.sign_in import router_of
    from examples.agent_chat.tokens import bearer
    from examples.agent_chat.users import User, Users

    router = router_of(Users(User("ann", "Ann", "a password")), KEY)
    with TestClient(create_app(sqlite_url(tmp_path / "chat.db"), bearer(KEY), router)) as door:
        yield door


def test_signing_in_gives_a_token_that_lets_one_in(door: Any) -> None:
    answer = door.post("/sign-in", json={"user": "ann", "password": "a password"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["user_id"], body["name"], body["seconds"]) == ("ann", "Ann", 3600)
    sent = {"authorization": f"Bearer {body['token']}"}
    assert door.post("/agent/chat", json=GOOD, headers=sent).json()["user_id"] == "ann"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"user": "ann", "password": "another"}, 401),
        ({"user": "eve", "password": "a password"}, 401),
        ({"user": "ann", "password": ""}, 422),
        ({"user": "ann"}, 422),
        ({"user": "ann", "password": ["a password"]}, 422),
        ({"user": "ann", "password": "x" * 129}, 422),
        ({"user": "ann", "password": "a password", "admin": True}, 422),
        ([], 422),
    ],
)
def test_others_do_not_sign_in(door: Any, given: Any, status: int) -> None:
    answer = door.post("/sign-in", json=given)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "token" not in answer.text


def test_two_demo_users_have_passwords_that_nobody_knows_yet() -> None:
    from examples.agent_chat.users import demo_users

    first, second = demo_users(), demo_users()
    assert [each.user_id for each in first] == ["ann", "bob"]
    passwords = {each.password for each in (*first, *second)}
    assert len(passwords) == 4
    assert min(map(len, passwords)) >= 12
    assert first[0].password not in repr(first)


# --- the other ways in ------------------------------------------------------------------------

WORDS = ["You", "said:", "a", "word", "or", "two"]


def test_the_stream_sends_the_answer_word_by_word(client: Any, tmp_path: Path) -> None:
    answer = client.post("/agent/stream", json=GOOD, headers=headers())
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.splitlines() for event in answer.text.strip().split("\n\n")]
    sent = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert sent == [*WORDS, {"run_id": "r-1"}]
    assert [name for name, _ in events] == [*["event: token"] * 6, "event: done"]
    notes = client.get("/notes", headers=headers()).json()
    assert {note["tool"]: note["text"] for note in notes}["answer"] == " ".join(WORDS)
    assert [note["run_id"] for note in notes] == ["r-1"] * 4
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        kept = connection.execute("SELECT user_id, thread_id, run_id, text FROM messages")
        assert kept.fetchall() == [("ann", "t-1", "r-1", "a word or two")]


def test_bad_input_starts_no_stream(client: Any) -> None:
    bad = client.post("/agent/stream", content=with_(message=" "), headers=headers())
    assert (bad.status_code, bad.json()["status"]) == (422, 422)
    assert client.post("/agent/stream", json=GOOD).status_code == 401


def protocols(user: str) -> list[str]:
    return ["ringfence.bearer", headers(user)["authorization"].removeprefix("Bearer ")]


def talk(websocket: Any, **changes: object) -> list[dict[str, Any]]:
    """Say something, and return what comes until that is answered."""
    websocket.send_text(with_(**changes).decode())
    heard = [websocket.receive_json()]
    while "token" in heard[-1]:
        heard.append(websocket.receive_json())
    return heard


def test_two_users_talk_over_websockets(client: Any, tmp_path: Path) -> None:
    with (
        client.websocket_connect("/agent/ws", protocols("ann")) as ann,
        client.websocket_connect("/agent/ws", protocols("bob")) as bob,
    ):
        assert ann.accepted_subprotocol == "ringfence.bearer"
        for user, websocket in (("ann", ann), ("bob", bob), ("ann", ann)):
            heard = talk(websocket, message=f"only {user}")
            assert [frame.get("token") for frame in heard[:-1]] == ["You", "said:", "only", user]
            assert heard[-1] == {"done": "r-1"}
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        said = "SELECT user_id, text FROM notes WHERE tool = 'answer' ORDER BY user_id"
        assert connection.execute(said).fetchall() == [
            ("ann", "You said: only ann"),
            ("ann", "You said: only ann"),
            ("bob", "You said: only bob"),
        ]
        scopes = "SELECT count(DISTINCT request_id) FROM notes"  # of three answers, and nine tools
        assert connection.execute(scopes).fetchone() == (12,)


def test_a_bad_message_is_refused_and_the_next_is_answered(client: Any) -> None:
    with client.websocket_connect("/agent/ws", protocols("ann")) as websocket:
        for bad in ("", "nonsense", "[]", with_(user_id="bob").decode(), with_(run_id="").decode()):
            websocket.send_text(bad)
            assert len(websocket.receive_json()["refused"]) > 10
        websocket.send_bytes(b"\xff")
        assert "refused" in websocket.receive_json()
        assert talk(websocket)[-1] == {"done": "r-1"}
    assert len(client.get("/notes", headers=headers()).json()) == 4


def test_without_a_good_token_no_websocket_opens(client: Any) -> None:
    from starlette.testclient import WebSocketDenialResponse

    for offered in ([], ["ringfence.bearer"], ["ringfence.bearer", "nonsense"]):
        with pytest.raises(WebSocketDenialResponse) as refused:
            with client.websocket_connect("/agent/ws", offered):
                pass
        assert refused.value.status_code == 401


def test_a_job_goes_on_after_its_request(client: Any) -> None:
    path = "/notes/summary"
    client.post("/agent/chat", json=GOOD, headers=headers())
    assert client.get(path, headers=headers()).status_code == 404
    accepted = client.post(path, headers=headers())
    assert accepted.status_code == 202
    for _ in range(100):
        summary = client.get(path, headers=headers())
        if summary.status_code == 200:
            break
        time.sleep(0.02)
    assert summary.json()["request_id"] == accepted.json()["job"]
    assert summary.json()["request_id"] != accepted.headers["x-request-id"]
    assert sorted(summary.json()["text"].split()) == sorted('4 words word "a word or two"'.split())
    assert client.get(path, headers=headers("bob")).status_code == 404


def test_the_page_needs_nobody_and_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "ringfence.bearer" in page.text
    assert not re.search(
        r"//\w|src=|href=\"(?!data:,\")|url\(|@import|innerHTML| on\w+=", page.text
    )
    assert client.get("/agent/chat").status_code == 401


def test_the_policy_allows_the_page_s_own_script_and_no_other(client: Any) -> None:
    page = client.get("/")
    rules = page.headers["content-security-policy"].split("; ")
    policy = {name: set(sources) for name, *sources in map(str.split, rules)}
    for element in ("script", "style"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{element}-src") == {f"'sha256-{digest}'"}
    assert policy == {
        "default-src": {"'none'"},
        "connect-src": {"'self'"},
        "img-src": {"data:"},
        "base-uri": {"'none'"},
        "form-action": {"'none'"},
        "frame-ancestors": {"'none'"},
        "require-trusted-types-for": {"'script'"},
        "trusted-types": {"'none'"},
    }
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"


# --- serving it -------------------------------------------------------------------------------

PORT = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


def test_serving_it_says_how_to_get_a_token(tmp_path: Path) -> None:
    taught = run("-m", "examples.agent_chat", "--help").stdout
    for part in ("POST /agent/chat", "/events", "POST /sign-in", "--agent pydantic-ai", "--pace"):
        assert part in taught
    short = run("-m", "examples.agent_chat", RINGFENCE_EXAMPLE_KEY="short")
    assert short.returncode == 2
    assert "less than 32 bytes" in short.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("--agent", "none"), ("--pace", "fast"), ("--pace", "-1"), ("--pace", "nan")],
)
def test_an_option_that_cannot_be_is_an_error_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    from examples.agent_chat.__main__ import main

    monkeypatch.setattr(sys, "argv", ["agent_chat", option, value])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    ["no address", "unknown://x", "postgresql+psycopg2://x", "sqlite+pysqlite://"],
    ids=["no address", "unknown dialect", "no such driver here", "driver is not async"],
)
def test_a_database_that_it_cannot_use_is_an_error_of_the_command_line(address: str) -> None:
    done = run("-m", "examples.agent_chat", "--database-url", address)
    assert done.returncode == 2
    assert "error: --database-url: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_sigterm_lets_a_stream_and_a_job_end(tmp_path: Path) -> None:
    from examples.agent_chat.tokens import issue
    from examples.agent_chat.wire import Stream, exchange, request

    said = {**GOOD, "message": "word " * 20}
    more = {**GOOD, "message": "word " * 60}  # so that the job outlives the stream
    token = issue(KEY, "ann")
    database = tmp_path / "chat.db"
    arguments = ["-m", "examples.agent_chat", "--port", "0", "--pace", "0.01", "--database-url"]
    server = subprocess.Popen(
        [sys.executable, *arguments, f"sqlite:///{database}"],
        cwd=ROOT,
        env={**PLAIN, "RINGFENCE_EXAMPLE_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    async def stop_at_work() -> list[tuple[str, Any]]:
        assert server.stderr is not None
        port = next(int(found[1]) for line in server.stderr if (found := PORT.search(line)))
        await exchange(port, request("POST", "/agent/chat", token, more))
        await exchange(port, request("POST", "/notes/summary", token))
        stream = await Stream.open(port, request("POST", "/agent/stream", token, said))
        server.send_signal(signal.SIGTERM)
        return [event async for event in stream]

    try:
        events = asyncio.run(asyncio.wait_for(stop_at_work(), 20))
        log = server.communicate(timeout=20)[1]
    finally:
        server.kill()
        server.wait()
    assert events[-1] == ("done", {"run_id": "r-1"})
    assert len(events) == 23
    assert server.returncode in (0, -signal.SIGTERM)
    assert "Finished server process" in log
    assert "Traceback" not in log
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (written,) = connection.execute("SELECT user_id, text FROM summaries")
        assert written[0] == "ann"
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (7,)


def test_making_a_token() -> None:
    module = ("-m", "examples.agent_chat.tokens")
    assert run(*module, "ann").returncode == 1  # no key
    refused = run(*module, "test", RINGFENCE_EXAMPLE_KEY=KEY)
    assert refused.returncode == 1
    assert "placeholder" in refused.stderr
    made = run(*module, "ann", RINGFENCE_EXAMPLE_KEY=KEY)
    assert made.returncode == 0
    assert made.stdout.count(".") == 2
