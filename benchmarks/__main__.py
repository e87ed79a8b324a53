"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from ringfence.testing.valkey import ValkeyServer

from .asgi import asgi_cases, asgi_check, asgi_rows
from .cases import core_cases
from .crowd import crowd
from .events import TITLE, event_checks, event_rows, event_server
from .events import Size as EventSize
from .honesty import Check, checks
from .injection import GROUPS, injection_cases, injection_checks, injection_rows
from .memory import Bytes, bytes_per_request, bytes_per_scope
from .report import Row, row_of, table
from .timing import Case, Clockwork

__all__ = ["main"]

HELP = """\
What a ringfence scope costs, beside the least that it could cost.

Everything is a ratio to a floor that runs in the same rounds: a class whose `async with` sets a
ContextVar and resets it. Nanoseconds are shown for the eye; they are this machine's, and only
ratios are judged. Time is CPU time of the thread, so other work on the machine hardly shows.
"""
EPILOG = """\
names:
{names}

reading the table:
  ns        median CPU time of one iteration
  x floor   how many floors that is
  ratio     by what the gate judges: the median, over the rounds, of this case by the one under `of`
  +-        half the inter-quartile range of that ratio; above 10% let the machine rest, run again
  gate      a ratio above it fails the run; rows without one only inform
  stretch   where we would like to be
  goal      what we set out for, where the gate only keeps what is there from becoming worse

exit status:
  0  every gate holds     1  a ratio is above its gate
  2  nothing was timed: wrong usage, or what would be timed does not do its work (it says which)

examples:
  python -m benchmarks                      everything, in two minutes
  python -m benchmarks three-ids child      these two, and what they are divided by
  python -m benchmarks --json > now.json    for a program to read
  python -m benchmarks --quick              does it still run? tiny, and nothing is judged
"""


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    sample_ns: int
    crowd: int
    objects: int
    events: EventSize


FULL = Size(60, 8_000_000, crowd=10_000, objects=10_240, events=EventSize(15, 200))
QUICK = Size(3, 50_000, crowd=100, objects=512, events=EventSize(3, 5))


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] | None = None) -> int:
    """
    Check, measure, show; returns the exit status.

    Args:
        cases: instead of the core's, for tests.
    """
    core = core_cases() if cases is None else list(cases)
    asgi, skipped = asgi_cases()
    options = _parser(core).parse_args(arguments)
    injection, not_here = _injection(options.names)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        with_events = not options.names or "events" in options.names
        server = stack.enter_context(event_server()) if with_events else None
        return _judge(core, asgi, skipped, injection, not_here, server, options, began)


def _judge(
    core: Sequence[Case],
    asgi: Sequence[Case],
    skipped: Sequence[Row],
    injection: Sequence[Case],
    not_here: Sequence[Row],
    server: ValkeyServer | Row | None,
    options: argparse.Namespace,
    began: float,
) -> int:
    honesty = [
        *checks({case.name: case for case in core}),
        *asgi_check(asgi),
        *injection_checks(injection),
        *(event_checks(server) if isinstance(server, ValkeyServer) else []),
    ]
    for check in honesty:
        say(f"{'  honest' if check.fault is None else 'NOT SO'}: {check.claim}"
            + (f" -- {check.fault}" if check.fault else ""))  # fmt: skip
    if any(check.fault for check in honesty):
        say("Nothing was timed: what would be timed does not do its work.")
        return 2

    size = QUICK if options.quick else FULL
    rows, kinds = measure(core, asgi, injection, options, size)
    if not options.names or "asgi" in options.names:
        rows += skipped
    rows += not_here
    if isinstance(server, ValkeyServer):
        rows += event_rows(server, size.events, options.seed, is_judged=not options.quick)
    elif server is not None:
        rows.append(server)
    report(rows, kinds, honesty, options, size, time.monotonic() - began)
    failed = [row for row in rows if row.verdict == "FAIL"]
    for row in failed:
        say(f"FAIL: {row.title}: {row.ratio:.2f} x {row.of}, and {row.gate:g} is the gate")
    return 1 if failed else 0


