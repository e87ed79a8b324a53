"""`ringfence migrate`: scan, rewrite, verify, roll back."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from ..errors import ConfigurationError
from ..migrate import config, journal, rewrite, rollback, rules
from ..migrate.paths import shown
from ..migrate.reports.page import as_page
from ..migrate.reports.record import as_json
from ..migrate.reports.table import print_report, print_sites
from ..migrate.scan import Report, Tell
from ..migrate.scan import scan as scan_tree

__all__ = ["command"]

EXIT_CODES = """
\b
Exit codes:
  0  done, nothing left to say
  1  something is left: see each command
  2  used wrongly, or refused: configuration, dirty tree, nothing to roll back
  3  a rewriting went wrong; the file was left as it was
"""
PATH = click.Path(exists=True, path_type=Path)


def _console(is_stderr: bool = False) -> Console:
    """Wide off a terminal, where lines are for other programs."""
    console = Console(stderr=is_stderr, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Tell]:
    """A bar on a terminal, one line elsewhere; on stderr, so that output stays clean."""
    console = _console(is_stderr=True)
    if not console.is_terminal:
        done = [0]

        def count(_: int, total: int) -> None:
            done[0] = total

        yield count
        console.print(f"{what}: {done[0]} files", highlight=False)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def advance(number: int, total: int) -> None:
            progress.update(task, completed=number, total=total)

        yield advance


def _refusals(function: Callable[..., None]) -> Callable[..., None]:
    """A configuration that is wrong is a usage error, without a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except ConfigurationError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)

    return wrapped


@click.group(epilog=EXIT_CODES)
def command() -> None:
    """
    Move a code base from the two older context classes onto ringfence.

    \b
    1.  ringfence migrate scan .                           what there is to do
    2.  ringfence migrate rewrite . --phase imports --diff   look at it
        ringfence migrate rewrite . --phase imports --write  do it
    3.  ringfence migrate rewrite . --phase calls --write    the call sites
    4.  ringfence migrate verify .                           a gate for CI
    5.  ringfence migrate rewrite . --phase removal --write  the compatibility layer goes

    `ringfence migrate rollback` restores what the last rewriting wrote. What needs a person is
    left as it is, and listed with the reason. A line that a person has looked at may say so:
    `# ringfence: reviewed RM303`. What is legacy in a code base is written in the table
    [tool.ringfence.migrate] of its pyproject.toml.
    """


@command.command()
@click.argument("path", type=PATH)
@click.option("--json", "is_json", is_flag=True, help="Everything as JSON on stdout.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page for people.")
@click.option("--sites", is_flag=True, help="List every place, with its line and the reason.")
@_refusals
def scan(path: Path, is_json: bool, html: Path | None, sites: bool) -> None:
    """
    Count what uses the old classes at or below PATH, by rule and by priority.

    Nothing is changed. Exits 0, whatever is found; `verify` is the gate.
    """
    report = _scanned(path)
    if html is not None:
        html.write_text(as_page(report), encoding="utf-8")
        click.echo(f"written: {html}", err=True)
    if is_json:
        click.echo(json.dumps(as_json(report), indent=1))
        return
    console = _console()
    if sites:
        print_sites(console, list(report.findings()))
    print_report(console, report)


def _scanned(path: Path) -> Report:
    settings = config.load(path.resolve())
    with _progress("examined") as tell:
        return scan_tree(path, settings, tell)


@command.command(name="rewrite")
@click.argument("path", type=PATH)
@click.option("--phase", type=click.Choice(rules.PHASES), required=True, help="What to rewrite.")
@click.option("--diff", "is_diff", is_flag=True, help="Print what would change (the default).")
@click.option("--write", "is_write", is_flag=True, help="Change the files.")
@click.option("--allow-dirty", is_flag=True, help="Even if there are uncommitted changes.")
@_refusals
def rewrite_command(
    path: Path, phase: str, is_diff: bool, is_write: bool, allow_dirty: bool
) -> None:
    """
    Rewrite what can be decided, and list what needs a person.

    \b
    imports  every import of an old module moves to ringfence.legacy; nothing else is touched
    calls    call sites get the canonical vocabulary
    removal  ringfence.legacy becomes ringfence, once nothing of the old vocabulary is left

    Files are written one at a time, each recorded in .ringfence/migrate before it is changed, so
    that `rollback` can restore it even if the run is killed.

    Exits 0 if the phase leaves nothing to a person, 1 if it does.
    """
    if is_diff and is_write:
        raise click.UsageError("--diff and --write exclude each other.")
    settings = config.load(path.resolve())
    if is_write and not allow_dirty:
        rewrite.refuse_dirty(path)
    with _progress("rewritten") as tell:
        made = rewrite.plan(path, settings, phase, tell)
    skipped: list[str] = []
    if is_write:
        skipped = _written(made)
    else:
        click.echo(made.diff(), nl=False)
    sys.exit(_told(made, skipped, is_write))


