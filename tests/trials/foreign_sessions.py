"""
Whose a session is, by numbers: every use we know, from every wrong place, by three drivers.

    python -m tests.trials.foreign_sessions [--drivers aiosqlite asyncpg psycopg]

Alice's request has a session, its own or one that it was given. Each use in
`tests/integrations/session_uses.py` is tried from another request, from where no scope is open,
by a task whose own scope has ended, by a second task while the first is in the middle of a call,
and, for own sessions, after alice's request has ended. Counted are the uses that were refused,
by the error that is right there, and whether anything came of them. What is not refused is
listed, each with its reason. The control is the same from another request with a session that
nobody guards: there nearly all of them go through. Two of the drivers need a PostgreSQL
(`ringfence.testing.postgres`).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError, InvalidRequestError, SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ringfence import (
    ConcurrentSessionError,
    ContextClosedError,
    NoContextError,
    SessionIsolationError,
    child_context,
)
from ringfence.state import _current
from ringfence.testing.postgres import postgres_server

from ..integrations.notes import DRIVERS, Note, bodies, checked_out, notes_on
from ..integrations.session_uses import ENDED, PERMITTED, REFUSED, Stolen, Use, World, do

KINDS = ("own", "explicit")


@attrs.define
class Report:
    """What happened by one driver."""

    driver: str
    refused: collections.Counter[str] = attrs.Factory(collections.Counter)
    permitted: int = 0
    unguarded: int = 0
    wrong: list[str] = attrs.Factory(list)

    @property
    def total(self) -> int:
        return self.refused.total()


Place = Callable[[World, Stolen, Use], contextlib.AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def another_request(world: World, stolen: Stolen, use: Use) -> AsyncIterator[None]:
    async with world.bob():
        yield


@contextlib.asynccontextmanager
async def no_scope(world: World, stolen: Stolen, use: Use) -> AsyncIterator[None]:
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.asynccontextmanager
async def an_ended_child(world: World, stolen: Stolen, use: Use) -> AsyncIterator[None]:
    block = child_context("tool")
    async with block:
        pass
    token = _current.set(block)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.asynccontextmanager
async def a_second_task(world: World, stolen: Stolen, use: Use) -> AsyncIterator[None]:
    await stolen.stream.close()
    first = asyncio.ensure_future(stolen.session.execute(select(Note)))
    await asyncio.sleep(0)  # it has begun, and waits for the database
    if first.done():
        raise RuntimeError("the first call had ended before the second was tried")
    try:
        yield
    finally:
        await first


PLACES: dict[str, tuple[Place, dict[str, Use], type[Exception]]] = {
    "another request": (another_request, REFUSED, SessionIsolationError),
    "no scope": (no_scope, REFUSED, NoContextError),
    "an ended child": (an_ended_child, ENDED, ContextClosedError),
    "a second task": (a_second_task, REFUSED, ConcurrentSessionError),
}
AFTER = "after the request"


def _is_right(error: Exception, expected: type[Exception], name: str) -> bool:
    # A transaction that is ending refuses its own methods by itself.
    by_itself = isinstance(error, IllegalStateChangeError) and "held transaction" in name
    return isinstance(error, expected) or by_itself


async def _try(
    report: Report, world: World, kind: str, place: str, name: str, use: Use | None = None
) -> None:
    enter, uses, expected = PLACES[place]
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        async with enter(world, stolen, uses[name]):
            error = await _attempt(uses[name], stolen)
        if error is not None and _is_right(error, expected, name):
            report.refused[f"{kind}, {place}"] += 1
        else:
            report.wrong.append(f"{kind}, {place}, {name}: {error!r}")
        await stolen.stream.close()
        if len((await alice.db_session.scalars(select(Note.id))).all()) != 2:
            report.wrong.append(f"{kind}, {place}, {name}: something came of it")
        await alice.db_session.rollback()


async def _attempt(use: Use, stolen: Stolen) -> Exception | None:
    try:
        await do(use, stolen)
    except Exception as error:
        return error
    return None


async def _try_after(report: Report, world: World, name: str) -> None:
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        await stolen.stream.close()
    async with world.bob():
        error = await _attempt(ENDED[name], stolen)
    if isinstance(error, ContextClosedError):
        report.refused[f"own, {AFTER}"] += 1
    else:
        report.wrong.append(f"own, {AFTER}, {name}: {error!r}")


async def _try_permitted(report: Report, world: World, kind: str, name: str) -> None:
    async with world.alice() as alice:
        stolen = await Stolen(alice.db_session).take()
        if name == "setting an attribute, after other changes":
            stolen.author.name = "by alice"
        async with world.bob():
            error = await _attempt(PERMITTED[name][0], stolen)
        if error is None:
            report.permitted += 1
        else:
            report.wrong.append(f"{kind}, permitted, {name}: {error!r}")
        await stolen.stream.close()
        await alice.db_session.rollback()


async def _try_unguarded(report: Report, engine: AsyncEngine, name: str) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        stolen = await Stolen(session).take()
        await stolen.stream.close()  # a use that takes its connection away would leave it open
        if await _attempt(REFUSED[name], stolen) is None:
            report.unguarded += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # a held connection was closed under it
            with contextlib.suppress(DBAPIError, InvalidRequestError):  # whatever the use has left
                await session.rollback()


async def run(driver: str, engine: AsyncEngine) -> Report:
    """Try everything by one driver."""
    report = Report(driver)
    for kind in KINDS:
        world = World(engine, kind)
        for place, (_, uses, _) in PLACES.items():
            for name in uses:
                await _try(report, world, kind, place, name)
        for name in PERMITTED:
            await _try_permitted(report, world, kind, name)
        if world.given is not None:
            await world.given.close()
    for name in REFUSED:
        await _try_unguarded(report, engine, name)
    for name in ENDED:
        await _try_after(report, World(engine, "own"), name)
    if await bodies(engine) != ["one", "two"]:
        report.wrong.append("the notes have changed")
    if checked_out(engine):
        report.wrong.append(f"{checked_out(engine)} connections are checked out")
    return report


def expected_counts() -> dict[str, int]:
    """How many uses are to be refused, by kind and place."""
    counts = {f"{kind}, {place}": len(PLACES[place][1]) for kind in KINDS for place in PLACES}
    return {**counts, f"own, {AFTER}": len(ENDED)}


def show(report: Report) -> None:
    """Print one report."""
    expected = expected_counts()
    print(f"{report.driver}: {report.total} of {sum(expected.values())} uses refused")
    for where, count in expected.items():
        print(f"  {where:27} {report.refused[where]:3} of {count}")
    print(f"  not refused, documented     {report.permitted:3} ({len(PERMITTED)} of each kind)")
    print(f"  control: went through       {report.unguarded:3} of {len(REFUSED)}")
    for line in report.wrong:
        print(f"  WRONG: {line}")


def main() -> int:
    """Run by each driver; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--drivers", nargs="+", choices=DRIVERS, default=DRIVERS)
    options = parser.parse_args()
    reports: list[Report] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        needs_server = set(options.drivers) != {"aiosqlite"}
        server = stack.enter_context(postgres_server()) if needs_server else None
        for driver in options.drivers:
            reports.append(asyncio.run(_main(driver, lambda: server, folder)))
    print("Not refused, each with its reason:")
    for name, (_, reason) in PERMITTED.items():
        print(f"  {name}: {reason}")
    return 1 if any(report.wrong for report in reports) else 0


async def _main(driver: str, server: Callable[[], object], folder: Path) -> Report:
    async with notes_on(driver, server, folder) as engine:  # type: ignore[arg-type]
        report = await run(driver, engine)
    show(report)
    return report


if __name__ == "__main__":
    sys.exit(main())
