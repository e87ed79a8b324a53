"""
Scopes of many users over one pool, cancelled and cut off at random, each answer judged.

What a scope does, and how it is cancelled, is drawn from the seed and the number of the scope; what
becomes of that depends on the server's and the drivers' timing too. The judge knows the user as a
plain argument, and each statement by a number that its answer must repeat. The way to tell
PostgreSQL who it is comes from outside, so that the same attacks run against naive ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from .mixed_plans import Plan, Planned, Way
from .mixed_tally import Tally, outcome_of

APP, OWNER = "torture_app", "torture_owner"

READ = text(
    "SELECT CAST(:nonce AS bigint), string_agg(DISTINCT owner_id, ','), count(*), "
    "current_setting('ringfence.user_id', true) FROM torture.note"
)
WRITE = text("INSERT INTO torture.entry (body) VALUES (:body) RETURNING body")
STEAL = text("INSERT INTO torture.note (owner_id) VALUES (:other)")
SLEEP = text("SELECT pg_sleep(0.003)")
KILL = text(
    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
    f"WHERE usename = '{APP}' ORDER BY random() LIMIT 1) one"
)
MISTAKEN = text("SELECT count(*) FROM torture.entry WHERE split_part(body, ' ', 2) <> owner_id")


class Attack:
    """Runs plans against one engine, many at once."""

    def __init__(
        self,
        way: Way,
        engine: AsyncEngine,
        admin: AsyncEngine,
        seed: str,
        tally: Tally | None = None,
    ) -> None:
        self.way = way
        self.engine = engine
        self.admin = admin
        self.seed = seed
        self.tally = Tally() if tally is None else tally
        self._nonces = itertools.count(1)
        self._strays: set[asyncio.Task[Any]] = set()
        self._killing = asyncio.Lock()

    async def run(
        self,
        scopes: int,
        at_once: int,
        kill_every: int | None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """That many scopes, from number 0; a backend is killed with each `kill_every`-th."""
        numbers = iter(range(scopes))
        async with contextlib.AsyncExitStack() as stack:
            killer = await stack.enter_async_context(
                self.admin.execution_options(isolation_level="AUTOCOMMIT").connect()
            )

            async def work() -> None:
                for number in numbers:
                    progress(number)
                    await self._one(Plan.drawn(self.seed, number))
                    if kill_every and number % kill_every == 0:
                        await self._kill(killer)

            await asyncio.gather(*(work() for _ in range(at_once)))
        await asyncio.gather(*self._strays, return_exceptions=True)

    async def _kill(self, killer: Any) -> None:
        async with self._killing:
            self.tally.kills += (await killer.execute(KILL)).scalar_one()

    # --- one scope ----------------------------------------------------------------------------

    async def _one(self, plan: Plan) -> None:
        self.tally.scopes += 1
        task = asyncio.ensure_future(self._limited(plan))
        if plan.cancel.startswith("task"):
            times = 3 if plan.cancel.endswith("x3") else 1
            for again in range(times):
                asyncio.get_running_loop().call_later(plan.after + again * 0.0007, task.cancel)
        await asyncio.wait({task}, timeout=30)
        if not task.done():
            self.tally.fault("hung", str(plan))
            task.cancel()
            return
        outcome = outcome_of(task)
        self.tally.outcomes[outcome] += 1
        self.tally.cancels += outcome in ("cancelled", "timed out")

    async def _limited(self, plan: Plan) -> None:
        match plan.cancel:
            case "timeout":
                async with asyncio.timeout(plan.after):
                    await self._request(plan)
            case "anyio scope":
                with anyio.move_on_after(plan.after) as limit:
                    await self._request(plan)
                if limit.cancelled_caught:
                    raise TimeoutError
            case _:
                await self._request(plan)

    async def _request(self, plan: Plan) -> None:
        if plan.who is None:
            async with self.engine.connect() as connection:
                await self._read(plan, connection)
            return
        async with self.way.open(plan) as scope:
            for step in plan.steps:
                await self._do(step, plan, scope.db_session)

    async def _do(self, step: str, plan: Plan, session: AsyncSession) -> None:
        match step:
            case "read":
                await self._read(plan, session)
            case "write":
                await self._write(plan, session)
            case "steal":
                await self._refused(plan, session, STEAL, other=f"u{plan.who == 'u0':d}")
            case "fail":
                with contextlib.suppress(DBAPIError):
                    await session.execute(text("SELECT 1 / 0"))
                await session.rollback()
            case "commit":
                await session.commit()
                await self._read(plan, session)
            case "roll back":
                await session.rollback()
                await self._read(plan, session)
            case "savepoint":
                await self._savepoint(plan, session)
            case "sleep":
                await session.execute(SLEEP)
            case "child":
                await self._child(plan)
            case "children":
                await session.commit()
                await asyncio.gather(self._child(plan), self._child(plan))
            case "orphan" if self.way.may_be_left:
                self._stray(session.execute(SLEEP))
                await asyncio.sleep(0)
                raise Planned
            case _:
                raise Planned

    async def _read(self, plan: Plan, session: Any) -> None:
        nonce = next(self._nonces)
        answer = (await session.execute(READ, {"nonce": nonce})).one()
        self.tally.judge(plan.who, nonce, answer)

    async def _write(self, plan: Plan, session: AsyncSession) -> None:
        body = f"{next(self._nonces)} {plan.who}"
        if not plan.who:
            await self._refused(plan, session, WRITE, body=body)
        elif (answer := await session.scalar(WRITE, {"body": body})) != body:
            self.tally.fault("wrong_nonces", f"wrote {body!r}, answered {answer!r}")

    async def _refused(
        self, plan: Plan, session: AsyncSession, statement: Any, **values: Any
    ) -> None:
        try:
            await session.execute(statement, values)
        except DBAPIError as error:
            if "row-level security" not in str(error):
                raise
            await session.rollback()
        else:
            self.tally.fault("foreign", f"{plan.who!r} wrote what is not theirs")
            await session.commit()
        await self._read(plan, session)

    async def _savepoint(self, plan: Plan, session: AsyncSession) -> None:
        async with session.begin_nested() as savepoint:
            await self._read(plan, session)
            if plan.number % 2:
                await savepoint.rollback()
        await self._read(plan, session)

    async def _child(self, plan: Plan) -> None:
        async with self.way.child(plan) as child:
            await self._read(plan, child.db_session)

    def _stray(self, awaitable: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(awaitable)
        self._strays.add(task)

    # --- afterwards ---------------------------------------------------------------------------

    async def look_at_what_is_left(self) -> Tally:
        """Once all is over: on the pool, on each of its connections, and in the tables."""
        pool: Any = self.engine.pool
        self.tally.checked_out += pool.checkedout()
        if pool.checkedout():
            return self.tally  # there may be none left to ask
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(pool.size()):
                try:
                    async with asyncio.timeout(10):
                        await self._judge_a_pooled_connection(stack)
                except (TimeoutError, DBAPIError) as error:
                    self.tally.fault("unusable", f"the pool gives no connection: {error!r}")
        async with self.admin.connect() as connection:
            self.tally.mistaken += (await connection.execute(MISTAKEN)).scalar_one()
        return self.tally

    async def _judge_a_pooled_connection(self, stack: contextlib.AsyncExitStack) -> None:
        """One that nobody has: what it says of itself, with no hook of anybody's."""
        for chance in range(10):
            connection = await stack.enter_async_context(self.engine.connect())
            nonce = next(self._nonces)
            try:
                answer = (await connection.execute(READ, {"nonce": nonce})).one()
            except DBAPIError:  # it had been killed: the pool makes another
                await connection.close()
                if chance == 9:
                    raise
            else:
                self.tally.judge(None, nonce, answer)
                return


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """Drivers and the pool tell of every connection that died: they are to die here."""
    loggers = [logging.getLogger(name) for name in ("psycopg", "sqlalchemy.pool", "asyncio")]
    levels = [logger.level for logger in loggers]
    hook = sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
