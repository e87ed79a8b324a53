"""Named counters of what happened: every refusal, every fault, every clean-up that went wrong."""

from __future__ import annotations

import threading

__all__ = ["count", "reset", "snapshot", "value"]

_lock = threading.Lock()
_counts: dict[str, int] = {}


def count(name: str, times: int = 1) -> None:
    """
    Add to a counter; safe from any thread.

    Names are dotted: `refused.RF101`, `inherited_scope.open`, `finaliser.timeout`.
    They live as long as the process.
    """
    with _lock:
        _counts[name] = _counts.get(name, 0) + times


def value(name: str) -> int:
    """How often `name` was counted in this process; 0 if never."""
    return _counts.get(name, 0)


def snapshot() -> dict[str, int]:
    """All counters as a new dict, sorted by name."""
    with _lock:
        return dict(sorted(_counts.items()))


def reset() -> None:
    """Forget every count. For tests."""
    with _lock:
        _counts.clear()
