"""One world on the seeded event loop: its requests, its shutdown, and that nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from ringfence import DrainingError, Ringfence, Settings, clear_shared_object_registry
from ringfence import tasks as loop_tasks
from ringfence.isolation import registry
from ringfence.state import open_roots, roots

from .blocks import USERS, request
from .boundary import boundary_of, exchange
from .guarded import GuardedDatabase
from .loop import SeededLoop
from .oracle import World
from .outcome import Outcome
from .own import MAX_DEPTH, MAX_OWNED
from .seeded import chance_of, fresh_ids
from .sessions import FakeDatabase, Pool
from .work import OPERATIONS

__all__ = ["left_over", "live", "make_world", "run_world", "see_that_all_is_drained"]

REQUESTS = 12
SETTINGS = Settings(max_owned=MAX_OWNED, max_depth=MAX_DEPTH)


class AsyncioRunner:
    """Tasks of the seeded loop, any of which may be cancelled by `task.cancel()`."""

    is_asyncio = True
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.swallowed = 0

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        coroutine: Any = work()
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        if not task.cancelled():
            task.exception()
            self.swallowed += task in self.cancelled

    def cancel_one(self, chance: Random) -> bool:
        if not self.tasks:
            return False
        victim = chance.choice(list(self.tasks))
        if victim.cancel():
            self.cancelled.add(victim)
        return True

    async def wait(self) -> None:
        """Until every task has ended, also those that these have started, and the library's."""
        while self.tasks or loop_tasks._running:
            await asyncio.wait([*self.tasks, *loop_tasks._running])


def run_world(seed: int, number: int) -> Outcome:
    """Run one world; within `seeded()` it depends on these two numbers only."""
    fresh_ids()
    chance = chance_of(seed, number)
    loop = SeededLoop(chance)
    runner = AsyncioRunner()
    world = make_world(chance, runner)
    try:
        loop.run_until_complete(_live(world, runner))
        if runner.swallowed > world.tally["fatal errors"] and not world.is_cut:
            world.violation(f"{runner.swallowed} cancellations were swallowed")
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
    kind = GuardedDatabase if runner.is_asyncio else FakeDatabase
    database = kind(Pool(runner.sleep))
    world = World(chance, runner, Ringfence(settings=SETTINGS, database=database))
    world.operations = OPERATIONS
    world.left_to_birth = chance.randrange(0, 8)
    return world


async def _live(world: World, runner: AsyncioRunner) -> None:
    async with world.fence:
        await live(world)
        world.is_cut = world.likely(0.15)
        if not world.is_cut:
            await runner.wait()
        world.is_draining = True
    see_that_all_is_drained(world)
    await runner.wait()


async def live(world: World) -> None:
    """Users come in, by the boundary or by `user_context`."""
    app = boundary_of(world)
    world.births = (
        lambda user, born: world.spawn(exchange, app, user, born),
        lambda user, born: world.spawn(request, user, born, World.work),
    )
    for _ in range(REQUESTS - world.left_to_birth):
        user = world.chance.choice(USERS)
        if world.likely(0.4):
            world.spawn(exchange, app, user, None)
        else:
            world.spawn(request, user, None, World.work)
        if world.likely(0.5):
            await world.pause()


def see_that_all_is_drained(world: World) -> None:
    """Shutdown is over: nothing that was in flight is open any more."""
    roots = [root for root in open_roots() if root.has_user]  # not an answer of ringfence's own
    late = [root.opened_at for root in roots if root._recipes is world.fence]
    if late:
        world.violation(f"shutdown has left open: {late}")


def left_over(world: World) -> None:
    """Whatever is left, now that all is over, has leaked."""
    database: Any = world.fence.database
    pool: Pool = database.pool
    for what, count in {
        f"roots are open: {[root.opened_at for root in open_roots()]}": len(open_roots()),
        "objects are registered": len(registry),
        "connections are out": pool.size - len(pool.idle),
        "pieces of detached work are left": len(world.fence._detached),
    }.items():
        if count:
            world.violation(f"{count} {what}")
    for life in world.detached:
        world.must_have_run(life)
    if any(isinstance(handle.error, DrainingError) for handle in world.handles):
        world.violation("detached work was refused, as a new request is")
    report = world.fence.drain_report
    if report is not None and report.abandoned:
        world.violation(f"shutdown gave up on {report.abandoned}")
    _forget_all()


def _forget_all() -> None:
    """What one world has leaked is not the next one's fault."""
    roots.clear()
    registry.clear()
    clear_shared_object_registry()
