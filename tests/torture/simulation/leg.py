"""The simulation as a leg of the torture run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from tests.mutants.tables import load

from ..report import Report
from .hunt import SIMULATORS
from .outcome import Outcome
from .planted import find
from .seeded import seeded

__all__ = ["find_planted", "replay", "run", "run_worlds", "settle"]

STEPS = 10_000_000
SHORT_STEPS = 15_000
FLOORS = {
    "cancels": 250,
    "orphans": 200,
    "pipelined births": 500,
    "finalisers": 1000,
    "statements": 300,
    "detached": 80,
    "timed out": 15,
    "new objects": 500,
    "reads": 20_000,
    "refused after the end": 1500,
    "refused: foreign session": 80,
    "refused: foreign object": 50,
    "refused: foreign owned object": 250,
    "refused: foreign scope": 90,
    "refused: ended scope": 400,
    "refused: new finaliser": 250,
    "refused: scope in generator": 250,
}
"""How often at least, in 100,000 steps: a world in which nothing happens proves nothing."""
PLANTED = (
    "3: the state is not set",
    "2: a root takes what is ambient as its root",
    "4: any open scope may use an owned object",
    "sessions: two tasks at once",
    "sessions: any scope may use a session",
    "3: a scope stays current, where nothing was registered",
    "3: an orphan falls through to the scope beneath its own",
    "3: readers fall back to what is beneath",
    "2: what leaked in passes for this request's own",
    "4: the registry holds no reference",
    "4: check asks nobody",
    "4: another's context hands out its session",
    "5: task.cancel() gets through",
    "5: children are left open",
    "6: a stream runs in its consumer's context",
)
WORLDS_TO_FIND = 400


def run(report: Report) -> None:
    """Worlds until there were enough steps; then defects that must show in a few worlds."""
    if report.only:
        replay(report, "asyncio", int(report.only))
        return
    goal = report.size(STEPS, SHORT_STEPS)
    seen = run_worlds(report, "asyncio", itertools.count(), goal)
    report.must("steps of tasks", seen["steps"], f">= {goal}")
    settle(report, seen, {what: floor * goal // 100_000 for what, floor in FLOORS.items()})
    find_planted(report, "asyncio", PLANTED[: report.size(len(PLANTED), 2)])


def run_worlds(report: Report, kind: str, numbers: Iterable[int], goal: float) -> Counter[str]:
    """Run worlds until there were `goal` steps; what was seen in them, counted by name."""
    seen: Counter[str] = Counter(violations=0)
    with seeded():
        for number in numbers:
            outcome = SIMULATORS[kind](report.seed, number)
            seen.update(outcome.tally)
            seen.update(worlds=1, steps=outcome.steps, violations=len(outcome.violations))
            if outcome.violations:
                _tell(report, outcome)
            if seen["steps"] >= goal or len(report.faults) >= 5:
                break
            report.progress(*((seen["steps"], goal) if goal < float("inf") else (number, 0)))
    return seen


def settle(report: Report, seen: Counter[str], floors: dict[str, int]) -> None:
    """Say what was seen beside what must have been."""
    report.must("promises broken, leftovers included", seen["violations"], "== 0")
    report.must("worlds", seen["worlds"], "> 0")
    for what, floor in floors.items():
        report.must(what, seen[what], f">= {floor}")


def find_planted(report: Report, kind: str, names: Iterable[str]) -> None:
    """The same worlds against a library with one defect: each must show, and soon."""
    mutants = {mutant.name: mutant for mutant in load()}
    for name in names:
        found = find(mutants[name], kind, report.seed, WORLDS_TO_FIND)
        report.control(f"world that shows: {name}", found.world, f"<= {WORLDS_TO_FIND}")


def replay(report: Report, kind: str, number: int) -> None:
    """One world once more, with everything that it broke."""
    with seeded():
        outcome = SIMULATORS[kind](report.seed, number)
    for what in outcome.violations:
        print(f"       {what}", file=report.out)
    report.must("promises broken in this world", len(outcome.violations), "== 0")
    report.must("steps of tasks", outcome.steps, "> 0")


def _tell(report: Report, outcome: Outcome) -> None:
    report.fault(
        f"world {outcome.number}: {'; '.join(outcome.violations[:3])}",
        f"python -m tests.torture {report.leg} --seed {report.seed} --only {outcome.number}",
    )
