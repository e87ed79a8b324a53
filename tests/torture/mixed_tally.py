"""What became of the scopes of many users: the judge of each answer, and what is owed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import attrs
from sqlalchemy.exc import DBAPIError, InterfaceError

from ringfence import RingfenceError, ScopeCloseError
from ringfence.state import open_roots

from .mixed_plans import ROWS, Planned
from .report import Report

NEVER_SAID = (None, "")

EXPECTED = (
    "ok",
    "cancelled",
    "timed out",
    "failed as planned",
    "connection lost",
    "refused: RF501",
)


@attrs.define
class Tally:
    """What happened."""

    scopes: int = 0
    judged: int = 0
    cancels: int = 0
    kills: int = 0
    foreign: int = 0
    missing: int = 0
    wrong_nonces: int = 0
    settings_left: int = 0
    mistaken: int = 0
    hung: int = 0
    checked_out: int = 0
    unusable: int = 0
    outcomes: Counter[str] = attrs.Factory(Counter)
    faults: list[str] = attrs.Factory(list)

    @property
    def unexpected(self) -> int:
        return sum(n for what, n in self.outcomes.items() if not what.startswith(EXPECTED))

    def fault(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.faults.append(f"{kind}: {what}")

    def judge(self, who: str | None, nonce: int, answer: Any) -> None:
        """Compare what a connection answered with who asked."""
        self.judged += 1
        echoed, owners, count, said = answer
        if echoed != nonce:
            self.fault("wrong_nonces", f"asked {nonce}, answered {echoed}")
        if owners not in (None, who or None):
            self.fault("foreign", f"{who!r} was shown rows of {owners!r}")
        if who and count < ROWS:
            self.fault("missing", f"{who!r} was shown {count} rows")
        if not who and said not in NEVER_SAID:
            self.fault("settings_left", f"nobody is {said!r}")


def outcome_of(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    match error:
        case None:
            return "ok"
        case TimeoutError():
            return "timed out"
        case Planned():
            return "failed as planned"
        case DBAPIError() | InterfaceError() | OSError():
            return "connection lost"
        case ScopeCloseError() if all(isinstance(each, DBAPIError) for each in error.exceptions):
            return "connection lost at the end"
        case ScopeCloseError():
            return "clean-up failed: " + ", ".join(type(each).__name__ for each in error.exceptions)
        case RingfenceError():
            return f"refused: {error.code}"
    return f"{type(error).__module__}.{type(error).__name__}"


def judge_isolation(driver: str, tally: Tally, report: Report) -> None:
    for what, seen in (
        ("rows of another user", tally.foreign),
        ("rows that a user did not find", tally.missing),
        ("rows written for another user", tally.mistaken),
        ("answers to another statement", tally.wrong_nonces),
        ("settings left for nobody", tally.settings_left),
        ("connections left checked out", tally.checked_out),
        ("pooled connections that are no use", tally.unusable),
        ("scopes that hang", tally.hung),
        ("outcomes that nobody expects", tally.unexpected),
        ("scopes left open", len(open_roots())),
    ):
        report.must(f"{driver}: {what}", seen, "== 0")
    replay = f"python -m tests.torture {report.leg} --seed {report.seed}"
    for fault in tally.faults[:5]:
        report.fault(f"{driver}: {fault}", replay + " --short" * report.is_short)
    print(f"       {driver}: " + str(dict(tally.outcomes.most_common())), file=report.out)
