"""
Break the library one line at a time, and see a test fail.

    python -m tests.mutants [NAME ...] [--jobs 2] [--part 1/4] [--by simulation]

Each mutant is applied to a copy of `src`, its tests run against the copy, and the mutant is
killed if they fail. Exits 1 if one survives, 2 if a line to break is not there (any more) or the
tests fail without any mutant. With `--part 2/4` it is every fourth mutant from the second on; the
lines of all are looked for. With `--by simulation` it is the simulation of
`tests/torture` alone that must notice, those that `simulated` chooses.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.simulation.planted import CouldNotRun, find

from . import warm
from .mutant import ROOT, Mutant, Stale, applied, broken
from .simulated import must_be_noticed
from .tables import load

WORLDS = 400
KILLED, SURVIVED, STALE = "killed", "SURVIVED", "STALE"


def run_tests(source: Path, tests: tuple[str, ...], limit: float = 120) -> tuple[bool, str]:
    """Whether the tests pass against the library in `source` in time, and what they printed."""
    with tempfile.NamedTemporaryFile("r") as output:
        process = warm.start(source, ROOT, tests, output.name)
        process.join(limit)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return False, "timed out"
        return process.exitcode == 0, output.read()


def judge(mutant: Mutant) -> tuple[str, str]:
    """Apply one mutant to a copy, and say what became of it."""
    try:
        with applied(mutant) as source:
            passed, output = run_tests(source, mutant.tests)
    except Stale as stale:
        return STALE, str(stale)
    if "no tests ran" in output or "ERROR: not found" in output:
        return STALE, output[-500:]
    return (SURVIVED, output[-300:]) if passed else (KILLED, "")


def main() -> int:
    """Run the chosen mutants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="only mutants whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", type=part, default=(1, 1), help="K/N: every Nth from the Kth on")
    parser.add_argument("--by", choices=("simulation",), help="what must notice, if not the tests")
    options = parser.parse_args()
    first, step = options.part
    mutants = [
        m
        for m in (load() if options.by is None else must_be_noticed())
        if not options.names or any(name in m.name for name in options.names)
    ]
    if not mutants:
        parser.error(f"no mutant has such a name: {', '.join(options.names)}")
    if stale := [found for m in mutants if (found := staleness(m))]:
        print(*stale, sep="\n", file=sys.stderr)
        return 2
    mutants = mutants[first - 1 :: step]
    if options.by is not None:
        return run_all(mutants, judge_by_simulation, options.jobs)
    tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
    print(f"{len(mutants)} mutants; first their tests without any", flush=True)
    at_once = ("-n", str(options.jobs)) if options.jobs > 1 else ()
    passed, output = run_tests(ROOT / "src", (*at_once, *tests), limit=1500)
    if not passed:
        print(output)
        print("The tests fail without any mutant.", file=sys.stderr)
        return 2
    return run_all(mutants, judge, options.jobs)


def part(text: str) -> tuple[int, int]:
    """`2/4`, as numbers."""
    first, step = (int(number) for number in text.split("/"))
    if not 1 <= first <= step:
        raise ValueError(text)
    return first, step


def staleness(mutant: Mutant) -> str | None:
    """Why it cannot be applied, if it cannot."""
    try:
        broken(mutant)
    except Stale as stale:
        return f"{STALE} {mutant.name}: {stale}"
    return None


def judge_by_simulation(mutant: Mutant) -> tuple[str, str]:
    """Apply one mutant to a copy, and say whether a world shows it, and which."""
    try:
        found = find(mutant, "asyncio", seed=1, worlds=WORLDS)
    except (Stale, CouldNotRun) as error:
        return STALE, str(error)
    detail = f"world {found.world:g}: {found.what[:90]}"
    return (KILLED, detail) if found.world < WORLDS else (SURVIVED, detail)


def run_all(mutants: list[Mutant], judge: Callable[[Mutant], tuple[str, str]], jobs: int) -> int:
    """Judge them, and say what became of each."""
    began = time.perf_counter()
    results: dict[str, int] = {KILLED: 0, SURVIVED: 0, STALE: 0}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for mutant, (verdict, detail) in zip(mutants, pool.map(judge, mutants), strict=True):
            results[verdict] += 1
            print(f"{verdict:9} {mutant.name}")
            if detail:
                print("    " + detail.replace("\n", "\n    "))
            sys.stdout.flush()
    took = time.perf_counter() - began
    print(f"{results[KILLED]} of {len(mutants)} mutants killed in {took:.0f} s")
    return 2 if results[STALE] else 1 if results[SURVIVED] else 0


if __name__ == "__main__":
    sys.exit(main())
