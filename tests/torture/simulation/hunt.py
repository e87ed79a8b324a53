"""World after world, until one breaks a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .on_trio import run_trio_world
from .outcome import Outcome
from .seeded import seeded
from .worlds import run_world

__all__ = ["SIMULATORS", "hunt"]

SIMULATORS: dict[str, Callable[[int, int], Outcome]] = {
    "asyncio": run_world,
    "trio": run_trio_world,
}


def hunt(kind: str, seed: int, numbers: Iterable[int]) -> Outcome | None:
    """The first of these worlds in which a promise was broken."""
    with seeded():
        outcomes = (SIMULATORS[kind](seed, number) for number in numbers)
        return next((outcome for outcome in outcomes if outcome.violations), None)
