"""The legs of the torture run, and which of the two cores each runs on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import attrs

from .report import Report


@attrs.frozen
class Leg:
    """`run(report)` of the module does the work; of one that `has_parts`, `--only` runs one."""

    name: str
    about: str
    lane: int
    needs_postgres: bool = False
    has_parts: bool = False

    def run(self, report: Report) -> None:
        module = importlib.import_module(f"tests.torture.{self.name}")
        cast(Callable[[Report], None], module.run)(report)


LEGS: dict[str, Leg] = {
    leg.name: leg
    for leg in (
        Leg(
            "simulation", "the library on an event loop that a seed decides", lane=1, has_parts=True
        ),
        Leg("trio_simulation", "the same on trio's scheduler", lane=1, has_parts=True),
        Leg("memory", "what a hundred thousand scopes leave behind", lane=1),
        Leg(
            "malformed",
            "ids, headers, data and tokens that nobody may take",
            lane=1,
            has_parts=True,
        ),
        Leg("machine", "scopes, children and owned objects in any order of steps", lane=1),
        Leg("kit", "the torture command finds what is planted, and passes what is right", lane=2),
        Leg(
            "postgres",
            "mixed users over pools of PostgreSQL, cancelled and cut off",
            lane=2,
            needs_postgres=True,
        ),
        Leg(
            "proxy", "mixed users through a bad network to PostgreSQL", lane=2, needs_postgres=True
        ),
        Leg(
            "row_security",
            "role by table by command by whose row, and the ways round",
            lane=2,
            needs_postgres=True,
        ),
    )
}
