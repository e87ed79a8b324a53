"""What requests do with what is their own: wait, nest, query, remember, own, enter."""

from __future__ import annotations

from typing import Any

import anyio

from ringfence import (
    ConcurrentSessionError,
    ContextClosedError,
    ContextLimitError,
    NoContextError,
    OwnershipError,
    WrongTypeError,
    child_context,
    current_context,
    current_scope,
    owned,
    task_group,
)

from .blocks import operation
from .oracle import Life, World
from .sessions import SessionClosed

__all__ = ["MAX_DEPTH", "MAX_OWNED", "OPERATIONS", "Memory", "only_wait"]

MAX_DEPTH = 10
MAX_OWNED = 30


async def only_wait(world: World, life: Life) -> None:
    for _ in range(world.chance.randrange(1, 12)):
        await world.pause()
        world.reads(life)


async def nest(world: World, life: Life) -> None:
    try:
        await operation(world, life, World.work if world.likely(0.5) else only_wait)
    except ContextLimitError:
        world.tally["too deep"] += 1


async def query(world: World, life: Life) -> None:
    """Its own session shows its own rows, whoever had the connection before."""
    session = current_scope().db_session
    world.keep("session", session, life)
    try:
        shown = await session.execute(life.user or "nobody")
    except TimeoutError:
        world.tally["pool exhausted"] += 1
        return
    except ConcurrentSessionError:
        world.tally["refused: busy session"] += 1
        return
    world.tally["statements"] += 1
    if shown != (life.user or "nobody"):
        world.violation(f"{life.user} was shown rows of {shown}")


@owned
class Memory:
    """What an agent remembers of one request."""

    def __init__(self, user: str | None) -> None:
        self.user = user

    def __len__(self) -> int:
        return 1


async def query_at_once(world: World, life: Life) -> None:
    """Two tasks on one session: one of them is refused, or has it to itself."""
    async with task_group() as tasks:
        try:
            for _ in range(2):
                tasks.start_soon(query_in_turn, world, life)
        except ContextClosedError as error:
            world.refused(life, error)


async def query_in_turn(world: World, life: Life) -> None:
    try:
        await query(world, life)
    except (ContextClosedError, NoContextError, SessionClosed) as error:
        world.refused(life, error)


async def remember(world: World, life: Life) -> None:
    """An owned instance, used across a wait."""
    memory = Memory(life.user)
    if not life.may_be_refused:  # else it belongs to nobody
        world.keep("memory", memory, life)
    await world.pause()
    if memory.user != life.user or len(memory) != 1:
        world.violation("an owned object is not what it was")


async def own_objects(world: World, life: Life) -> None:
    """Objects that nobody has seen before are one's own, whatever lay at their address."""
    scope = current_scope()
    for _ in range(world.chance.randrange(1, 4)):
        thing = [life.user]
        try:
            scope.check(scope.own(thing))
        except ContextLimitError:
            break
        except OwnershipError as error:
            world.violation(f"a new object was refused: {error}")
        world.keep("object", thing, life)
    del thing
    for _ in range(3):
        try:
            scope.check([life.user])
        except OwnershipError as error:
            world.violation(f"a new object was refused: {error}")
    world.tally["new objects"] += 3


class Manager:
    """Must be left once if it was entered, by whoever entered it."""

    def __init__(self, world: World, life: Life, runs: list[int]) -> None:
        self.world = world
        self.life = life
        self.runs = runs
        self.group = anyio.CancelScope()

    async def __aenter__(self) -> Manager:
        await self.world.pause()
        self.group.__enter__()
        self.runs[0] = 0
        return self

    async def __aexit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        self.runs[0] += 1
        self.life.seen_by_managers.append(exc)
        self.group.__exit__(None, None, None)
        await self.world.pause()


async def enter(world: World, life: Life) -> None:
    runs = [1]  # as if it had been left, until it is entered
    life.runs.append(runs)
    await current_scope().enter(Manager(world, life, runs))
    world.tally["managers"] += 1


async def enter_group(world: World, life: Life) -> None:
    """A task group as a manager: what the body raises comes out as it is."""
    tasks = await current_scope().enter(anyio.create_task_group())
    tasks.start_soon(world.pause)


async def dive(world: World, life: Life) -> None:
    """Children of children, as deep as is allowed and no deeper."""
    if life.user is None:
        return
    depth = current_context().operation_depth
    try:
        async with child_context("deeper") as child:
            if child.operation_depth != depth + 1 or depth >= MAX_DEPTH:
                world.violation(f"a child of depth {depth} is of depth {child.operation_depth}")
            await world.pause()
            if world.likely(0.9):
                await dive(world, Life(life.user, life))
    except ContextLimitError:
        world.tally["refused: too deep"] += 1
        if depth < MAX_DEPTH:
            world.violation(f"a child of depth {depth} was refused")


async def own_too_many(world: World, life: Life) -> None:
    """One tree may own so many objects and no more; and nothing that everybody has."""
    scope = current_scope()
    try:
        scope.own("text that everybody may have")
    except WrongTypeError:
        pass
    else:
        world.violation("a text was owned")
    things = [[number] for number in range(MAX_OWNED + 1)]
    try:
        for thing in things:
            scope.own(thing)
    except ContextLimitError:
        world.tally["refused: too many"] += 1
    else:
        world.violation(f"{len(things)} objects were owned")


OPERATIONS = (
    *[only_wait] * 8, *[nest] * 3, *[query] * 3, query_at_once, *[remember] * 2, *[own_objects] * 2,
    enter, enter_group, dive, own_too_many,
)  # fmt: skip
