"""
Mixed users through a bad network, by both drivers: no answer goes to another statement.

A proxy in front of PostgreSQL delays what is sent, dribbles it byte by byte, closes one half of a
connection, or cuts it off. The control is a proxy that now and then repeats the answer before.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import URL, NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from ringfence.testing.postgres import postgres_server

from .fault_proxy import Faults, fault_proxy
from .mixed_tables import DRIVERS, by_ringfence, make_tables, pooled
from .mixed_tally import Tally, judge_isolation
from .mixed_users import Attack, hush
from .report import Report

POOL = 20
COLUMNS = 4  # of the statement whose answers are judged


def run(report: Report) -> None:
    with postgres_server() as server, hush():
        seen = [
            asyncio.run(_by(driver, make_url(server.url(driver)), report)) for driver in DRIVERS
        ]
    for what, figure, full, short in (
        ("answers judged", sum(tally.judged for tally, _ in seen), 10_000, 250),
        ("cancelled", sum(tally.cancels for tally, _ in seen), 2_000, 20),
        ("connections cut off (RST)", sum(faults.resets for _, faults in seen), 60, 2),
        ("connections half closed", sum(faults.half_closes for _, faults in seen), 60, 2),
        ("pieces that dribbled", sum(faults.dribbles for _, faults in seen), 1_000, 30),
    ):
        report.must(f"both drivers: {what}", figure, f">= {report.size(full, short)}")


async def _by(driver: str, url: URL, report: Report) -> tuple[Tally, Faults]:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    scopes = report.size(4_600, 90)
    seed = f"{report.seed}/{driver}"
    harm = 0.006 if report.is_short else 0.0008
    faults = Faults(seed, reset=harm, half_close=harm, dribble=0.05)
    tally = await _through(driver, url, faults, scopes, report)
    judge_isolation(driver, tally, report)
    stale = Faults(seed, delay=0, stale=0.2 if report.is_short else 0.05)
    seen = await _through(driver, url, stale, report.size(400, 100), report)
    # Not all of them: some come to a statement that was cancelled.
    what = f"{driver}, {stale.stales} stale answers: noticed"
    report.control(what, seen.wrong_nonces, f"> {stale.stales // 2}")
    report.control(f"{driver}, stale answers: rows of another", seen.foreign)
    return tally, faults


async def _through(driver: str, url: URL, faults: Faults, scopes: int, report: Report) -> Tally:
    admin = create_async_engine(url, poolclass=NullPool)
    await make_tables(admin)
    async with fault_proxy(str(url.host), int(url.port or 0), faults, columns=COLUMNS) as port:
        engine = pooled(url.set(port=port), driver, POOL)
        async with by_ringfence(engine) as way:
            attack = Attack(way, engine, admin, faults.seed)
            faults.is_calm = False
            await attack.run(scopes, POOL + 5, None, lambda n: report.progress(n, scopes))
            faults.is_calm = True
            tally = await attack.look_at_what_is_left()
        await engine.dispose()
    await admin.dispose()
    return tally
