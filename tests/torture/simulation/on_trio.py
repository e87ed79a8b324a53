"""One world on trio, whose scheduler draws from the seed, under a clock that jumps."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

import trio
import trio._core._run as scheduler
from trio.testing import MockClock

from .oracle import World
from .outcome import Outcome
from .seeded import chance_of, fresh_ids
from .worlds import left_over, live, make_world, see_that_all_is_drained

__all__ = ["run_trio_world"]

FOR_EVER = 100_000.0
"""Seconds of the world's clock that nobody waits for, unless everybody waits in vain."""


class TrioRunner:
    """Tasks of one nursery, any of which may be cancelled by its cancel scope."""

    is_asyncio = False
    sleep: Callable[[float], Awaitable[None]] = staticmethod(trio.sleep)

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.scopes: dict[trio.CancelScope, None] = {}

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        scope = trio.CancelScope()
        self.scopes[scope] = None
        self.nursery.start_soon(self._run, scope, work)

    async def _run(self, scope: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with scope:
                await work()
        finally:
            del self.scopes[scope]

    def cancel_one(self, chance: Random) -> bool:
        if not self.scopes:
            return False
        chance.choice(list(self.scopes)).cancel()
        return True


class Steps(trio.abc.Instrument):
    """Counts how often a task was resumed."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: object) -> None:
        self.count += 1


@contextlib.contextmanager
def _deterministic(seed: str) -> Iterator[None]:
    """What trio does for Hypothesis: the order of a batch depends on its own generator only."""
    parts: Any = scheduler
    before = parts._ALLOW_DETERMINISTIC_SCHEDULING
    parts._ALLOW_DETERMINISTIC_SCHEDULING = True
    parts._r.seed(seed)
    try:
        yield
    finally:
        parts._ALLOW_DETERMINISTIC_SCHEDULING = before


def run_trio_world(seed: int, number: int) -> Outcome:
    """Run one world; within `seeded()` it depends on these two numbers only."""
    fresh_ids()
    chance, steps, worlds = chance_of(seed, number), Steps(), list[World]()
    with _deterministic(f"{seed}/{number}"):
        try:
            trio.run(
                _main, chance, worlds, clock=MockClock(autojump_threshold=0), instruments=[steps]
            )
        except BaseException as error:
            worlds[0].violation(f"{type(error).__name__}: {error!r}")
    world = worlds[0]
    left_over(world)
    trace = hash((world.trace, steps.count))
    return Outcome(number, steps.count, world.violations, dict(world.tally), trace)


async def _main(chance: Random, worlds: list[World]) -> None:
    with trio.fail_after(FOR_EVER):
        async with trio.open_nursery() as nursery:
            runner = TrioRunner(nursery)
            world = make_world(chance, runner)
            worlds.append(world)
            async with world.fence:
                await live(world)
                world.is_cut = world.likely(0.15)
                while runner.scopes and not world.is_cut:  # noqa: ASYNC110 - new ones come
                    await trio.sleep(0.05)
                world.is_draining = True
            see_that_all_is_drained(world)
