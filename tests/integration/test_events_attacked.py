"""What clients may send to the endpoints for events: refused, or of bounded cost."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ringfence.state import open_roots

from .test_events import (
    HOST,
    PATIENCE,
    UPGRADE,
    WS,
    Served,
    events,
    exceptions,
    open_sockets,
    serve,
    until,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:websockets:DeprecationWarning",
    "ignore:remove second argument:DeprecationWarning",
    "ignore:The `websockets` implementation is deprecated",
)


@pytest.fixture(scope="module", params=WS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serve(request.param) as (served, _):
        yield served


@pytest.fixture(autouse=True)
def _idle(served: Served) -> Iterator[None]:
    """Each test leaves when its requests have: the server outlives it."""
    yield
    assert until(lambda: not open_roots())


def answer(served: Served, path: str, *headers: str, user: str = "bob") -> tuple[int, Any]:
    """The status of an answer, and its problem or the first bytes of its stream."""
    with served.open_raw(user, path, *headers) as wire, wire.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        length = 0
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, json.loads(reader.read(length)) if length else None


NO_IDS = [
    "9" * 400, "0123456789abcdef-" + "9" * 16, "0123456789abcdef-" + "9" * 5000,
    "0123456789abcdef-%D9%A1", "0123456789abcdef-%EF%BC%91", "0123456789abcdef-1%00",
    "0123456789abcdef-1%0A", "0123456789abcdef-1%0D%0Aid:%202", "0123456789ABCDEF-1", "-1", "%00",
    "0123456789abcdef-01", "0123456789abcdef--1", "0123456789abcdef-1e5", "%F0%9F%92%A9", "%FF%FE",
    "'%20OR%201=1", "%24", "0-0", "[[[[" * 500,
]  # fmt: skip


@pytest.mark.parametrize("transport", ["socket", "stream"])
@pytest.mark.parametrize("text", NO_IDS, ids=range(len(NO_IDS)))
def test_what_is_no_id_of_an_event_is_refused(served: Served, transport: str, text: str) -> None:
    more = UPGRADE if transport == "socket" else ()
    status, problem = answer(served, f"/{transport}?last_event_id={text}", *more)
    assert (status, problem["type"]) == (400, "urn:ringfence:error:RF701")
    assert len(text) < 8 or text not in json.dumps(problem)  # shorter ones are in a UUID
    assert not served.hub._subscriptions


@pytest.mark.parametrize("transport", ["socket", "stream"])
@pytest.mark.parametrize("text", ["a%20b", "%00", "x" * 500, "undefined", "a%0Ab", "%D0%B0nn"])
def test_what_is_no_id_of_a_connection_is_refused(
    served: Served, transport: str, text: str
) -> None:
    more = UPGRADE if transport == "socket" else ()
    status, problem = answer(served, f"/{transport}?client_id={text}", *more)
    assert status == 400
    assert problem["type"] in ("urn:ringfence:error:RF701", "urn:ringfence:error:RF703")


def test_of_many_ids_one_counts(served: Served) -> None:
    """Whichever it is, it is one of this user's own log."""
    many = "&".join(f"last_event_id={number:016x}-1" for number in range(50))
    with served.connect("bob", many) as bob:
        assert json.loads(bob.recv(PATIENCE))["kind"] == "ready"
        assert json.loads(bob.recv(PATIENCE))["data"] == {"reason": "epoch"}


FORGED = [
    "user_id=ann", "user=ann&x-user=ann", "thread_id=t-ann", "client_id=tab-of-ann", "channel=ann",
    "tenant_id=acme", "room=ann", "last_event_id={ann}",
]  # fmt: skip


@pytest.mark.parametrize("query", FORGED)
def test_a_forged_id_shows_nothing_of_another_user(served: Served, query: str) -> None:
    with served.connect("ann", "client_id=tab-of-ann") as ann:
        ann_s = json.loads(ann.recv(PATIENCE))["id"]
        with served.connect("bob", query.replace("{ann}", ann_s)) as bob:
            bob.recv(PATIENCE)
            served.emit("ann", 1, 3)
            assert [each["data"]["n"] for each in events(ann, 3)] == [1, 2, 3]
            served.emit("bob", 100, 1)
            assert [each["data"]["n"] for each in events(bob, 1)] == [100]


