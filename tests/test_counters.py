"""Counters: what happened, by name, from any thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from ringfence import NoContextError, counters, current_context


def test_what_never_happened_is_zero() -> None:
    assert counters.value("never") == 0
    assert counters.snapshot() == {}


def test_it_adds_up() -> None:
    counters.count("a.b")
    counters.count("a.b")
    counters.count("a.b", 40)
    assert counters.value("a.b") == 42


def test_a_snapshot_is_sorted_and_apart() -> None:
    counters.count("b")
    counters.count("a", 2)
    taken = counters.snapshot()
    assert list(taken.items()) == [("a", 2), ("b", 1)]
    taken["a"] = 99
    counters.count("a")
    assert counters.value("a") == 3
    assert taken["a"] == 99


def test_reset_forgets() -> None:
    counters.count("a")
    counters.reset()
    assert counters.value("a") == 0


def test_what_the_collector_calls_may_count_too() -> None:
    """A refused `__del__`, mostly: it would wait for ever for the thread that it runs in."""

    def work() -> None:
        with counters._lock:
            counters.count("a")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert counters.value("a") == 1


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
def test_no_count_is_lost_between_threads() -> None:
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(5000):
            counters.count("n")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.value("n") == 40_000


def test_a_refusal_is_counted_by_its_code() -> None:
    for _ in range(3):
        with pytest.raises(NoContextError):
            current_context()
    assert counters.value("refused.RF101") == 3
