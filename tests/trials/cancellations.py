"""
Sessions under random cancels, by three drivers: no connection is left checked out.

    python -m tests.trials.cancellations --trials 1000 --seed 1

Each trial is a request that takes a connection, sends statements, reads a stream, commits, gives
its connection back for a while, runs a child with a session of its own, and closes. It is
cancelled in one of five ways a few moments after it has reached a given phase. PostgreSQL gets
ten at once, over a pool of four, so that some wait for a connection. After each round: no
connection checked out, no scope open, no task left. At the end: whoever ended well has its row,
whoever had not begun to commit has none, the pool gives out every connection it has, and
(PostgreSQL) the server knows of no open transaction. A cancel at COMMIT is in doubt by nature: it
may or may not have come through.

On SQLite a few requests may find the database locked, as they do without ringfence: SQLAlchemy
tells the thread of a cancelled connection to close it, and goes on before it has.

The control is the same request with a session that is closed in a `finally` only.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import logging
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ringfence import Ringfence, child_context
from ringfence import tasks as ringfence_tasks
from ringfence.integrations.sqlalchemy import released_connection
from ringfence.state import open_roots
from ringfence.testing.postgres import postgres_server

from ..integrations.notes import DRIVERS, Note, bodies, checked_out, fence_for, notes_on

KINDS = ("task x1", "task x3", "anyio scope", "timeout", "deadline")
PHASES = ("checkout", "statement", "stream", "commit", "released", "close", "after")
LOCKED = ("aiosqlite", "OperationalError")
AT_ONCE = {"postgresql": 10, "sqlite": 1}  # which has one writer: others wait in a thread
POOL = {"pool_size": 4, "max_overflow": 0}
SLOW = {
    "postgresql": "select pg_sleep(0.003)",
    "sqlite": "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) "
    "select count(*) from n",
}


@attrs.define
class Report:
    """What happened by one driver."""

    driver: str
    trials: int = 0
    landed: collections.Counter[str] = attrs.Factory(collections.Counter)
    by_kind: collections.Counter[str] = attrs.Factory(collections.Counter)
    outcomes: collections.Counter[str] = attrs.Factory(collections.Counter)
    in_doubt: int = 0
    left: int = 0
    wrong: list[str] = attrs.Factory(list)


class Trial:
    """One request, and who cancels it."""

    def __init__(self, rng: random.Random, number: int) -> None:
        self.body = f"note {number}"
        self.kind = rng.choice(KINDS)
        self.target = rng.choice(PHASES[:-1])
        self.ticks = rng.choice((0, 1, 2, 3, 5, 8, 20))
        self.delay = rng.choice((0.0, 0.0, 0.001, 0.003))
        self.deadline = rng.uniform(0.0005, 0.04)
        self.phase = "before"
        self.landed = "none"
        self.reached = {phase: asyncio.Event() for phase in PHASES}
        self.scope = anyio.CancelScope()
        self.timeout: asyncio.Timeout | None = None

    def __str__(self) -> str:
        return f"{self.kind}, aimed at {self.target}, landed in {self.landed}"

    def enter_phase(self, phase: str) -> None:
        self.phase = phase
        self.reached[phase].set()

    @property
    def began_to_commit(self) -> bool:
        return self.reached["commit"].is_set()

    async def cancel(self, task: asyncio.Task[Any]) -> None:
        """Wait for the phase and a few moments, then strike."""
        await self.reached[self.target].wait()
        for _ in range(self.ticks):
            await asyncio.sleep(0)
        if self.delay:
            await asyncio.sleep(self.delay)
        self.landed = self.phase
        if self.kind == "anyio scope":
            self.scope.cancel()
        elif self.kind == "timeout" and self.timeout is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self.timeout.reschedule(0)
        elif self.kind.startswith("task"):
            for _ in range(int(self.kind[-1])):
                task.cancel()
                await asyncio.sleep(0)


async def _use(trial: Trial, session: AsyncSession) -> None:
    dialect = session.get_bind().dialect.name
    trial.enter_phase("checkout")
    await session.connection()
    trial.enter_phase("statement")
    await session.execute(text(SLOW[dialect]))
    trial.enter_phase("stream")
    rows = await session.stream(select(Note.id).execution_options(yield_per=1))
    async for _ in rows:
        await asyncio.sleep(0)
    await rows.close()
    await session.execute(insert(Note).values(body=trial.body))
    trial.enter_phase("commit")
    await session.commit()


async def _with_ringfence(trial: Trial, engine: AsyncEngine, fence: Ringfence) -> None:
    timeout = trial.deadline if trial.kind == "deadline" else None
    async with fence.user_context("user-1", timeout=timeout) as user:
        await _use(trial, user.db_session)
        trial.enter_phase("released")
        await user.db_session.execute(select(Note.id).limit(1))
        async with released_connection():
            await asyncio.sleep(0.001)
            async with child_context("tool") as child:
                await child.db_session.execute(select(Note.id).limit(1))
        await user.db_session.execute(select(Note.id).limit(1))
        trial.enter_phase("close")
    trial.enter_phase("after")


async def _with_finally(trial: Trial, engine: AsyncEngine, fence: Ringfence) -> None:
    session = AsyncSession(engine)
    try:
        async with asyncio.timeout(trial.deadline if trial.kind == "deadline" else None):
            await _use(trial, session)
            trial.enter_phase("released")
            await session.execute(select(Note.id).limit(1))
    finally:
        trial.enter_phase("close")
        await session.close()
    trial.enter_phase("after")


Request = Callable[[Trial, AsyncEngine, Ringfence], Awaitable[None]]


async def run_trial(trial: Trial, request: Awaitable[None]) -> str:
    """Run it, and say what came out: `ok`, or the name of the exception."""

    async def run() -> None:
        with trial.scope:
            async with asyncio.timeout(None) as trial.timeout:
                await request

    task = asyncio.create_task(run())
    strike = asyncio.create_task(trial.cancel(task))
    await asyncio.wait({task}, timeout=10)
    if not task.done():
        return "hangs"
    strike.cancel()
    await asyncio.wait({strike})
    if task.cancelled():
        return "CancelledError"
    error = task.exception()
    if error is not None:
        return type(error).__name__
    return "swallowed by its scope" if trial.scope.cancelled_caught else "ok"


def expected(trial: Trial) -> set[str]:
    """The outcomes that are right for how it was cancelled."""
    if trial.kind in ("timeout", "deadline"):
        return {"TimeoutError", "ok"}
    if trial.kind == "anyio scope":
        return {"swallowed by its scope", "ok"}
    return {"CancelledError", "ok"}


async def run(
    driver: str, engine: AsyncEngine, trials: int, seed: int, *, control: bool = False
) -> Report:
    """Run that many trials by one driver, all drawn from `seed`."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    # asyncpg tells it of the connections that were terminated on purpose.
    loop.set_exception_handler(lambda *_: None)
    try:
        return await _run(Report(driver), engine, trials, random.Random(seed), control)
    finally:
        gc.collect()  # so that what it still has to tell, it tells here
        await asyncio.sleep(0)
        loop.set_exception_handler(handler)


