"""`ringfence torture`: try to mix up the users of an application, over real sockets."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import RingfenceError
from ..testing.torture.report import Report
from ..testing.torture.run import torture
from ..testing.torture.screen import show
from ..testing.torture.server import SERVERS
from ..testing.torture.template import FILE, write_template
from ..testing.torture.workload import ATTACKS

__all__ = ["command"]

FOUND, COULD_NOT_RUN = 1, 2

EPILOG = "\b\nAttacks, for --only:\n" + "\n".join(
    f"  {name:15} {about}" for name, (_, about) in ATTACKS.items()
)


@click.command(
    "torture",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("app", required=False, metavar="[APP]")
@click.option("--scenario", metavar="WHERE", help="`module:name`, or `file.py:name`.")
@click.option("--users", default=20, show_default=True, help="How many there are.")
@click.option("--requests", default=1000, show_default=True, help="Of all of them together.")
@click.option("--seed", type=int, help="Of all random choices; drawn and shown if not given.")
@click.option(
    "--only", multiple=True, metavar="ATTACK", help="Of the same plan, this alone; several times."
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    type=click.Choice(list(SERVERS)),
    help="uvicorn's loop and parser; one after the other.  [default: asyncio-h11, and "
    "uvloop-httptools where it is installed]",
)
@click.option(
    "--server-option", "options", multiple=True, metavar="NAME=VALUE",
    help="Of uvicorn's Config, as `reset_contextvars=true`; `factory=true` if APP makes it.",
)  # fmt: skip
@click.option("--connections", default=16, show_default=True, help="At once.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds for an answer.")
@click.option(
    "--grace", default=5.0, show_default=True, help="Seconds for what outlives its request."
)
@click.option("--time-limit", default=600.0, show_default=True, help="Seconds for each server.")
@click.option("--json", "file", metavar="FILE", help="Write the report there too; `-` is stdout.")
@click.option(
    "--init", is_flag=True, help=f"Write a scenario to start from, to APP or `{FILE}`, and end."
)
def command(
    app: str | None,
    scenario: str | None,
    options: tuple[str, ...],
    file: str | None,
    init: bool,
    **given: Any,
) -> None:
    """
    Try to mix up the users of APP, an ASGI application named `module:name`.

    It is served by a real uvicorn. Many users send requests at once, over connections that they
    share as behind a proxy, and vanish in the middle. Each user's data hold a canary; whoever
    else gets to see it has found a leak. The application need not use ringfence.

    \b
        ringfence torture --init
        ringfence torture app:app --scenario torture_scenario.py --users 50 --requests 5000

    Exit code: 0 if nothing was found, 1 if something was, 2 if it could not run to its end.
    """
    try:
        if init:
            click.echo(write_template(Path(app or FILE)))
            return
        if app is None or scenario is None:
            raise click.UsageError(
                "Name the application and the scenario: `ringfence torture app:app --scenario "
                "tests.torture:scenario`. `ringfence torture --init` writes a scenario."
            )
        _refuse_unwritable(file)
        sys.path[:0] = [""] * ("" not in sys.path)  # as `python -m` does
        with _progress() as progress:
            report = torture(
                app, scenario, server_options=_parsed(options), progress=progress, **given
            )
    except RingfenceError as error:
        click.echo(f"ringfence: it could not run. {error.fact}\n{error.remedy}", err=True)
        sys.exit(COULD_NOT_RUN)
    except click.ClickException:
        raise
    except (KeyboardInterrupt, click.Abort):  # click's own 1 would say that something was found
        click.echo("ringfence: stopped before its end.", err=True)
        sys.exit(COULD_NOT_RUN)
    except Exception:  # a mistake of the kit must not look like one of the application
        traceback.print_exc()
        sys.exit(COULD_NOT_RUN)
    _tell(report, file)
    sys.exit(0 if report.is_clean else FOUND)


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    """`name=value`, where a value is JSON if it can be, else text."""
    parsed: dict[str, Any] = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator:
            raise click.UsageError(f"--server-option {option}: write it as NAME=VALUE.")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def _refuse_unwritable(file: str | None) -> None:
    """Before the run: a report that cannot be written is lost after it."""
    if file is None or file == "-":
        return
    try:
        Path(file).open("a").close()
    except OSError as error:
        raise click.UsageError(f"--json {file}: it cannot be written: {error}.") from None


def _tell(report: Report, file: str | None) -> None:
    text = json.dumps(report.to_dict(), indent=2)
    if file == "-":
        click.echo(text)
        return
    if file is not None:
        Path(file).write_text(text + "\n")
    show(report, Console())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line for each tenth; on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("attacking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)
        yield lambda done, total: progress.update(bar, completed=min(done, total), total=total)


def _lines() -> Callable[[int, int], None]:
    said = 0

    def say(done: int, total: int) -> None:
        nonlocal said
        tenth = min(10, 10 * done // total)
        if tenth > said:
            said = tenth
            click.echo(f"... {min(done, total):,} of {total:,} requests", err=True)

    return say
