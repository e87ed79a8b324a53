"""Records of runs: bounded of each user and in all, and gone when users are."""

from __future__ import annotations

import datetime as dt
import gc
import json
import time
import tracemalloc
from typing import Any

import pytest

from ringfence import Ringfence, user_context
from ringfence.agents import AgentRegistry, RunRecord
from ringfence.agents.records import Recent, result_text
from ringfence.events import UserKey
from ringfence.records import json_ready

ANN, BOB = UserKey(None, "ann"), UserKey(None, "bob")


def record(name: str) -> RunRecord:
    return RunRecord(name, "r-1", None, 1, dt.datetime.now(dt.UTC), "completed")


def names(recent: Recent, user: UserKey) -> list[str]:
    return [each.name for each in recent.of(user)]


def test_the_latest_come_first_and_the_oldest_go() -> None:
    recent = Recent(3, 100, 60)
    for name in "abcde":
        recent.add(ANN, record(name))
    assert names(recent, ANN) == ["e", "d", "c"]
    assert names(recent, BOB) == []


def test_in_all_it_is_bounded_and_whoever_ran_least_lately_is_forgotten() -> None:
    recent = Recent(3, 5, 60)
    for user in (ANN, BOB):
        for name in "ab":
            recent.add(user, record(name))
    recent.add(ANN, record("c"))
    recent.add(UserKey(None, "eve"), record("x"))
    assert names(recent, BOB) == []
    assert names(recent, ANN) == ["c", "b", "a"]
    assert recent._count == 4


def test_who_does_not_come_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent(3, 100, 60)
    recent.add(ANN, record("a"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 59)
    assert names(recent, ANN) == ["a"]
    recent.add(BOB, record("b"))
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert names(recent, BOB) == ["b"]
    assert recent._users.keys() == {BOB}
    assert recent._count == 1


def test_the_count_is_right_whatever_comes() -> None:
    recent = Recent(2, 7, 60)
    for number in range(200):
        recent.add(UserKey(None, f"u-{number * number % 11}"), record("a"))
        assert recent._count == sum(len(kept.records) for kept in recent._users.values()) <= 7


def test_none_may_be_kept() -> None:
    recent = Recent(0, 5, 60)
    recent.add(ANN, record("a"))
    assert recent._users == {}


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        (None, None),
        (17, 17),
        ({"at": (1, 2)}, {"at": [1, 2]}),
        ({"password": "hunter2"}, {"password": "[redacted]"}),
        (object(), "<object>"),
        ("x" * 98, "x" * 98),
        ("x" * 99, None),
        ("\u00e9" * 17, None),  # as it is written
    ],
)
def test_what_is_kept_of_a_result(result: Any, kept: Any) -> None:
    text = result_text(result, 100)
    made = record("a").ended("completed", 1.0, None, text)
    assert made.result == kept


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "result",
    [
        "x" * 10_000_000,
        ["x" * 10_000_000],
        [{"id": number} for number in range(100_000)],
        dict.fromkeys(range(100_000)),
        {"rows": [(number,) for number in range(100_000)]},
        [[[]] * 100_000],
    ],
    ids=["text", "text in a list", "rows", "keys", "tuples", "empty ones"],
)
def test_a_result_that_is_too_large_is_not_written_out(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is found out in the time of what may be kept, in the event loop of everybody."""
    written: list[int] = []
    monkeypatch.setattr("ringfence.agents.records.json_ready", lambda _: written.append(1))
    assert result_text(result, 4096) is None
    assert not written


@pytest.mark.parametrize("room", [0, 1, 20, 21, 4096])
@pytest.mark.parametrize(
    "result", [1, True, "", [], {}, [1, [2]], {"a": "\u00e9"}, ["x" * 17], {1: [None] * 5}, CYCLE]
)
def test_no_result_is_thought_larger_than_it_is(result: Any, room: int) -> None:
    text = json.dumps(json_ready(result))
    assert result_text(result, room) == (text if len(text) <= room else None)


async def test_two_who_read_a_result_share_nothing() -> None:
    registry = AgentRegistry()
    mine = {"words": ["a"]}

    @registry.agent("echo")
    async def echo() -> Any:
        return mine

    async with user_context("ann"):
        assert await registry.run("echo") is mine
        mine["words"].append("b")
        (found,) = registry.recent()
        assert found.result == {"words": ["a"]}
        found.result["words"].append("c")
        assert found.result == {"words": ["a"]}
        with pytest.raises(AttributeError):
            found.state = "running"  # type: ignore[misc]


async def test_users_who_come_and_go_leave_nothing_but_bounded_records() -> None:
    """Three thousand users, of whom two hundred records are kept."""
    registry = AgentRegistry(max_recent=200)

    @registry.agent("echo")
    async def echo() -> str:
        return "done"

    async def serve(first: int, count: int) -> None:
        for number in range(first, first + count):
            async with Ringfence().user_context(f"user-{number}"):
                await registry.run("echo")

    await serve(0, 500)
    gc.collect()
    tracemalloc.start()
    await serve(500, 500)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    await serve(1_000, 2_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 500_000  # ids are made in pools; 1,000 bytes of each user would be 2,000,000
    assert len(registry._recent._users) == 200
    assert registry._running == {}
    assert registry._places._taken == {}