def _injection(names: Sequence[str]) -> tuple[list[Case], list[Row]]:
    """The cases of the groups that were asked for; making them takes a second, so no others."""
    groups = [name for name in GROUPS if not names or name in names or "inject" in names]
    return injection_cases(groups)


def measure(
    core: Sequence[Case],
    asgi: Sequence[Case],
    injection: Sequence[Case],
    options: argparse.Namespace,
    size: Size,
) -> tuple[list[Row], list[Bytes]]:
    """Time what was asked for, and what that is divided by."""
    wanted = _with_what_they_are_divided_by(core, options.names)
    with_asgi = not options.names or "asgi" in options.names
    with Clockwork(size.sample_ns, options.seed) as clockwork:
        samples = clockwork.measure(
            [*wanted, *(asgi if with_asgi else []), *injection],
            options.rounds or size.rounds,
            functools.partial(crowd, size.crowd),
            progress,
        )
    rows = [row_of(case, samples, is_judged=not options.quick) for case in wanted]
    if with_asgi:
        rows += asgi_rows(samples, is_judged=not options.quick)
    rows += injection_rows(samples, injection, is_judged=not options.quick)
    with_memory = not options.names or "memory" in options.names
    kinds = (
        [*bytes_per_scope(size.objects), *bytes_per_request(size.objects)] if with_memory else []
    )
    return rows, kinds


def _with_what_they_are_divided_by(core: Sequence[Case], names: Sequence[str]) -> list[Case]:
    by_name = {case.name: case for case in core}
    wanted: set[str] = set()
    todo = ["floor", *(names or by_name)]
    while todo:
        name = todo.pop()
        if name in by_name and name not in wanted:
            wanted.add(name)
            todo.append(by_name[name].of)
    return [case for case in core if case.name in wanted]


def progress(number: int, rounds: int) -> None:
    """Say how far it is, ten times."""
    if number % max(1, rounds // 10) == 0:
        say(f"round {number + 1} of {rounds}")


def say(text: str) -> None:
    """On standard error: standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def report(
    rows: Sequence[Row],
    kinds: Sequence[Bytes],
    honesty: Sequence[Check],
    options: argparse.Namespace,
    size: Size,
    seconds: float,
) -> None:
    """Print the result."""
    if options.json:
        print(json.dumps({
            "python": platform.python_version(),
            "machine": platform.machine(),
            "is_quick": options.quick,
            "rounds": options.rounds or size.rounds,
            "seed": options.seed,
            "crowd": size.crowd,
            "seconds": round(seconds, 1),
            "rows": [attrs.asdict(row) for row in rows],
            "bytes": [attrs.asdict(kind) for kind in kinds],
            "honesty": [check.claim for check in honesty],
        }, indent=1))  # fmt: skip
        return
    print(table(rows))
    if kinds:
        print("\nbytes for one more that is open")
        for kind in kinds:
            print(f"  {kind.title:34}{kind.each:>8,.0f}  {kind.x_floor:>6.2f} x floor")
    print(
        f"\nPython {platform.python_version()}, {options.rounds or size.rounds} rounds, "
        f"seed {options.seed}, a crowd is {size.crowd:,} open scopes, {seconds:.0f} s"
        + (", quick: nothing was judged" if options.quick else "")
    )


def _parser(core: Sequence[Case]) -> argparse.ArgumentParser:
    titles = {case.name: case.title for case in core}
    titles |= {
        "asgi": "what the ASGI middleware adds",
        "memory": "bytes of open scopes and requests",
        "events": TITLE,
        "inject": "all that follow, beside six other libraries",
    }
    titles |= {name: group.title for name, group in GROUPS.items()}
    names = "\n".join(f"  {name:20}{title}" for name, title in titles.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=HELP,
        epilog=EPILOG.format(names=names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def name(text: str) -> str:
        if text not in titles:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; --help lists the names")
        return text

    parser.add_argument("names", nargs="*", type=name, metavar="NAME", help="only these cases")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--quick", action="store_true", help="tiny, and judge nothing")

    def positive(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds")
        return int(text)

    parser.add_argument("--rounds", type=positive, help=f"rounds to take (default: {FULL.rounds})")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10_000), help="of the order within rounds"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
