"""
Mixed users over pools of three sizes, by both drivers, on a real PostgreSQL.

Scopes are cancelled at random moments, backends are killed beneath them. The login role owns
nothing, and row-level security is checked when the fence opens, as in an application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from ringfence.testing.postgres import postgres_server

from .mixed_plans import Way
from .mixed_tables import (
    DRIVERS,
    by_ringfence,
    by_session,
    by_session_and_reset,
    engines,
    make_tables,
    never_closed,
    once,
)
from .mixed_tally import Tally, judge_isolation
from .mixed_users import Attack, hush
from .report import Report

POOLS = (5, 10, 20)
KILL_EVERY = 30
NAIVE = {
    "`SET`, never reset": by_session,
    "`SET`, and `RESET ALL` on return": by_session_and_reset,
}
Ways = Callable[[AsyncEngine], AbstractAsyncContextManager[Way]]


def run(report: Report) -> None:
    with postgres_server() as server, hush():
        for driver in DRIVERS:
            asyncio.run(_by(driver, make_url(server.url(driver)), report))


async def _by(driver: str, url: URL, report: Report) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    tally = Tally()
    for pool in POOLS:
        await _on_a_pool(driver, url, pool, tally, report)
    judge(driver, tally, report)
    wrong = 0
    for name, way_of in NAIVE.items():
        seen = await _naive(driver, url, 5, way_of, report.seed, report.size(600, 200))
        report.control(f"{driver}, {name}: rows of another", seen.foreign)
        report.control(f"{driver}, {name}: settings left", seen.settings_left)
        wrong += seen.mistaken
    report.control(f"{driver}, `SET`: rows written for another", wrong)
    seen = await _naive(driver, url, 10, once, report.seed, 100)
    report.control(f"{driver}, told only once: rows not found", seen.missing)
    seen = await _naive(driver, url, 80, never_closed, report.seed, 20)
    report.control(f"{driver}, never closed: connections checked out", seen.checked_out)


async def _on_a_pool(driver: str, url: URL, pool: int, tally: Tally, report: Report) -> None:
    scopes = report.size(6_670, 80)
    before = (DRIVERS.index(driver) * len(POOLS) + POOLS.index(pool)) * scopes
    total = len(DRIVERS) * len(POOLS) * scopes
    async with engines(url, driver, pool) as (engine, admin):
        await make_tables(admin)
        async with by_ringfence(engine) as way:
            attack = Attack(way, engine, admin, f"{report.seed}/{driver}/{pool}", tally)
            await attack.run(
                scopes, pool + 5, KILL_EVERY, lambda n: report.progress(before + n, total)
            )
            await attack.look_at_what_is_left()


async def _naive(driver: str, url: URL, pool: int, way_of: Ways, seed: int, scopes: int) -> Tally:
    """The same scopes, cancels and kills, and the same judge."""
    async with engines(url, driver, pool) as (engine, admin):
        await make_tables(admin)
        async with way_of(engine) as way:
            attack = Attack(way, engine, admin, f"{seed}/{driver}/5")
            await attack.run(scopes, 10, KILL_EVERY)
            return await attack.look_at_what_is_left()


def judge(driver: str, tally: Tally, report: Report) -> None:
    """What ringfence promises of it, and that the attacks took place."""
    report.must(f"{driver}: mixed-user scopes", tally.scopes, f">= {report.size(20_000, 240)}")
    report.must(f"{driver}: answers judged", tally.judged, f">= {report.size(30_000, 350)}")
    report.must(f"{driver}: cancelled", tally.cancels, f">= {report.size(3_000, 25)}")
    report.must(f"{driver}: backends killed", tally.kills, f">= {report.size(600, 6)}")
    judge_isolation(driver, tally, report)
