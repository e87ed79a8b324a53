"""What a leg of the torture run says of itself: figures, each with the rule that it must keep."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Callable
from typing import TextIO

import attrs

RULES: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@attrs.frozen
class Figure:
    """One thing that was counted; `rule` is such as `== 0`, `>= 20000` or `< 1`."""

    what: str
    seen: float
    rule: str
    is_control: bool = False

    @property
    def holds(self) -> bool:
        sign, _, limit = self.rule.partition(" ")
        return RULES[sign](self.seen, float(limit))

    def __str__(self) -> str:
        mark = "ok" if self.holds else "FAILED"
        kind = "control" if self.is_control else "must"
        return f"{mark:6} {kind:7} {self.seen:>14,.6g}  {self.rule:<12} {self.what}"


@attrs.define
class Report:
    """
    Handed to a leg: how much to do, from which seed; takes what it found.

    A leg that finds a fault calls `fault` with one line that repeats it; `only` is then the part of
    the leg, or the simulated world, that the fault was in.
    """

    leg: str
    seed: int
    is_short: bool = False
    only: str = ""
    out: TextIO = attrs.field(factory=lambda: sys.stdout)
    figures: list[Figure] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)
    _shown: float = 0.0

    def size(self, full: int, short: int) -> int:
        """How much to do: in the run of ten minutes, and in the tests."""
        return short if self.is_short else full

    def progress(self, done: float, total: float) -> None:
        """Said at most once a second."""
        now = time.monotonic()
        if now - self._shown >= 1:
            self._shown = now
            print(f"... {self.leg} {done:,.0f} of {total:,.0f}", file=self.out, flush=True)

    def must(self, what: str, seen: float, rule: str) -> None:
        """What ringfence promises."""
        self._take(Figure(what, seen, rule))

    def control(self, what: str, seen: float, rule: str = "> 0") -> None:
        """That the same harness can find it, seen in the same run; of a part it says nothing."""
        if not self.only:
            self._take(Figure(what, seen, rule, is_control=True))

    def fault(self, what: str, replay: str) -> None:
        """A promise that was broken, with the command that repeats it."""
        self.faults.append(f"{what}\n       replay: {replay}")
        print(f"FAULT  {self.faults[-1]}", file=self.out, flush=True)

    @property
    def holds(self) -> bool:
        return bool(self.figures) and not self.faults and all(f.holds for f in self.figures)

    def _take(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(figure, file=self.out, flush=True)
