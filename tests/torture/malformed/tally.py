"""What is counted while malformed values are offered: accepted, odd errors, the slowest."""

from __future__ import annotations

import random
import time
from collections import Counter

import attrs

from ringfence import RingfenceError

from ..report import Report

BATCH = 32
LONG = 0.002
"""Seconds after which a batch ends early: the long ones are not added up."""

_LONGEST = 160
_MOST_FAULTS = 2


@attrs.define
class Tally:
    """
    The figures of one part. Lives for one run of it.

    How long one takes is the smaller of what a clock says and of the processor's time for the batch
    that it is in: a busy machine is no slow check, and to ask for each one's would cost more than
    all else.

    Attributes:
        limit: seconds that one may take.
        offered: malformed values, by rule.
        accepted: those that were taken.
        odd: those that something else than a `RingfenceError` came of.
    """

    part: str
    report: Report
    limit: float = 0.05
    offered: Counter[str] = attrs.field(factory=Counter)
    accepted: int = 0
    odd: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    slowest: float = 0
    slowest_rule: str = ""
    _began: float = 0
    _longest: tuple[float, str] = (0, "")
    _left: int = BATCH
    _processor: float = attrs.field(factory=time.thread_time)

    def chosen(self, rule: str) -> bool:
        """Whether it is to be tried: all of them, or those that `--only` names."""
        return f"{self.part}/{rule}".startswith(self.report.only)

    def random(self, rule: str) -> random.Random:
        """The same choices for a rule whatever else is tried."""
        return random.Random(f"{self.report.seed} {self.part}/{rule}")

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, rule: str) -> None:
        spent = time.perf_counter() - self._began
        self.offered[rule] += 1
        if spent > self._longest[0]:
            self._longest = spent, rule
        self._left -= 1
        if not self._left or spent > LONG:
            self._settle()

    def _settle(self) -> None:
        now = time.thread_time()
        slowest = min(self._longest[0], now - self._processor)
        if slowest > self.slowest:
            self.slowest, self.slowest_rule = slowest, self._longest[1]
        self._left, self._longest, self._processor = BATCH, (0, ""), now

    def taken(self, rule: str, value: object) -> None:
        self.accepted += 1
        self.fault(rule, "was accepted", value)

    def raised(self, rule: str, value: object, error: BaseException) -> None:
        """Judge what was raised; only a `RingfenceError` with one printable line is right."""
        if not isinstance(error, RingfenceError):
            self.odd += 1
            self.fault(rule, f"raised {type(error).__name__}", value)
        elif not str(error).isprintable() or len(str(error)) > 500:
            self.odd += 1
            self.fault(rule, "is written out in the message", value)

    def fault(self, rule: str, what: str, value: object) -> None:
        self.faults[rule] += 1
        if self.faults[rule] > _MOST_FAULTS:
            return
        try:
            shown = repr(value)[:_LONGEST]
        except Exception:
            shown = f"<{type(value).__name__}>"
        only = f"'{self.part}/{rule}'"
        replay = f"python -m tests.torture malformed --seed {self.report.seed} --only {only}"
        short = " --short" if self.report.is_short else ""
        self.report.fault(f"{self.part}/{rule}: {shown} {what}", replay + short)

    def tell(self, floor: int) -> None:
        """Say what came of it; each rule must have been tried `floor` times."""
        self._settle()
        total, part = self.offered.total(), self.part
        report = self.report
        report.must(f"{part}: malformed, of {len(self.offered)} rules", total, "> 0")
        report.must(f"{part}: the fewest of a rule", min(self.offered.values()), f">= {floor}")
        report.must(f"{part}: accepted of them", self.accepted, "== 0")
        report.must(f"{part}: other errors than a RingfenceError", self.odd, "== 0")
        report.must(
            f"{part}: seconds of the slowest ({self.slowest_rule})",
            self.slowest,
            f"< {self.limit}",
        )
