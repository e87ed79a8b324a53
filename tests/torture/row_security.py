"""
Row-level security, cell by cell, and the ways round it.

Role by table by command by {own, foreign, unset, empty, nobody}: no denial counts unless the same
statement reaches the row for its owner, and for a role that is not subject to policies. Then each
known way round is tried on tables that are made for it: what leads to another's rows must be found
by the check that is made when a fence opens, and what does not must not.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ringfence import Identity, Ringfence
from ringfence.testing.postgres import PostgresServer, postgres_server

from ..integration.row_security import (
    ALICE,
    BOB,
    Databases,
    Unchecked,
    cells,
    databases,
    fence_of,
    said,
    touched,
)
from .mixed_tables import DRIVERS
from .report import Report
from .ways_round import WAYS, Way, attempt

SUBJECT, NOT_SUBJECT = ("rls_app", "rls_owner"), ("rls_bypass", None)
OTHER = {ALICE: BOB, BOB: ALICE}
PRETEND = text("SELECT set_config('ringfence.user_id', :id, true)")


def run(report: Report) -> None:
    with postgres_server() as server:
        rng = random.Random(report.seed)
        drivers = rng.sample(DRIVERS, report.size(2, 1))
        ways = sorted(rng.sample(WAYS, report.size(len(WAYS), 10)), key=WAYS.index)
        for driver in drivers:
            asyncio.run(_matrix(driver, server, report))
            asyncio.run(_ways_round(driver, ways, server, report))


# --- the matrix -------------------------------------------------------------------------------


async def _matrix(driver: str, server: PostgresServer, report: Report) -> None:
    seen: Counter[str] = Counter()
    async with databases(server, driver) as db:
        for role in SUBJECT:
            await _cells_of(db, role, seen, report)
        for role in NOT_SUBJECT:
            await _reached_by(db, role, seen)
    report.must(f"{driver}: cells", seen["cells"], ">= 400")
    report.must(f"{driver}: denials", seen["denials"], f"== {seen['cells'] - seen['own']}")
    report.must(f"{driver}: denials that failed", seen["leaks"], "== 0")
    report.control(f"{driver}: the same by its owner", seen["own"], f"== {seen['rows']}")
    report.control(
        f"{driver}: the same by a role that is not subject", seen["bypassed"], f"== {seen['rows']}"
    )


async def _cells_of(db: Databases, role: str, seen: Counter[str], report: Report) -> None:
    async with db.engine(role) as engine, db.engine(role) as fresh:
        async with (
            fence_of(engine, Unchecked()) as fence,
            fresh.connect() as unset,
            fresh.connect() as empty,
        ):
            await empty.execute(PRETEND, {"id": ALICE.user_id})
            await empty.rollback()  # what is left of it is the empty string, for good
            for table, command, whose in cells():
                cell = f"{role} {command} {table} of {whose.tenant_id}"
                what = (command, table, whose)
                denied = {
                    "foreign": await _by(fence, OTHER[whose], *what),
                    "nobody": await _by(fence, None, *what),
                    "unset": await _bare(unset, None, *what),
                    "empty": await _bare(empty, "", *what),
                }
                seen["rows"] += 1
                seen["own"] += await _by(fence, whose, *what)
                seen["cells"] += 1 + len(denied)
                seen["denials"] += sum(reached == 0 for reached in denied.values())
                for how, reached in denied.items():
                    if reached:
                        seen["leaks"] += 1
                        report.fault(f"{cell}: {how} reached {reached}", _replay(report))


async def _by(fence: Ringfence, who: Identity | None, *what: Any) -> int:
    async with fence.nobody() if who is None else fence.user_context(who) as scope:
        return await touched(scope.db_session, *what)


async def _bare(connection: AsyncConnection, expected: str | None, *what: Any) -> int:
    assert (await said(connection))[0] == expected
    return await touched(connection, *what)


async def _reached_by(db: Databases, role: str | None, seen: Counter[str]) -> None:
    async with db.engine(role) as engine, engine.connect() as connection:
        for table, command, whose in cells():
            seen["bypassed"] += await touched(connection, command, table, whose)


# --- the ways round ---------------------------------------------------------------------------


async def _ways_round(driver: str, ways: list[Way], server: PostgresServer, report: Report) -> None:
    led, found, alarms, missed, real = 0, 0, 0, 0, 0
    for number, way in enumerate(ways):
        report.progress(number, len(ways))
        async with databases(server, driver) as db:
            outcome = await attempt(db, way)
        leads, is_found = outcome.leads, outcome.is_found
        real += outcome.is_real and not way.is_hole
        if leads and not is_found:
            missed += 1
        if not (leads or outcome.is_real):
            report.fault(f"{driver}, {way.name}: nothing could be reached there", _replay(report))
        if (leads, is_found) != (way.is_hole, way.is_hole):
            report.fault(f"{driver}, {way.name}: leads {leads}, found {is_found}", _replay(report))
        led += leads
        found += leads and is_found
        alarms += is_found and not leads
    holes = sum(way.is_hole for way in ways)
    sound = len(ways) - holes
    report.must(f"{driver}: ways round that lead somewhere, not found", missed, "== 0")
    report.must(f"{driver}: ways round that lead nowhere, {sound} tried, found", alarms, "== 0")
    report.control(f"{driver}: ways round that lead somewhere", led, f"== {holes}")
    report.control(f"{driver}: of the others, that could have", real, f"== {sound}")
    report.control(f"{driver}: of those that lead, found by the check", found, f"== {holes}")


def _replay(report: Report) -> str:
    return f"python -m tests.torture {report.leg} --seed {report.seed}"
