"""The figures that every report shows."""

from __future__ import annotations

import re
from collections import Counter

import attrs

from ..profile import ORDER
from ..rules import RULES
from ..scan import Report

__all__ = ["Row", "rows", "totals", "undecided_keys"]


@attrs.frozen
class Row:
    """One rule: how often it was found by priority, and by who deals with it."""

    code: str
    title: str
    does: str
    phase: str
    by_priority: dict[str, int]
    by_kind: dict[str, int]

    @property
    def count(self) -> int:
        """How often in all."""
        return sum(self.by_priority.values())


def rows(report: Report) -> list[Row]:
    """Every rule that found something, by its code."""
    counts = report.counts()
    kinds: dict[str, Counter[str]] = {}
    for _, finding in report.findings():
        kinds.setdefault(finding.code, Counter())[finding.kind] += 1
    return [
        Row(
            code, rule.title, rule.does, rule.phase,
            {priority: counts[code, priority] for priority in ORDER},
            dict(kinds[code]),
        )
        for code, rule in sorted(RULES.items())
        if code in kinds
    ]  # fmt: skip


def totals(report: Report) -> dict[str, int]:
    """How many findings there are of each kind."""
    kinds = Counter(finding.kind for _, finding in report.findings())
    return {kind: kinds[kind] for kind in ("automatic", "person", "note")}


def undecided_keys(report: Report) -> list[tuple[str, int]]:
    """The keys of `metadata` that neither list of the configuration has, the commonest first."""
    found: Counter[str] = Counter()
    for _, finding in report.findings():
        found.update(re.findall(r"key '([^']+)' is in neither", finding.reason))
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
