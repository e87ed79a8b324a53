"""Endings: finalisers that run, fail and hang, and blocks that are left in every odd way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    NoContextError,
    OwnershipError,
    RingfenceError,
    child_context,
    current_scope,
    user_context,
)

from .blocks import USERS, Broken, Fatal, inside, request
from .oracle import Life, World
from .own import only_wait

__all__ = ["OPERATIONS"]


# --- finalisers -------------------------------------------------------------------------------


async def clean_up_later(world: World, life: Life) -> None:
    """Each runs once before the block is left, as its own user."""
    for _ in range(world.chance.randrange(1, 4)):
        _register(world, life)


def _register(world: World, life: Life) -> None:
    runs = [0]
    fn: Callable[..., Any] = _sync_finaliser if world.likely(0.5) else _async_finaliser
    scope = current_scope()
    scope.callback(fn, world, life, scope, runs)
    life.runs.append(runs)
    world.tally["finalisers"] += 1


def _sync_finaliser(world: World, life: Life, scope: Any, runs: list[int]) -> None:
    runs[0] += 1
    _is_itself(world, life, scope)


async def _async_finaliser(world: World, life: Life, scope: Any, runs: list[int]) -> None:
    _is_itself(world, life, scope)
    await world.runner.sleep(world.chance.choice((0, 0, 0.01, 0.5)))
    runs[0] += 1
    _is_itself(world, life, scope)


def _is_itself(world: World, life: Life, scope: Any) -> None:
    if life.must_be_refused:
        world.violation(f"a finaliser of {life.user} runs after the end")
    try:
        here = current_scope()
        seen = here.context.user_id if here.has_user else None
    except RingfenceError as error:
        world.violation(f"a finaliser of {life.user} is refused: {error}")
        return
    if seen != life.user or here is not scope:
        world.violation(f"a finaliser of {life.user} runs in another scope, of {seen}")
    if world.likely(0.8):  # a refusal costs more than all that is done here
        return
    try:
        here.callback(print)
    except ContextClosedError:
        world.tally["refused: new finaliser"] += 1
    else:
        world.violation("a closing scope took a new finaliser")


async def fail_later(world: World, life: Life) -> None:
    """One that fails stops none of the others, and is not dropped."""
    if life.root.can_fail:
        _register(world, life)
        current_scope().callback(_fail if world.likely(0.5) else _fail_async)
        life.failing += 1
        _register(world, life)


def _fail() -> None:
    raise Broken


async def _fail_async() -> None:
    raise Broken


async def fail_fatally(world: World, life: Life) -> None:
    if life.root.can_fail and not life.is_fatal and world.likely(0.3):
        current_scope().callback(_fail_fatally)
        life.is_fatal = True
        await fail_later(world, life)


def _fail_fatally() -> None:
    raise Fatal


async def hang_later(world: World, life: Life) -> None:
    """One that never ends is cut."""
    if life.root.can_fail and world.likely(0.3):

        async def hang() -> None:
            await world.runner.sleep(100)
            world.violation("a finaliser was not cut")

        current_scope().callback(hang)
        life.failing += 1


async def blow_up(world: World, life: Life) -> None:
    life.blows_up = life.root.can_fail


# --- odd ways to leave ------------------------------------------------------------------------


async def hurry(world: World, life: Life) -> None:
    """A time-out around a block cuts its body, and none of its clean-up."""

    async def body(world: World, life: Life) -> None:
        _register(world, life)
        await only_wait(world, life)
        _register(world, life)

    with anyio.move_on_after(world.chance.random() / 10):
        await request(world, USERS[0], life, body)
    world.reads(life)


async def leave_out_of_order(world: World, life: Life) -> None:
    """Two roots, the first left before the second: afterwards it is whoever it was."""
    first, second = Life(USERS[0]), Life(USERS[1])
    outer: Any = user_context(USERS[0])
    inner: Any = user_context(USERS[1])
    await outer.__aenter__()
    try:
        _register(world, first)
        await inner.__aenter__()
        try:
            world.reads(second)
            first.is_ending = True
            await outer.__aexit__(None, None, None)
            world.must_have_run(first)
            world.reads(second)
        finally:
            await inner.__aexit__(None, None, None)
        world.reads(life)  # before the second exit below could put it right
    finally:
        await outer.__aexit__(None, None, None)
    world.must_have_run(first)
    world.reads(life)


async def leave_twice(world: World, life: Life) -> None:
    """Two tasks leave one block at once: each waits for its end, which comes once."""
    other = Life(USERS[2])
    block: Any = user_context(USERS[2])
    await block.__aenter__()
    try:
        _register(world, other)
    finally:
        other.is_ending = True

        async def leave() -> None:
            await block.__aexit__(None, None, None)
            if block.state != "closed":
                world.violation("a block was left twice, and is still open")
            world.must_have_run(other)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                tasks.start_soon(leave)
        finally:
            await block.__aexit__(None, None, None)  # here, too, where it was entered
            other.is_over = True
    world.reads(life)


async def enter_twice(world: World, life: Life) -> None:
    block: Any = user_context(USERS[3])
    async with block:
        await _must_not_enter(world, block, ConfigurationError)
    await _must_not_enter(world, block, ContextClosedError)


async def _must_not_enter(world: World, block: Any, error: type[Exception]) -> None:
    try:
        await block.__aenter__()
    except error:
        world.tally["refused: entering"] += 1
    else:
        world.violation("a block was entered that may not be")
        await block.__aexit__(None, None, None)


async def keep_child(world: World, life: Life) -> None:
    """A child block that was made here, and is entered by another."""
    if life.user is not None:
        world.keep("child", child_context("kept"), life)
    found = world.found("child", life)
    if found is not None:
        block, owner = found
        try:
            async with block:
                world.must_refuse("foreign child", owner, None)
        except (OwnershipError, ContextClosedError) as error:
            world.must_refuse("foreign child", owner, error)


async def destroy(world: World, life: Life) -> None:
    """A coroutine that is destroyed in its block leaves its clean-up to a task."""
    if not world.runner.is_asyncio:
        return
    other = Life(USERS[4])

    async def body(world: World, life: Life) -> None:
        _register(world, life)
        await world.runner.sleep(0)

    coroutine: Any = _half(world, other, body)
    coroutine.send(None)
    other.is_ending = True
    coroutine.close()
    world.detached.append(other)
    world.reads(life)


async def _half(world: World, life: Life, body: Callable[..., Awaitable[None]]) -> None:
    async with user_context(life.user or ""):
        await body(world, life)


async def lend_child(world: World, life: Life) -> None:
    """A child in a task that nobody waits for: its parent closes it, if it is first."""
    if life.user is not None:
        world.spawn(_child_of, life)


async def _child_of(world: World, parent: Life) -> None:
    life = Life(parent.user, parent)

    async def body(world: World, life: Life) -> None:
        _register(world, life)
        for _ in range(3):
            await only_wait(world, life)

    try:
        await inside(world, child_context("lent"), life, body)
    except (ContextClosedError, NoContextError) as error:
        world.refused(parent, error)


OPERATIONS = (
    *[clean_up_later] * 2, fail_later, fail_fatally, hang_later, blow_up, hurry, leave_out_of_order,
    leave_twice, enter_twice, keep_child, destroy, *[lend_child] * 2,
)  # fmt: skip
