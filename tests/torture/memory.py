"""A hundred thousand scopes leave nothing behind: memory, open scopes, entries of the registry."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ringfence import (
    Ringfence,
    Settings,
    UserExecutionContext,
    child_context,
    current_scope,
    owned,
    user_context,
)
from ringfence.isolation import registry
from ringfence.state import open_roots

from .report import Report
from .simulation.sessions import FakeDatabase, Pool

SCOPES = 100_000
SHORT_SCOPES = 2_000
MIB = 1024 * 1024
BUSY = 60.0
"""Seconds that a busy machine may take over anything: this is no test of speed."""
LEAK = 2_000
"""Scopes that the control runs, with somebody who keeps each context."""


@owned
class Notes:
    """What a request's agent keeps."""

    def __init__(self) -> None:
        self.lines = ["one"]


@asynccontextmanager
async def _resource() -> AsyncIterator[str]:
    yield "open"


class Application:
    """Requests, some at once; `leak` is a list that keeps what nobody should."""

    def __init__(self) -> None:
        self.pool = Pool(asyncio.sleep, patience=BUSY)
        settings = Settings(finaliser_timeout=BUSY)
        self.fence = Ringfence(settings=settings, database=FakeDatabase(self.pool))
        self.leak: list[UserExecutionContext] | None = None
        self.scopes = 0

    async def serve(self, number: int) -> None:
        """A root with a child, and by turns what makes a scope hold something."""
        user = f"user-of-the-memory-leg-{number % 50}"
        data: Any = {"number": [number]}
        async with user_context(user, fence=self.fence, agent_context=data) as context:
            if self.leak is not None:
                self.leak.append(context)
            scope = current_scope()
            scope.own([number])
            scope.own(Notes())
            scope.callback(int)
            if number % 4 == 0:
                await scope.enter(_resource())
            if number % 3 == 0:
                scope.callback(asyncio.sleep, 0)
            async with child_context("operation"):
                await current_scope().db_session.execute(user)
                context.verify_isolation()
        self.scopes += 2

    async def run(self, count: int, report: Report | None = None) -> None:
        """Serve so many scopes."""
        goal = self.scopes + count
        while self.scopes < goal:
            await asyncio.gather(*(self.serve(self.scopes + each) for each in range(20)))
            if report is not None:
                report.progress(self.scopes, goal)


async def _growth(app: Application, count: int, report: Report | None = None) -> float:
    """
    By how many MiB the objects that Python holds grew while so many scopes came and went.

    What tracemalloc counts, after the collector has run: every byte that an object of Python
    holds, and no page that the allocator merely keeps for later, as the resident size would.
    """
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    await app.run(count, report)
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / MIB


def run(report: Report) -> None:
    """Count what is left, and see that the same count notices a leak."""
    asyncio.run(_measure(report))


async def _measure(report: Report) -> None:
    app, count = Application(), report.size(SCOPES, SHORT_SCOPES)
    async with app.fence:
        await app.run(1000)  # whatever is made once is made
        tracemalloc.start()
        try:
            grown = await _growth(app, count, report)
            done, entries, roots = app.scopes - 1000, len(registry), len(open_roots())
            app.leak = []
            leaked = await _growth(app, LEAK)
        finally:
            tracemalloc.stop()
    report.must("scopes", done, f">= {count}")
    report.must("MiB grown", grown, "< 1")
    report.must("scopes open", roots, "== 0")
    report.must("objects registered", entries, "== 0")
    report.must("connections out", app.pool.size - len(app.pool.idle), "== 0")
    report.control(f"MiB grown by {LEAK} scopes, if somebody keeps each context", leaked, "> 1")
