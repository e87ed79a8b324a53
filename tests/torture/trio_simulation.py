"""The same worlds on trio, whose scheduler draws from the seed: what is not asyncio's own."""

from __future__ import annotations

from .report import Report
from .simulation.leg import find_planted, replay, run_worlds, settle

WORLDS = 10_000
SHORT_WORLDS = 40
FLOORS = {
    "cancels": 80,
    "orphans": 60,
    "pipelined births": 150,
    "finalisers": 300,
    "statements": 80,
    "refused after the end": 500,
    "refused: foreign session": 15,
    "refused: foreign object": 8,
    "refused: foreign owned object": 60,
    "refused: foreign scope": 20,
}
"""How often at least, in 100 worlds."""
PLANTED = (
    "3: the state is not set",
    "4: any open scope may use an owned object",
    "5: children are left open",
    "3: readers fall back to what is beneath",
)


def run(report: Report) -> None:
    """So many worlds; then defects that must show in a few of them."""
    if report.only:
        replay(report, "trio", int(report.only))
        return
    count = report.size(WORLDS, SHORT_WORLDS)
    seen = run_worlds(report, "trio", range(count), float("inf"))
    report.must("worlds run", seen["worlds"], f"== {count}")
    settle(report, seen, {what: floor * count // 100 for what, floor in FLOORS.items()})
    find_planted(report, "trio", PLANTED[: report.size(len(PLANTED), 1)])
