"""Opening blocks: one request, one operation of it, and what must hold once they are left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ringfence import DrainingError, child_context, current_context_or_none, nobody, user_context

from .oracle import Life, World

__all__ = ["USERS", "afterwards", "inside", "operation", "request"]

Body = Callable[[World, Life], Awaitable[None]]

USERS = tuple(f"user-of-this-world-{number}" for number in range(5))


async def inside(world: World, block: Any, life: Life, body: Body) -> None:
    """Run `body` in a block, whose life this is; its finalisers must have run when it is left."""
    try:
        async with block:
            try:
                world.reads(life)
                await body(world, life)
            finally:
                life.is_ending = True
    finally:
        life.is_over = True
        for number, runs in enumerate(life.runs):
            if runs != [1]:
                world.violation(f"finaliser {number} of {life.user} ran {runs} times")


async def request(world: World, user: str | None, born: Life | None, body: Body) -> None:
    """
    One request of `user`, in a task that was `born` in the context of another one's block.

    Afterwards the task goes on, as that of a server does: it may not be this user any more.
    """
    life = Life(user)
    world.tally["requests"] += 1
    if born is not None:
        world.tally["pipelined births"] += 1
    try:
        await inside(world, _root(world, user), life, body)
    except DrainingError:
        if not world.is_draining:
            world.violation("refused a request although nothing was draining")
        return
    except TimeoutError:
        world.tally["timed out"] += 1
    await afterwards(world, life, born)


def _root(world: World, user: str | None) -> Any:
    timeout = world.chance.random() / 4 if world.likely(0.05) else None
    if user is None:
        return nobody(fence=world.fence, timeout=timeout)
    if world.likely(0.5):
        return user_context(user, fence=world.fence)
    notes = {"of": [user], "seen": {"by": [user]}}
    return user_context(
        user,
        thread_id=f"thread-of-{user}",
        run_id=f"run-of-{user}",
        fence=world.fence,
        agent_context=notes,
        claims={"of": user},
        timeout=timeout,
    )


async def afterwards(world: World, life: Life, born: Life | None) -> None:
    for _ in range(2):
        seen = current_context_or_none()
        world.tally["reads after the response"] += 1
        if seen is not None and (born is None or born.must_be_refused or seen.user_id != born.user):
            world.violation(f"after its response {life.user}'s task is {seen.user_id}")
        await world.pause()


async def operation(world: World, parent: Life, body: Body) -> None:
    """A child of the block that is open here."""
    life = Life(parent.user, parent)
    world.tally["children"] += 1
    timeout = world.chance.random() / 4 if world.likely(0.03) else None
    data = {"step": [1]} if world.likely(0.3) else None
    try:
        await inside(
            world, child_context("operation", agent_context=data, timeout=timeout), life, body
        )
    except TimeoutError:
        world.tally["timed out"] += 1
    world.reads(parent)
