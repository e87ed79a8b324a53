"""
Over real sockets: uvicorn starts requests in each other's contexts, and nobody is mixed up.

Every attack is tried on a middleware that sets and resets too: there it must succeed. If it does
not any more, uvicorn has been mended, and the test says so.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator

import pytest

from .server import UPGRADE, Wire, request, serve

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

FENCED = ("/ringfence", "/around", "/within")
ROUNDS = 5
BIG = 512 * 1024


@pytest.fixture(
    scope="module",
    params=[(h, loop) for loop in ("asyncio", "uvloop") for h in ("h11", "httptools")],
    ids="-".join,
)
def cell(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    http, loop = request.param
    pytest.importorskip(http)
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with serve(http, loop) as port:
        yield port, loop


def _pipelined(port: int, path: str) -> list[set[str]]:
    with Wire(port) as wire:
        wire.send(request(path, "alice-1"), request(path), request(path, "bob-22"), request(path))
        return [wire.users() for _ in range(4)]


def _after_a_big_body(port: int, path: str) -> list[set[str]]:
    with Wire(port) as wire:
        seen = []
        for each in (
            request(path, "alice-1", BIG), request(path), request(path, "bob-22"), request(path),
        ):  # fmt: skip
            wire.send(each)
            seen.append(wire.users())
        return seen


RIGHT = [{"alice-1"}, {"-"}, {"bob-22"}, {"-"}]
ATTACKS = {"pipelined": _pipelined, "big body": _after_a_big_body}


def _inherited(port: int) -> int:
    with Wire(port) as wire:
        wire.send(request("/counters"))
        counts = wire.answer()[1]
    return sum(n for name, n in counts.items() if name.startswith("inherited_scope"))


def _leaks(attack: str, loop: str) -> bool:
    return attack == "pipelined" or loop == "asyncio"


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("path", FENCED)
def test_everybody_is_who_they_are(cell: tuple[int, str], attack: str, path: str) -> None:
    port, loop = cell
    before = _inherited(port)
    for _ in range(ROUNDS):
        assert ATTACKS[attack](port, path) == RIGHT
    # Around us, BaseHTTPMiddleware answers in a task of its own, from which nothing leaks.
    if _leaks(attack, loop) and (attack, path) != ("pipelined", "/around"):
        assert _inherited(port) > before, "the attack did not reach us"


@pytest.mark.parametrize("attack", ATTACKS)
def test_set_and_reset_is_not_enough(cell: tuple[int, str], attack: str) -> None:
    """The positive control: the same attack, where it succeeds."""
    port, loop = cell
    if not _leaks(attack, loop):
        pytest.skip("uvicorn on uvloop does not leak here")
    seen = [ATTACKS[attack](port, "/naive") for _ in range(ROUNDS)]
    assert all("alice-1" in users for _, users, *_ in seen), "uvicorn does not leak any more"


def test_where_a_user_is_required_nobody_borrows_one(cell: tuple[int, str]) -> None:
    port, _ = cell
    with Wire(port) as wire:
        wire.send(request("/required", "alice-1"), request("/required"))
        assert wire.users() == {"alice-1"}
        status, problem = wire.answer()
    assert (status, problem["type"]) == (401, "urn:ringfence:error:RF101")


@pytest.mark.parametrize("path", FENCED)
def test_many_users_at_once(cell: tuple[int, str], path: str) -> None:
    port, _ = cell

    def client(number: int) -> list[bool]:
        right = []
        with Wire(port) as wire:
            for turn in range(10):
                user = None if turn % 3 == 2 else f"user-{number}-{turn}"
                wire.send(request(path, user, BIG // 4 if turn % 5 == 4 else 0))
                right.append(wire.users() == {user or "-"})
        return right

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        right = [each for answers in pool.map(client, range(16)) for each in answers]
    assert len(right) == 160
    assert all(right)


def _upgraded(port: int, path: str, user: str | None) -> bytes:
    """What a WebSocket hears that is opened on alice's connection after her big body."""
    with Wire(port) as wire:
        wire.send(request(path, "alice-1", BIG))
        assert wire.users() == {"alice-1"}
        wire.send(request(path, user, extra=UPGRADE))
        status, headers = wire.head()
        assert status == 101
        if path != "/naive":
            assert "x-request-id" in headers
        length = wire.read(2)[1]
        return wire.read(length)


def test_a_websocket_inherits_nobody(cell: tuple[int, str]) -> None:
    port, loop = cell
    assert _upgraded(port, "/ringfence", "bob-22") == b"bob-22"
    assert _upgraded(port, "/ringfence", None) == b"-"
    if loop == "asyncio":
        assert _upgraded(port, "/naive", None) == b"alice-1", "uvicorn does not leak any more"


def test_a_websocket_is_denied_before_it_is_accepted(cell: tuple[int, str]) -> None:
    port, _ = cell
    with Wire(port) as wire:
        wire.send(request("/required", extra=UPGRADE))
        status, headers = wire.head()
    assert status == 401
    assert headers["content-type"] == "application/problem+json"


def test_a_client_that_leaves_is_noticed(cell: tuple[int, str]) -> None:
    port, _ = cell
    with Wire(port) as wire:
        wire.send(request("/stream", "alice-1"))
        assert wire.head()[0] == 200
        assert b"alice-1" in wire.read(20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with Wire(port) as wire:
            wire.send(request("/counters"))
            if wire.answer()[1].get("request.client_disconnect"):
                return
        time.sleep(0.05)
    pytest.fail("nobody noticed")