async def _run(
    report: Report, engine: AsyncEngine, trials: int, rng: random.Random, control: bool
) -> Report:
    fence = fence_for(engine)
    request: Request = _with_finally if control else _with_ringfence
    must, must_not = {"one", "two"}, set[str]()
    before = len(asyncio.all_tasks())
    at_once = AT_ONCE[engine.dialect.name]
    await _let_readers_be(engine)
    for first in range(0, trials, at_once):
        batch = [Trial(rng, number) for number in range(first, min(first + at_once, trials))]
        outcomes = await asyncio.gather(
            *(run_trial(trial, request(trial, engine, fence)) for trial in batch)
        )
        for trial, outcome in zip(batch, outcomes, strict=True):
            _note(report, trial, outcome)
            if outcome == "ok" or trial.reached["released"].is_set():
                must.add(trial.body)
            elif trial.began_to_commit:
                report.in_doubt += 1
            else:
                must_not.add(trial.body)
        await _look_for_what_is_left(report, engine, before, first)
    committed = set(await bodies(engine))
    report.wrong += [f"{body} is lost" for body in sorted(must - committed)]
    report.wrong += [f"{body} was not to be" for body in sorted(must_not & committed)]
    report.wrong += await _is_usable(engine)
    return report


async def _let_readers_be(engine: AsyncEngine) -> None:
    """SQLite: a cancelled read, which its driver has not let go of, would lock writers out."""
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:
            await connection.execute(text("PRAGMA journal_mode = WAL"))


