"""Named counters of what happened: every refusal, every fault, every clean-up that went wrong."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

__all__ = ["count", "reset", "snapshot", "ticker", "value"]

_lock = threading.RLock()  # what the collector calls may count, too
_counts: dict[str, int] = {}
_tickers: dict[str, itertools.count[int]] = {}
_forgotten: dict[str, int] = {}  # how far each ticker had come when all was reset


def count(name: str, times: int = 1) -> None:
    """
    Add to a counter; safe from any thread.

    Names are dotted: `refused.RF101`, `inherited_scope.open`, `finaliser.timeout`.
    They live as long as the process.
    """
    with _lock:
        _counts[name] = _counts.get(name, 0) + times


def ticker(name: str) -> Callable[[], object]:
    """
    A function that adds one to a counter, in a sixth of the time: for what every request does.

    It is a step of `itertools.count`, which no other thread can come into the middle of.
    """
    return _tickers.setdefault(name, itertools.count()).__next__


def _ticks(name: str) -> int:
    return int(repr(_tickers[name])[len("count(") : -1]) - _forgotten.get(name, 0)


def value(name: str) -> int:
    """How often `name` was counted in this process; 0 if never."""
    return _counts.get(name, 0) + (_ticks(name) if name in _tickers else 0)


def snapshot() -> dict[str, int]:
    """All counters as a new dict, sorted by name."""
    with _lock:
        names = _counts.keys() | {name for name in _tickers if _ticks(name)}
        return {name: value(name) for name in sorted(names)}


def reset() -> None:
    """Forget every count. For tests."""
    with _lock:
        _counts.clear()
        for name in _tickers:
            _forgotten[name] = _forgotten.get(name, 0) + _ticks(name)
