"""One world on the seeded event loop: its requests, its shutdown, and what must be left: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from ringfence import Ringfence, Settings
from ringfence import tasks as loop_tasks
from ringfence.isolation import registry
from ringfence.state import open_roots

from .blocks import USERS, request
from .boundary import boundary_of, exchange
from .loop import SeededLoop
from .oracle import World
from .outcome import Outcome
from .seeded import chance_of, fresh_ids
from .sessions import FakeDatabase, Pool
from .work import work

__all__ = ["left_over", "live", "make_world", "run_world"]

REQUESTS = 12
SETTINGS = Settings()


class AsyncioRunner:
    """Tasks of the seeded loop, any of which may be cancelled by `task.cancel()`."""

    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        coroutine: Any = work()
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        if not task.cancelled():
            task.exception()

    def cancel_one(self, chance: Random) -> bool:
        if not self.tasks:
            return False
        chance.choice(list(self.tasks)).cancel()
        return True

    async def wait(self) -> None:
        """Until every task has ended, also those that these have started."""
        while self.tasks:
            await asyncio.wait(list(self.tasks))


def run_world(seed: int, number: int) -> Outcome:
    """Run one world; within `seeded()` it depends on these two numbers only."""
    fresh_ids()
    chance = chance_of(seed, number)
    loop = SeededLoop(chance)
    runner = AsyncioRunner()
    world = make_world(chance, runner)
    try:
        loop.run_until_complete(_live(world, runner))
        if loop_tasks._running:
            world.violation(f"{len(loop_tasks._running)} tasks of ringfence are left")
    except Exception as error:
        world.violation(f"{type(error).__name__}: {error}")
    finally:
        loop_tasks._running.clear()
        loop.close()
    left_over(world)
    trace = hash((world.trace, loop.steps, round(loop.time() * 1e6)))
    return Outcome(number, loop.steps, world.violations, dict(world.tally), trace)


def make_world(chance: Random, runner: Any) -> World:
    """A world with three connections and a fence of its own."""
    database = FakeDatabase(Pool(runner.sleep))
    world = World(chance, runner, Ringfence(settings=SETTINGS, database=database))
    world.left_to_birth = chance.randrange(0, 8)
    return world


async def _live(world: World, runner: AsyncioRunner) -> None:
    async with world.fence:
        await live(world)
        if world.likely(0.85):
            await runner.wait()
        world.is_draining = True
    await runner.wait()


async def live(world: World) -> None:
    """Users come in, by the boundary or by `user_context`."""
    app = boundary_of(world)
    for _ in range(REQUESTS - world.left_to_birth):
        user = world.chance.choice(USERS)
        if world.likely(0.4):
            world.spawn(exchange, app, user, None)
        else:
            world.spawn(request, user, None, work)
        if world.likely(0.5):
            await world.pause()


def left_over(world: World) -> None:
    """Whatever is left, now that all is over, has leaked."""
    database: Any = world.fence.database
    pool: Pool = database.pool
    for what, count in {
        "roots are open": len(open_roots()),
        "objects are registered": len(registry),
        "connections are out": pool.size - len(pool.idle),
        "pieces of detached work are left": len(world.fence._detached),
    }.items():
        if count:
            world.violation(f"{count} {what}")
    for life in world.detached:
        if any(runs != [1] for runs in life.runs):
            world.violation(f"finalisers of detached work ran {life.runs} times")
