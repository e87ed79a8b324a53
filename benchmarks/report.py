"""Report: rows out of samples, what they are judged by, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

from .timing import Case, Samples

__all__ = ["Row", "row_of", "spread_of", "table"]


@attrs.frozen(kw_only=True)
class Row:
    """
    One line of the table.

    Args:
        ns: median, CPU time of one iteration.
        ratio: median over the rounds of this case's time by that of the case called `of`.
        spread: half the inter-quartile range of the ratio, as a part of it.
        goal: the ratio that we set out for, where the gate is further off.
        verdict: `ok`, `FAIL`, `info` (nothing is judged), or why it was skipped.
    """

    name: str
    title: str
    ns: float | None = None
    x_floor: float | None = None
    ratio: float | None = None
    of: str = "floor"
    spread: float | None = None
    gate: float | None = None
    stretch: float | None = None
    goal: float | None = None
    verdict: str = "info"


def row_of(case: Case, samples: Samples, *, is_judged: bool) -> Row:
    """The row of a case, judged by its gate if it has one."""
    taken = samples[case.name]
    ratios = _ratios(taken, samples[case.of])
    ratio = statistics.median(ratios)
    verdict = "info"
    if is_judged and case.gate is not None:
        verdict = "ok" if ratio <= case.gate else "FAIL"
    return Row(
        name=case.name,
        title=case.title,
        ns=statistics.median(taken),
        x_floor=statistics.median(_ratios(taken, samples["floor"])),
        ratio=ratio,
        of=case.of,
        spread=spread_of(ratios),
        gate=case.gate,
        stretch=case.stretch,
        verdict=verdict,
    )


def _ratios(these: list[float], those: list[float]) -> list[float]:
    return [one / other for one, other in zip(these, those, strict=True)]


def spread_of(ratios: list[float]) -> float:
    """Half the inter-quartile range, as a part of the median."""
    if len(ratios) < 4:
        return (max(ratios) - min(ratios)) / 2 / abs(statistics.median(ratios))
    first, _, third = statistics.quantiles(ratios, n=4)
    return (third - first) / 2 / abs(statistics.median(ratios))


HEADS = ("case", "ns", "x floor", "ratio", "of", "+-", "gate", "stretch", "")


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS) - 1)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, [*widths, 0], strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.title,
        "" if row.ns is None else f"{row.ns:,.0f}",
        _number(row.x_floor),
        _number(row.ratio),
        "" if row.ratio is None else row.of,
        "" if row.spread is None else f"{row.spread:.1%}",
        _limit(row.gate),
        _limit(row.stretch),
        row.verdict + _said_of_goal(row),
    )


def _said_of_goal(row: Row) -> str:
    if row.goal is None or row.ratio is None:
        return ""
    return f", goal {row.goal:g}{'' if row.ratio <= row.goal else ', not met'}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _limit(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
