"""`each_message`: every message of a WebSocket in a scope and with a session of its own."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from starlette.websockets import WebSocket

from ringfence import (
    Identity,
    RequestScope,
    Ringfence,
    counters,
    current_context,
    current_scope,
    user_context,
)
from ringfence.integrations import _messages
from ringfence.integrations.starlette import UserContextMiddleware, each_message

from .asgi_driver import Answer, call, ok
from .notes import Note, bodies, checked_out, fence_for, notes_engine

ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
BYE = {"type": "websocket.disconnect", "code": 1000}
LEFT = {"type": "websocket.disconnect", "code": 1006}


def said(content: str | bytes) -> dict[str, Any]:
    return {"type": "websocket.receive", "text" if isinstance(content, str) else "bytes": content}


def serving(
    handle: Any, fence: Ringfence | None = None, seconds: float | None = None, **options: Any
) -> UserContextMiddleware:
    """An application that hands `handle` a WebSocket and each of its messages."""

    def identify(connection: Any) -> Identity | None:
        user = connection.headers.get("x-user")
        return None if user is None else Identity(user, expires_at=in_seconds(seconds))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)

        async def own(message: Any) -> None:
            await handle(websocket, message)

        await each_message(websocket, own)

    return UserContextMiddleware(
        app, **{"fence": fence or Ringfence(), "identify": identify, **options}
    )


def in_seconds(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


async def talk(app: Any, *contents: str | bytes, bye: Any = BYE, **options: Any) -> Answer:
    incoming = [said(content) for content in contents]
    options = {"type": "websocket", "user": "alice-1", **options}
    return await call(app, incoming=incoming if bye is None else [*incoming, bye], **options)


def answers(answer: Answer) -> list[str]:
    return [m["text"] for m in answer.messages if m["type"] == "websocket.send"]


async def test_each_message_has_a_child_scope_of_its_own() -> None:
    scopes: list[RequestScope] = []
    ended: list[Any] = []

    async def handle(websocket: WebSocket, message: Any) -> None:
        scope = current_scope()
        assert scope.context.operation_depth == 1
        assert scope.parent is websocket.scope["ringfence"]
        assert scope.parent.children == (scope,)
        scopes.append(scope)
        scope.callback(ended.append, message)
        assert len(ended) == len(scopes) - 1  # the one before has ended, clean-up included
        await websocket.send_text(f"{current_context().user_id} {message!r}")

    answer = await talk(serving(handle), "one", b"two", "")
    assert answers(answer) == ["alice-1 'one'", "alice-1 b'two'", "alice-1 ''"]
    assert ended == ["one", b"two", ""]
    assert len({scope.request_id for scope in scopes}) == 3
    assert {scope.state for scope in scopes} == {"closed"}
    assert not any(scope.is_parent_closed for scope in scopes)
    assert answer.messages[0]["type"] == "websocket.accept"
    assert answer.outcome == "completed"
    assert answer.error is None


async def test_connections_are_not_mixed_up() -> None:
    async def handle(websocket: WebSocket, message: Any) -> None:
        for _ in range(3):
            await anyio.sleep(0)
        await websocket.send_text(current_context().user_id)

    app, heard = serving(handle), dict[str, list[str]]()

    async def client(user: str) -> None:
        heard[user] = answers(await talk(app, *"abc", user=user))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(client, f"user-{number}")
    assert heard == {user: [user] * 3 for user in heard}
    assert len(heard) == 20


async def test_a_connection_that_was_accepted_is_not_accepted_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept("chat")
        await each_message(websocket, websocket.send_text)

    fenced = UserContextMiddleware(
        app, fence=Ringfence(), identify=lambda connection: Identity("alice-1")
    )
    answer = await talk(fenced, "x")
    assert [message["type"] for message in answer.messages] == [
        "websocket.accept", "websocket.send",
    ]  # fmt: skip
    assert answer.messages[0]["subprotocol"] == "chat"


# --- sessions ---------------------------------------------------------------------------------


@ASYNCIO
async def test_each_message_has_a_fresh_session_that_is_committed_when_it_ends(
    tmp_path: Path,
) -> None:
    async with notes_engine(tmp_path) as engine:
        sessions: list[Any] = []

        async def handle(websocket: WebSocket, message: str) -> None:
            assert checked_out(engine) == 0
            session = current_context().db_session
            sessions.append(session)
            session.add(Note(body=message))
            await session.flush()
            if message == "bad":
                raise ValueError(message)

        answer = await talk(serving(handle, fence_for(engine)), "three", "four", "bad", "five")
        assert isinstance(answer.error, ValueError)  # what is not caught ends the connection
        assert answer.outcome == "error"
        assert len({id(session) for session in sessions}) == 3
        assert await bodies(engine) == ["one", "two", "three", "four"]
        assert checked_out(engine) == 0


@ASYNCIO
async def test_between_messages_no_connection_is_held(tmp_path: Path) -> None:
    async with notes_engine(tmp_path, pool_size=1, max_overflow=0, pool_timeout=1) as engine:

        async def handle(websocket: WebSocket, message: str) -> None:
            await current_context().db_session.execute(text("SELECT 1"))
            await websocket.send_text("ok")

        app, heard = serving(handle, fence_for(engine)), list[str]()

        async def client() -> None:
            heard.extend(answers(await talk(app, *"abcd")))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client)
        assert heard == ["ok"] * 20  # five connections, one of the database


# --- expiry -----------------------------------------------------------------------------------


async def test_an_expired_identity_is_asked_at_each_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handled: list[str] = []
    left = 60.0

    async def handle(websocket: WebSocket, message: str) -> None:
        nonlocal left
        handled.append(message)
        if message == "two":
            left = 0.0

    monkeypatch.setattr(_messages, "_seconds_until", lambda time: left)
    answer = await talk(serving(handle, seconds=60), "one", "two", "three", bye=None)
    assert handled == ["one", "two"]
    assert answer.messages[-1] == {
        "type": "websocket.close", "code": 4401, "reason": "Unauthorized",
    }  # fmt: skip
    assert counters.value("refused.RF101") == 1
    assert (answer.error, answer.outcome) == (None, "completed")


async def test_a_message_that_comes_as_the_identity_expires_is_not_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last moment: there was time left when the waiting began, and none when it ended."""
    handled: list[str] = []
    left = iter([60.0, 0.0])

    async def handle(websocket: WebSocket, message: str) -> None:
        handled.append(message)

    monkeypatch.setattr(_messages, "_seconds_until", lambda time: next(left))
    answer = await talk(serving(handle, seconds=60), "one", bye=None)
    assert (handled, answer.messages[-1]["code"]) == ([], 4401)