NESTED = "[" * 500_000
FRAMES: list[tuple[str, str | bytes, int]] = [
    ("subscribe", '{"type":"subscribe","user_id":"ann","thread_id":"t-ann"}', 1008),
    ("resume", '{"resume":"0123456789abcdef-1"}', 1008),
    ("nested", NESTED, 1009),
    ("large", "x" * 900_000, 1009),
    ("binary", b"\x00\xff" * 8, 1003),
    ("large binary", b"\xff" * 900_000, 1003),
    ("beyond the server's own limit", "x" * (17 * 1024 * 1024), 1009),
    ("nothing", "", 1008),
]


@pytest.mark.parametrize(
    ("frame", "code"), [each[1:] for each in FRAMES], ids=[f[0] for f in FRAMES]
)
def test_a_frame_closes_its_own_connection_alone(
    served: Served, frame: str | bytes, code: int
) -> None:
    with served.connect("ann") as ann, served.connect("ann") as other:
        ann.recv(PATIENCE), other.recv(PATIENCE)
        with contextlib.suppress(exceptions.ConnectionClosed):
            ann.send(frame)
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            ann.recv(PATIENCE)
        got = closed.value.rcvd
        assert got is None or got.code == code, got
        served.emit("ann", 7, 1)
        assert [each["data"]["n"] for each in events(other, 1)] == [7]
    assert until(lambda: not served.hub._subscriptions)


def test_a_request_that_is_never_finished_takes_no_place(served: Served) -> None:
    """As many as one likes: who they are is not known yet, and no subscription is open."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            wire = stack.enter_context(socket.create_connection((HOST, served.port), PATIENCE))
            wire.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\nx-user: ann\r\n")
        time.sleep(0.2)
        assert not served.hub._subscriptions
        with served.connect("ann") as ann:
            ann.recv(PATIENCE)
            served.emit("ann", 1, 1)
            assert events(ann, 1)[0]["data"]["n"] == 1


def test_one_user_who_takes_all_places_takes_them_from_nobody_else(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(served.connect("ann")).recv(PATIENCE)
        assert answer(served, "/stream", user="ann")[0] == 429
        assert answer(served, "/socket", *UPGRADE, user="ann")[0] == 429
        with served.connect("bob") as bob:
            bob.recv(PATIENCE)
    assert until(lambda: not served.hub._subscriptions)


def test_who_reads_a_byte_at_a_time_is_cut_off(served: Served) -> None:
    """It takes something now and then, and never a whole message in time."""
    sockets = open_sockets()
    with served.open_raw("ann", "/stream") as slow:
        assert until(lambda: len(served.hub._subscriptions) == 1)
        served.emit("ann", 0, 300, 50_000)
        began = time.monotonic()
        while served.hub._subscriptions and time.monotonic() - began < PATIENCE:
            slow.recv(1)
            time.sleep(0.05)
        assert not served.hub._subscriptions
        assert until(lambda: open_sockets() == sockets + 1)


ORIGINS = [
    ("null", False), ("", False), ("HTTP://{host}", True), ("http://{HOST}", True),
    ("http://{host}.evil.example", False), ("http://evil.example", False),
    ("http://127.0.0.1", False), ("http://127.0.0.1:1", False), ("file://", False),
    ("http://{host}/", False), ("http://{host}#", False),
    ("//{host}", False), ("http://{host}, http://evil.example", False),
]  # fmt: skip


@pytest.mark.parametrize("transport", ["socket", "stream"])
@pytest.mark.parametrize(("origin", "may"), ORIGINS)
def test_origins(served: Served, transport: str, origin: str, may: bool) -> None:
    host = f"{HOST}:{served.port}"
    origin = origin.format(host=host, HOST=host.upper())
    more = UPGRADE if transport == "socket" else ()
    status, _ = answer(served, f"/{transport}", f"origin: {origin}", *more)
    assert status == ({"socket": 101, "stream": 200}[transport] if may else 403)
    assert until(lambda: not served.hub._subscriptions)
