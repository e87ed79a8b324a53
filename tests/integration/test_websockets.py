"""`each_message` over real sockets: uvicorn with each of its WebSocket implementations."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .server import HOST, UPGRADE, Wire, request, serve

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")


@pytest.fixture(scope="module", params=["websockets", "websockets-sansio", "wsproto"])
def ws(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param.partition("-")[0])
    return str(request.param)


@pytest.fixture(scope="module")
def port(ws: str) -> Iterator[int]:
    with serve("h11", "asyncio", ws) as port:
        yield port


def connect(port: int, user: str = "alice-1", **headers: str) -> Any:
    return client.connect(
        f"ws://{HOST}:{port}/messages", additional_headers={"x-user": user, **headers}
    )


def counts(port: int) -> dict[str, int]:
    with Wire(port) as wire:
        wire.send(request("/counters"))
        found: dict[str, int] = wire.answer()[1]
        return found


def eventually(port: int, name: str, before: dict[str, int], more: int = 1) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if counts(port).get(name, 0) >= before.get(name, 0) + more:
            return
        time.sleep(0.02)
    pytest.fail(f"{name}: {counts(port)}")


def test_each_message_is_its_user_s(port: int) -> None:
    before = counts(port)

    def chat(number: int) -> bool:
        user = f"user-{number}"
        with connect(port, user) as websocket:
            for turn in range(10):
                websocket.send(f"{turn}")
                if websocket.recv(10) != f"{user} 1 {turn}":
                    return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(chat, range(16))) == [True] * 16
    eventually(port, "request.completed", before, 16)
    assert counts(port).get("test.cleaned_up", 0) == before.get("test.cleaned_up", 0) + 160


def test_an_expired_identity_closes_the_connection(port: int) -> None:
    with connect(port, **{"x-seconds": "0.5"}) as websocket:
        websocket.send("one")
        assert websocket.recv(10) == "alice-1 1 one"
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            websocket.recv(10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "Unauthorized")


def test_a_client_that_is_gone_while_it_is_pushed_to(port: int) -> None:
    """Reset, as when a cable is pulled: the message's clean-up runs, and it was no error."""
    before = counts(port)
    with Wire(port) as wire:
        wire.send(request("/messages", "alice-1", extra=UPGRADE))
        assert wire.head()[0] == 101
        wire.send(b"\x81\x84\0\0\0\0push")
        assert b"alice-1 1 push" in wire.read(40)
        wire.reset()
    eventually(port, "request.client_disconnect", before)
    eventually(port, "test.cleaned_up", before)
    assert counts(port).get("request.error", 0) == before.get("request.error", 0)


def test_a_client_that_is_gone_while_it_is_waited_for(port: int, ws: str) -> None:
    before = counts(port)
    with Wire(port) as wire:
        wire.send(request("/messages", "alice-1", extra=UPGRADE))
        assert wire.head()[0] == 101
        wire.send(b"\x81\x83\0\0\0\0one")
        assert b"alice-1 1 one" in wire.read(15)
        wire.reset()
    # uvicorn's other two say 1005 of a lost connection, as of a browser's `close()`.
    outcome = "client_disconnect" if ws == "websockets" else "completed"
    eventually(port, f"request.{outcome}", before)
    eventually(port, "test.cleaned_up", before)
    assert counts(port).get("request.error", 0) == before.get("request.error", 0)
