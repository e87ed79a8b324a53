"""Streams: generators that keep their own user, whoever consumes them, and end in time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from ringfence import (
    ContextClosedError,
    ScopeInGeneratorError,
    bound_stream,
    child_context,
    user_context,
)

from .blocks import USERS, request
from .oracle import Life, World

__all__ = ["OPERATIONS"]


class Source:
    """A generator of numbers, watched."""

    def __init__(self, world: World, life: Life) -> None:
        self.world = world
        self.life = life
        self.made = 0
        self.ends = [0]

    async def tokens(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(4):
                self.world.reads(self.life)
                self.made += 1
                yield number
                await self.world.pause()
                self.world.reads(self.life)
        finally:
            self.ends[0] += 1


async def stream(world: World, life: Life) -> None:
    """Read to its end or left; no item is made before it is asked for."""
    source, last = Source(world, life), world.chance.randrange(1, 5)
    async with bound_stream(source.tokens()) as tokens:
        async for token in tokens:
            await world.pause()
            world.reads(life)
            if source.made != token + 1:
                world.violation("a stream read ahead")
            if token == last:
                break
    if source.ends != [1]:
        world.violation(f"a generator that was left ended {source.ends} times")
    world.tally["streams"] += 1


async def stream_elsewhere(world: World, life: Life) -> None:
    """Consumed in another user's block, it is still whose it was."""
    source = Source(world, life)
    async with bound_stream(source.tokens()) as tokens:

        async def consume(world: World, other: Life) -> None:
            async for _ in tokens:
                await world.pause()
                world.reads(other)

        await request(world, world.chance.choice(USERS), life, consume)


async def stream_for_ever(world: World, life: Life) -> None:
    """Begun and never ended: the scope ends it, or the collector before."""
    if not world.runner.is_asyncio or life.may_be_refused:  # then no scope would end it
        return
    source = Source(world, life)
    tokens = bound_stream(source.tokens())
    try:
        await anext(tokens)
    finally:
        if source.made:
            life.runs.append(source.ends)
        if world.likely(0.5):
            life.kept.append(tokens)


async def stream_too_late(world: World, life: Life) -> None:
    """Made and not begun: it does not begin after the end."""
    if not life.may_be_refused:
        world.keep("stream", bound_stream(Source(world, life).tokens()), life)
    found = world.found("stream", life)
    if found is None or not world.runner.is_asyncio or not found[1].must_be_refused:
        return
    try:
        await anext(found[0])
    except ContextClosedError as error:
        world.must_refuse("ended stream", found[1], error)
    except StopAsyncIteration:
        pass
    else:
        world.must_refuse("ended stream", found[1], None)


async def stream_in_time(world: World, life: Life) -> None:
    """A time-out within the generator ends it between two items, too."""

    async def tokens() -> AsyncGenerator[int, None]:
        with anyio.move_on_after(0.05):
            for number in range(4):
                yield number

    taken = 0
    async with bound_stream(tokens()) as stream:
        async for _ in stream:
            taken += 1
            await world.runner.sleep(0.2)
    if taken != 1:
        world.violation(f"a stream went on for {taken - 1} items after its time-out")


# --- generators -------------------------------------------------------------------------------


async def _direct(user: str) -> AsyncGenerator[None, None]:
    async with user_context(user):
        yield


async def _by_stack(user: str) -> AsyncGenerator[None, None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(user_context(user))
        yield


@asynccontextmanager
async def _by_contextlib() -> AsyncGenerator[Any, None]:
    async with child_context("by contextlib") as child:
        yield child


async def _contextlib_in_generator() -> AsyncGenerator[None, None]:
    async with _by_contextlib():
        yield


async def open_in_generator(world: World, life: Life) -> None:
    """A generator cannot carry a scope out; contextlib's keep both halves in one block."""
    if life.user is None:
        return
    for agen in (_direct(USERS[0]), _by_stack(USERS[0]), _contextlib_in_generator()):
        try:
            await anext(agen)
        except ScopeInGeneratorError:
            world.tally["refused: scope in generator"] += 1
        else:
            world.violation(f"{agen.__name__} carried a scope out")
            await agen.aclose()
    try:
        async with _by_contextlib():
            world.reads(life)
    except ScopeInGeneratorError as error:
        world.violation(f"a right block was refused: {error}")


OPERATIONS = (
    *[stream] * 2, stream_elsewhere, stream_for_ever, stream_too_late, stream_in_time,
    open_in_generator,
)  # fmt: skip
