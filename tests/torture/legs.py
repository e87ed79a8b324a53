"""The legs of the torture run, and which of the two cores each runs on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import attrs

from .report import Report


@attrs.frozen
class Leg:
    """`run(report)` of the module does the work."""

    name: str
    about: str
    lane: int
    needs_postgres: bool = False

    def run(self, report: Report) -> None:
        module = importlib.import_module(f"tests.torture.{self.name}")
        cast(Callable[[Report], None], module.run)(report)


LEGS: dict[str, Leg] = {
    leg.name: leg
    for leg in (
        Leg("malformed", "ids, headers, data and tokens that nobody may take", 1),
        Leg("machine", "scopes, children and owned objects in any order of steps", 1),
        Leg("postgres", "mixed users over pools of PostgreSQL, cancelled and cut off", 2, True),
        Leg("proxy", "mixed users through a bad network to PostgreSQL", 2, True),
        Leg("row_security", "role by table by command by whose row, and the ways round", 2, True),
    )
}
