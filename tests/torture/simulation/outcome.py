"""What became of a world."""

from __future__ import annotations

import attrs

__all__ = ["Outcome"]


@attrs.frozen
class Outcome:
    """
    What became of one world.

    Attributes:
        steps: how many steps of tasks were run.
        violations: promises that were broken.
        tally: what was done and refused, counted by name.
        trace: the same whenever this world is run again.
    """

    number: int
    steps: int
    violations: list[str]
    tally: dict[str, int]
    trace: int
