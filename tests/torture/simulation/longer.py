"""Work at once and for longer: task groups, orphans, births, other roots, detached work."""

from __future__ import annotations

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    DrainingError,
    NoContextError,
    bind,
    current_scope,
    task_group,
)

from .blocks import USERS, request
from .oracle import Life, World
from .own import Memory, only_wait

__all__ = ["OPERATIONS"]


async def together(world: World, life: Life) -> None:
    """Several tasks in one scope."""
    async with task_group() as tasks:
        try:
            for _ in range(world.chance.randrange(1, 4)):
                tasks.start_soon(_member, world, life)
                await world.pause()
        except ContextClosedError as error:
            world.refused(life, error)
    world.tally["task groups"] += 1


async def _member(world: World, life: Life) -> None:
    await world.pause()
    await (world.step(life) if world.likely(0.3) else only_wait(world, life))


async def leave_orphan(world: World, life: Life) -> None:
    """A task that nobody waits for: it is this user, or refused, and nobody else ever."""
    world.tally["orphans"] += 1
    world.spawn(_orphan, life)


async def _orphan(world: World, life: Life) -> None:
    memory, is_owned = Memory(life.user), not life.may_be_refused
    for _ in range(world.chance.randrange(2, 8)):
        await world.pause()
        world.reads(life)
        if is_owned:
            _use(world, life, memory)
        if world.likely(0.3):
            await world.step(life)


def _use(world: World, life: Life, memory: Memory) -> None:
    """An owned object serves its tree, and nobody whose own block has ended."""
    try:
        seen = memory.user
    except (ContextClosedError, NoContextError) as error:
        world.refused(life, error)
    else:
        if seen != life.user or life.must_be_refused:
            world.violation(f"an object of {seen} serves a task of {life.user}, which has ended")


async def bear(world: World, life: Life) -> None:
    """Another user's request begins in this one's context, as uvicorn's pipelined ones do."""
    if world.left_to_birth > 0:
        world.left_to_birth -= 1
        world.chance.choice(world.births)(world.chance.choice(USERS), life)


async def become(world: World, life: Life) -> None:
    """A root within a root is another user's; afterwards it is this one's again."""
    try:
        await request(world, world.chance.choice(USERS), life, only_wait)
    finally:
        world.reads(life)


async def be_nobody(world: World, life: Life) -> None:
    try:
        await request(world, None, life, only_wait)
    finally:
        world.reads(life)


async def detach(world: World, life: Life) -> None:
    """The same user in another root."""
    other = Life(life.user)
    other.can_fail = False
    try:
        handle = world.fence.detach(_detached, world, other)
    except (ConfigurationError, DrainingError):
        if not world.is_draining:
            raise
    else:
        world.tally["detached"] += 1
        world.detached.append(other)
        world.handles.append(handle)
        if world.fence.is_draining:
            world.violation("work was detached while all shuts down")
        if world.likely(0.3):
            handle.cancel()


async def _detached(world: World, life: Life) -> None:
    try:
        world.reads(life)
        await world.work(life)
    except Exception as error:
        world.violation(f"unexpected out of detached work: {error!r}")
    finally:
        life.is_ending = True


async def bind_callback(world: World, life: Life) -> None:
    world.keep("bound", bind(_who), life)
    world.keep("bound", bind(lambda: life.user), life)


def _who() -> str | None:
    scope = current_scope()
    return scope.context.user_id if scope.has_user else None


async def keep_scope(world: World, life: Life) -> None:
    world.keep("scope", current_scope(), life)


async def bad_luck(world: World, life: Life) -> None:
    """Somebody's task is cancelled: any, at any moment."""
    if world.runner.cancel_one(world.chance):
        world.tally["cancels"] += 1


OPERATIONS = (
    *[together] * 2, *[leave_orphan] * 2, *[bear] * 3, become, be_nobody, detach, bind_callback,
    *[keep_scope] * 2, *[bad_luck] * 3,
)  # fmt: skip
