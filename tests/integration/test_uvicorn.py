"""Beyond the matrix: other middlewares around us, refusals on the wire, many users at once."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("aiosqlite")

from .cells import SERVING, judge
from .options import Configuration
from .servers import Served, serve
from .wire import UPGRADE, request

FENCED = ("fenced", "around", "within")
BIG = 128 * 1024


@pytest.fixture(
    scope="module",
    params=[(h, loop) for loop in ("asyncio", "uvloop") for h in ("h11", "httptools")],
    ids="-".join,
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    http, loop = request.param
    configuration = Configuration("uvicorn", loop, http)
    if configuration.missing:
        pytest.skip(f"{', '.join(configuration.missing)} is not installed")
    with serve(configuration) as served:
        yield served


def _inherited(served: Served) -> int:
    counts = served.state()["counters"]
    return sum(n for name, n in counts.items() if name.startswith("inherited_scope"))


@pytest.mark.parametrize("attack", ["pipelined", "big body"])
@pytest.mark.parametrize("way", FENCED)
def test_everybody_is_who_they_are(served: Served, attack: str, way: str) -> None:
    before = _inherited(served)
    verdict = judge(served, SERVING[attack](served, way))
    assert verdict.faults == set()
    leaks = attack == "pipelined" or served.configuration.loop == "asyncio"
    # Around us, BaseHTTPMiddleware answers in a task of its own, from which nothing leaks.
    if leaks and (attack, way) != ("pipelined", "around"):
        assert _inherited(served) > before, "the attack did not reach us"


def test_where_a_user_is_required_nobody_borrows_one(served: Served) -> None:
    with served.wire() as wire:
        wire.send(request("/required/who", "alice-1"), request("/required/who"))
        assert wire.users() == {"alice-1"}
        status, problem = wire.answer()
    assert (status, problem["type"]) == (401, "urn:ringfence:error:RF101")


@pytest.mark.parametrize("way", FENCED)
def test_many_users_at_once(served: Served, way: str) -> None:
    def client(number: int) -> list[bool]:
        right = []
        with served.wire() as wire:
            for turn in range(10):
                user = None if turn % 3 == 2 else f"user-{number}-{turn}"
                wire.send(request(f"/{way}/who", user, BIG if turn % 5 == 4 else 0))
                right.append(wire.users() == {user or "-"})
        return right

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        right = [each for answers in pool.map(client, range(16)) for each in answers]
    assert len(right) == 160
    assert all(right)


def test_a_websocket_has_a_request_id(served: Served) -> None:
    with served.wire() as wire:
        assert "x-request-id" in wire.upgrade("/fenced/who", "alice-1")


def test_a_websocket_is_denied_before_it_is_accepted(served: Served) -> None:
    with served.wire() as wire:
        wire.send(request("/required/who", extra=UPGRADE))
        status, headers = wire.head()
    assert status == 401
    assert headers["content-type"] == "application/problem+json"
