"""The report as a table of a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..findings import FileReport, Finding
from ..profile import ORDER
from ..scan import Report
from .counts import rows, totals, undecided_keys

__all__ = ["print_report", "print_sites"]


def print_report(console: Console, report: Report) -> None:
    """Counts by rule and priority, and what they come to."""
    found = rows(report)
    if found:
        console.print(_table(report))
    sums = totals(report)
    sites = sum(sums.values())
    console.print(
        f"{report.seen} files seen, {len(report.files)} with {sites} findings: "
        f"{sums['automatic']} automatic, {sums['person']} need a person, "
        f"{sums['note']} for review",
        highlight=False,
    )
    keys = undecided_keys(report)
    if keys:
        names = ", ".join(f"{key} ({count})" for key, count in keys)
        console.print(
            f"keys of metadata to be put into agent-keys or audit-keys: {escape(names)}",
            highlight=False,
        )


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("finds")
    for priority in ORDER:
        table.add_column(priority, justify="right")
    for kind in ("automatic", "person"):
        table.add_column(kind, justify="right")
    for row in rows(report):
        counts = [str(row.by_priority[priority] or "·") for priority in ORDER]
        kinds = [str(row.by_kind.get(kind) or "·") for kind in ("automatic", "person")]
        table.add_row(row.code, escape(row.title), *counts, *kinds)
    return table


def print_sites(console: Console, sites: list[tuple[FileReport, Finding]]) -> None:
    """Each place on a line, as compilers write them, and why it needs a person."""
    for file, finding in sites:
        place = f"{file.path}:{finding.line}: {finding.code} {finding.text}"
        console.print(place, markup=False, highlight=False, soft_wrap=True)
        if finding.reason:
            console.print(
                f"    {finding.reason}", markup=False, highlight=False, soft_wrap=True, style="dim"
            )
