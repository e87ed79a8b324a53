"""Drawing the path of an error: who asked for what, and where that was registered."""

from __future__ import annotations

import attrs

__all__ = ["Step", "drawn"]


@attrs.frozen
class Step:
    """
    One object on the way to what went wrong. A value.

    Attributes:
        name: as it is written.
        says: where it was registered, how long it lives, or what is wrong with it.
    """

    name: str
    says: str


def drawn(steps: list[Step]) -> str:
    """The steps as lines, each beneath what asked for it."""
    branches = ["   " * (depth - 1) + "└─ " * (depth > 0) for depth in range(len(steps))]
    heads = [branch + step.name for branch, step in zip(branches, steps, strict=True)]
    width = max(map(len, heads))
    return "".join(
        f"\n    {head:{width}}  {step.says}" for head, step in zip(heads, steps, strict=True)
    )
