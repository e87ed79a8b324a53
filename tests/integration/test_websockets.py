"""`each_message` over real sockets: uvicorn with each of its WebSocket implementations."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("aiosqlite")
client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

from .options import Configuration  # noqa: E402
from .servers import Served, serve, until  # noqa: E402
from .wire import HOST, text_frame  # noqa: E402


@pytest.fixture(scope="module", params=["websockets", "websockets-sansio", "wsproto"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    configuration = Configuration("uvicorn", ws=request.param)
    if configuration.missing:
        pytest.skip(f"{', '.join(configuration.missing)} is not installed")
    with serve(configuration) as served:
        yield served


def connect(served: Served, user: str = "alice-1", **headers: str) -> Any:
    return client.connect(
        f"ws://{HOST}:{served.port}/required/messages",
        additional_headers={"x-user": user, **headers},
    )


def counts(served: Served) -> dict[str, int]:
    found: dict[str, int] = served.state()["counters"]
    return found


def eventually(served: Served, name: str, before: dict[str, int], more: int = 1) -> None:
    expected = before.get(name, 0) + more
    assert until(lambda: counts(served).get(name, 0) >= expected), (name, counts(served))


def test_each_message_is_its_user_s(served: Served) -> None:
    before = counts(served)

    def chat(number: int) -> bool:
        user = f"user-{number}"
        with connect(served, user) as websocket:
            for turn in range(10):
                websocket.send(f"{turn}")
                if websocket.recv(10) != f"{user} 1 {turn}":
                    return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(chat, range(16))) == [True] * 16
    eventually(served, "request.completed", before, 16)
    assert counts(served).get("test.cleaned_up", 0) == before.get("test.cleaned_up", 0) + 160


def test_an_expired_identity_closes_the_connection(served: Served) -> None:
    with connect(served, **{"x-seconds": "0.5"}) as websocket:
        websocket.send("one")
        assert websocket.recv(10) == "alice-1 1 one"
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            websocket.recv(10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "Unauthorized")


def test_a_client_that_is_gone_while_it_is_pushed_to(served: Served) -> None:
    """Reset, as when a cable is pulled: the message's clean-up runs, and it was no error."""
    before = counts(served)
    with served.wire() as wire:
        wire.upgrade("/required/messages", "alice-1")
        wire.send(text_frame("push"))
        assert wire.message() == "alice-1 1 push"
        wire.reset()
    eventually(served, "request.client_disconnect", before)
    eventually(served, "test.cleaned_up", before)
    assert counts(served).get("request.error", 0) == before.get("request.error", 0)


def test_a_client_that_is_gone_while_it_is_waited_for(served: Served) -> None:
    before = counts(served)
    with served.wire() as wire:
        wire.upgrade("/required/messages", "alice-1")
        wire.send(text_frame("one"))
        assert wire.message() == "alice-1 1 one"
        wire.reset()
    # uvicorn's other two say 1005 of a lost connection, as of a browser's `close()`.
    is_told = served.configuration.ws == "websockets"
    eventually(served, f"request.{'client_disconnect' if is_told else 'completed'}", before)
    eventually(served, "test.cleaned_up", before)
    assert counts(served).get("request.error", 0) == before.get("request.error", 0)