def _written(made: rewrite.Rewriting) -> list[str]:
    if not made.changes:
        return []
    with _progress("written") as tell:
        run, skipped = rewrite.write(made, tell)
    click.echo(f"journal: {run.file.relative_to(run.home)}", err=True)
    return skipped


def _told(made: rewrite.Rewriting, skipped: list[str], is_write: bool) -> int:
    """What was done, what is left, and the exit code that says so."""
    console = _console()
    left = [site for site in made.report.findings() if rewrite.is_left(site[1], made.phase)]
    if left:
        console.print("left to a person:" if is_write else "would be left to a person:")
        print_sites(console, left)
    for line in skipped:
        console.print(f"not written: {line}", markup=False, highlight=False, soft_wrap=True)
    for code, count in sorted(made.made().items()):
        rule = rules.RULES[code]
        console.print(f"{code} {count:5} {rule.title}", markup=False, highlight=False)
    verb = "changed" if is_write else "would change"
    count = len(made.changes) - len(skipped)
    console.print(f"{verb}: {count} files; left to a person: {len(left)}", highlight=False)
    if any(finding.code == "RM904" for _, finding in left):
        return 3
    return 1 if left or skipped else 0


@command.command()
@click.argument("path", type=PATH)
@click.option("--max", "limit", type=click.IntRange(0), default=0, show_default=True,
              help="How much may be left: a ratchet for CI.")  # fmt: skip
@click.option("--phase", type=click.Choice(rules.PHASES), default="removal", show_default=True,
              help="Count what belongs to this phase and those before it.")  # fmt: skip
@_refusals
def verify(path: Path, limit: int, phase: str) -> None:
    """
    Say whether anything legacy is left at or below PATH.

    What is for review only does not count. Exits 0 if there is no more than --max, else 1, with
    the list.
    """
    left = _scanned(path).left(phase)
    console = _console()
    if len(left) > limit:
        print_sites(console, left)
    console.print(f"legacy: {len(left)} left, {limit} allowed", highlight=False)
    if limit > len(left):
        console.print(f"lower --max to {len(left)}, so that it stays that way", highlight=False)
    sys.exit(1 if len(left) > limit else 0)


@command.command(name="rollback")
@click.argument("path", type=PATH, default=Path())
@click.option("--all", "is_all", is_flag=True, help="Every run, the newest first.")
@click.option("--force", is_flag=True, help="Also files that were edited or deleted since.")
@_refusals
def rollback_command(path: Path, is_all: bool, force: bool) -> None:
    """
    Restore exactly what the last rewriting of the project at PATH wrote.

    A file that was edited or deleted since is left alone and shown, unless --force says
    otherwise. Exits 0 if every file is what it was, 1 if one is not.
    """
    found = journal.runs(journal.home_of(path))
    if not found:
        raise ConfigurationError(
            "There is nothing to roll back.", "Journals are looked for in `.ringfence/migrate`."
        )
    results = []
    for run in found if is_all else found[:1]:
        results += _rolled_back(run, force)
    sys.exit(0 if all(result.is_done for result in results) else 1)


def _rolled_back(run: journal.Journal, is_forced: bool) -> list[rollback.Restored]:
    console = _console()
    results = rollback.roll_back(run, is_forced)
    for result in results:
        if result.outcome != rollback.RESTORED or result.diff:
            line = f"{shown(result.path)}: {result.outcome}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if result.diff:
            console.print(result.diff, markup=False, highlight=False, soft_wrap=True)
    restored = sum(result.outcome == rollback.RESTORED for result in results)
    ended = "" if run.is_complete else ", which was interrupted"
    console.print(
        f"{run.phase} of {run.begun}{ended}: {restored} of {len(results)} files restored",
        highlight=False,
    )
    return results