def _note(report: Report, trial: Trial, outcome: str) -> None:
    report.trials += 1
    report.landed[trial.landed] += 1
    report.by_kind[trial.kind] += 1
    report.outcomes[outcome] += 1
    if outcome not in expected(trial) and (report.driver, outcome) != LOCKED:
        report.wrong.append(f"{trial.body}: {trial}: {outcome}")


async def _look_for_what_is_left(
    report: Report, engine: AsyncEngine, tasks: int, first: int
) -> None:
    await asyncio.sleep(0)
    held, roots = checked_out(engine), len(open_roots())
    others = [task for task in asyncio.all_tasks() if not _is_sqlalchemys(task)]
    running = len(ringfence_tasks._running) + len(others) - tasks
    report.left += held
    if held or roots or running:
        report.wrong.append(
            f"after {first}: {held} connections, {roots} scopes, {running} tasks are left"
        )


def _is_sqlalchemys(task: asyncio.Task[Any]) -> bool:
    """Whether it only waits for SQLite's thread, which SQLAlchemy has told to close."""
    return "_terminate_graceful_close" in repr(task.get_coro())


async def _is_usable(engine: AsyncEngine) -> list[str]:
    """Take every connection of the pool at once; ask the server what is open."""
    wrong: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(POOL["pool_size"]):
            with anyio.move_on_after(2) as limit:
                connection = await stack.enter_async_context(engine.connect())
                await connection.execute(text("select 1"))
                await connection.rollback()
            if limit.cancelled_caught:
                return ["the pool gives out no more connections"]
        if engine.dialect.name == "postgresql":
            state = "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
            if count := await connection.scalar(text(state)):
                wrong.append(f"{count} transactions are open at the server")
    return wrong


def show(report: Report) -> None:
    """Print one report."""
    print(f"{report.driver}: {report.trials} trials, {report.left} connections left checked out")
    print("  cancels landed in  " + "  ".join(f"{p} {report.landed[p]}" for p in PHASES))
    print("  kinds              " + "  ".join(f"{k} {report.by_kind[k]}" for k in KINDS))
    print("  outcomes           " + "  ".join(f"{k} {v}" for k, v in report.outcomes.items()))
    print(f"  cancelled at COMMIT, in doubt: {report.in_doubt}   wrong: {len(report.wrong)}")
    for line in report.wrong[:5]:
        print(f"    {line}")


def main() -> int:
    """Run by each driver; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="run the control instead")
    parser.add_argument("--drivers", nargs="+", choices=DRIVERS, default=DRIVERS)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    for name in ("psycopg", "sqlalchemy.pool"):  # they tell of each cancel
        logging.getLogger(name).setLevel(logging.CRITICAL)
    wrong = 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        needs_server = set(options.drivers) != {"aiosqlite"}
        server: Any = stack.enter_context(postgres_server()) if needs_server else None
        for driver in options.drivers:
            report = asyncio.run(_main(driver, server, folder, options))
            wrong += len(report.wrong)
    return 1 if wrong else 0


async def _main(driver: str, server: Any, folder: Path, options: Any) -> Report:
    async with notes_on(driver, lambda: server, folder, **POOL) as engine:
        report = await run(driver, engine, options.trials, options.seed, control=options.control)
    show(report)
    return report


if __name__ == "__main__":
    sys.exit(main())
