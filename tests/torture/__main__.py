"""`python -m tests.torture`: attack the library, in under ten minutes on two cores."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date

from .legs import LEGS, Leg
from .report import Report


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("legs", nargs="*", metavar="LEG", help="all of them, if none is named")
    parser.add_argument("--seed", type=int, help="of the random choices (today's date)")
    parser.add_argument("--only", default="", help="the part or world of a leg that a fault names")
    parser.add_argument("--short", action="store_true", help="as much as the tests do")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    given = parser.parse_args(words)
    if given.list:
        print("\n".join(f"{leg.name:14} {leg.about}" for leg in LEGS.values()))
        return 0
    unknown = sorted(set(given.legs) - set(LEGS))
    if unknown:
        parser.error(f"no such leg: {', '.join(unknown)}; there are {', '.join(LEGS)}")
    seed = int(f"{date.today():%Y%m%d}") if given.seed is None else given.seed
    chosen = [LEGS[name] for name in given.legs or LEGS]
    if given.only and not (len(chosen) == 1 and chosen[0].has_parts):
        parser.error("`--only` is for one leg that has parts; the controls would be left out")
    if len(chosen) == 1:
        return _run_here(chosen[0], seed, given.short, given.only)
    return _run_all(chosen, seed, given.short)


def _run_here(leg: Leg, seed: int, is_short: bool, only: str) -> int:
    began = time.monotonic()
    report = Report(leg.name, seed, is_short, only)
    leg.run(report)
    print(f"{'ok' if report.holds else 'FAILED'}: {leg.name}, {time.monotonic() - began:.0f} s")
    return 0 if report.holds else 1


def _run_all(legs: list[Leg], seed: int, is_short: bool) -> int:
    """Each leg in a process of its own, as many at once as there are lanes."""
    began = time.monotonic()
    lanes = sorted({leg.lane for leg in legs})
    with ThreadPoolExecutor(len(lanes)) as pool:
        codes = pool.map(
            lambda lane: [_run_apart(leg, seed, is_short) for leg in legs if leg.lane == lane],
            lanes,
        )
        failed = sum(code != 0 for lane in codes for code in lane)
    spent = time.monotonic() - began
    print(f"{len(legs) - failed} of {len(legs)} legs held, seed {seed}, {spent:.0f} s")
    return 1 if failed else 0


def _run_apart(leg: Leg, seed: int, is_short: bool) -> int:
    command = [sys.executable, "-m", "tests.torture", leg.name, "--seed", str(seed)]
    with subprocess.Popen(
        command + ["--short"] * is_short,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{leg.name:14} {line}", end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