async def test_an_idle_connection_is_closed_when_the_identity_expires() -> None:
    async def handle(websocket: WebSocket, message: str) -> None:
        await websocket.send_text(message)

    with anyio.fail_after(5):
        answer = await talk(serving(handle, seconds=0.2), "one", bye=None)
    assert answers(answer) == ["one"]
    assert answer.messages[-1]["code"] == 4401


async def test_a_distant_expiry_does_not_matter() -> None:
    async def handle(websocket: WebSocket, message: str) -> None:
        await websocket.send_text(message)

    answer = await talk(serving(handle, seconds=3e9), "one")
    assert answers(answer) == ["one"]
    assert answer.outcome == "completed"


# --- endings ----------------------------------------------------------------------------------


async def test_how_a_connection_ended() -> None:
    async def handle(websocket: WebSocket, message: str) -> None: ...

    assert (await talk(serving(handle), "x")).outcome == "completed"
    assert (await talk(serving(handle), "x", bye=LEFT)).outcome == "client_disconnect"


async def test_a_client_that_left_while_it_was_answered_is_no_error() -> None:
    scopes: list[RequestScope] = []

    async def handle(websocket: WebSocket, message: str) -> None:
        scopes.append(current_scope())
        await websocket.send_text(message)

    def gone(message: Any) -> BaseException | None:
        return OSError("gone") if message["type"] == "websocket.send" else None

    answer = await talk(serving(handle), "x", "y", send_error=gone)
    assert (answer.error, answer.outcome) == (None, "client_disconnect")
    assert [(scope.state, scope.ended_well) for scope in scopes] == [("closed", False)]


async def test_a_handler_may_close() -> None:
    async def handle(websocket: WebSocket, message: str) -> None:
        await websocket.close(4000)

    with anyio.fail_after(5):
        answer = await talk(serving(handle), "x", "y", bye=None)
    assert answer.messages[-1]["code"] == 4000
    assert (answer.error, answer.outcome) == (None, "completed")


async def test_cancelled_while_it_handles_a_message_it_cleans_up() -> None:
    ended: list[str] = []
    begun = anyio.Event()

    async def handle(websocket: WebSocket, message: str) -> None:
        current_scope().callback(ended.append, message)
        begun.set()
        await anyio.sleep_forever()

    answer = await talk(serving(handle), "x", cancel_on=begun)
    assert (ended, answer.outcome) == (["x"], "cancelled")


async def test_nobody_is_refused_before_the_connection_is_accepted() -> None:
    async def handle(websocket: WebSocket, message: str) -> None:
        raise RuntimeError("it was called")

    answer = await ok(
        serving(handle, required=False), type="websocket",
        extensions={"websocket.http.response": {}}, incoming=[said("x"), BYE],
    )  # fmt: skip
    assert answer.status == 401


async def test_it_needs_a_scope_and_no_middleware() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with user_context("alice-1", expires_at=in_seconds(0.1)):

            async def handle(message: str) -> None:
                heard.append(current_context().user_id)

            await each_message(WebSocket(scope, receive, send), handle)

    answer = await talk(app, "x", bye=None)
    assert heard == ["alice-1"]
    assert answer.messages[-1]["code"] == 4401
