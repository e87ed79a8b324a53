"""What a terminal shows of a report."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .report import Report

__all__ = ["show"]

COLUMNS = {
    "requests": "sent", "answers": "judged", "refused": "refused", "disconnects": "left",
    "cut": "cut", "own canaries": "own", "faults": "faults", "leaks": "leaks",
}  # fmt: skip
"""What is counted, and the head of its column."""


def show(report: Report, console: Console) -> None:
    """Print the whole report: what was done, what was and was not observed, what was found."""
    console.print(_table(report))
    for what in report.observed:
        _line(console, f"[dim]observed[/dim]      {escape(what)}")
    for what in report.not_observed:
        _line(console, f"[yellow]not observed[/yellow]  {escape(what)}")
    for line in report.findings():
        style = "dim" if line.startswith("  replay") else "red"
        _line(console, f"[{style}]{escape(line)}[/{style}]")
    colour = "green" if report.is_clean else "bold red"
    _line(console, f"[{colour}]{escape(report.verdict)}[/{colour}]")
    _line(console, f"seed {report.seed}, {report.seconds:.1f} s; again: {escape(report.replay())}")


def _line(console: Console, text: str) -> None:
    """Not broken: a replay is to be copied."""
    console.print(text, soft_wrap=True, highlight=False)


def _table(report: Report) -> Table:
    title = escape(f"{report.app}, {report.users} users")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("attack", no_wrap=True)
    for column in COLUMNS.values():
        table.add_column(column, justify="right", no_wrap=True)
    for attack, counts in report.done.items():
        table.add_row(attack, *(f"{counts[column]:,}" for column in COLUMNS))
    return table
