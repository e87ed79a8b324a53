"""
Random trees of scopes, tasks, cancellations and hand-made disorder, on asyncio and trio.

The oracle is a plain argument: every step is told which user it belongs to, and never asks a
ContextVar. A strict step stands inside its own open block and must find exactly that user; a
loose one runs in a task that may have outlived its scope and must find that user or a refusal.
"""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence import (
    ContextClosedError,
    ContextLimitError,
    NoContextError,
    bound_stream,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    nobody,
    task_group,
    user_context,
)
from ringfence.isolation import registry
from ringfence.state import open_roots

USERS = ("alice-1", "bob-22", "carol-3")
REFUSED = (ContextClosedError, NoContextError)


class Failure(Exception):
    """What a raising step raises."""


def _steps(body: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[Any]:
    user = st.sampled_from(USERS)
    return st.one_of(
        st.tuples(st.just("root"), user, body),
        st.tuples(st.just("child"), body),
        st.tuples(st.just("nobody"), body),
        st.tuples(st.just("spawn"), body),
        st.tuples(st.just("group"), body, body),
        st.tuples(st.just("cancel"), body),
        st.tuples(st.just("stream"), user, st.integers(0, 3)),
        st.tuples(st.just("out of order"), user, user, body),
        st.tuples(st.just("foreign exit"), user, body),
    )


LEAVES = st.sampled_from(
    [
        ("check",),
        ("sleep",),
        ("raise",),
        ("finaliser", False),
        ("finaliser", True),
        ("enter",),
        ("own",),
    ]
)
PROGRAMS = st.recursive(
    st.lists(LEAVES, max_size=3),
    lambda body: st.lists(st.one_of(LEAVES, _steps(body)), max_size=4),
    max_leaves=25,
)


@attrs.define
class World:
    """What one run counts."""

    tasks: Any = None
    registered: int = 0
    ran: int = 0
    checks: int = 0
    foreign: int = 0

    def check(self, user: str | None, *, strict: bool) -> None:
        self.checks += 1
        try:
            found: str | None = current_context().user_id
        except REFUSED:
            found = None
        if found != user and (strict or found is not None):
            self.foreign += 1


async def _finaliser(world: World, user: str | None) -> None:
    await anyio.sleep(0)
    world.ran += 1
    world.check(user, strict=True)


@contextlib.asynccontextmanager
async def _manager(world: World, user: str | None) -> AsyncGenerator[None, None]:
    world.check(user, strict=True)
    world.registered += 1  # here: a cancelled `enter` may have entered it all the same
    try:
        yield
    finally:
        await _finaliser(world, user)


async def _tokens(world: World, user: str) -> AsyncGenerator[int, None]:
    async with user_context(user):
        for number in range(3):
            await anyio.sleep(0)
            world.check(user, strict=True)
            yield number


async def run(world: World, program: list[Any], user: str | None, *, strict: bool) -> None:
    """Interpret a program as `user` (`None` for nobody)."""
    for step in program:
        world.check(user, strict=strict)
        with contextlib.suppress(*REFUSED, ContextLimitError):
            await _step(world, step, user, strict)
        world.check(user, strict=strict)


async def _step(world: World, step: Any, user: str | None, strict: bool) -> None:
    match step:
        case ("sleep",):
            await anyio.sleep(0)
        case ("raise",):
            raise Failure
        case ("finaliser", is_async):
            call = _finaliser if is_async else _count
            current_scope().callback(call, world, user)
            world.registered += 1
        case ("enter",):
            await current_scope().enter(_manager(world, user))
        case ("own",):
            current_scope().own([])
        case ("root", other, body):
            with contextlib.suppress(Failure):
                async with user_context(other):
                    await run(world, body, other, strict=True)
        case ("child", body):
            with contextlib.suppress(Failure):
                async with child_context("step"):  # in a loose task its parent may close it
                    await run(world, body, user, strict=strict)
        case ("nobody", body):
            with contextlib.suppress(Failure):
                async with nobody():
                    await run(world, body, None, strict=True)
        case ("spawn", body):
            world.tasks.start_soon(_task, world, body, user)
        case ("group", first, second):
            async with task_group() as tasks:
                tasks.start_soon(_task, world, first, user)
                tasks.start_soon(_task, world, second, user)
        case ("cancel", body):
            with anyio.CancelScope() as scope, contextlib.suppress(Failure):
                async with child_context("cancelled"):
                    scope.cancel()
                    await run(world, body, user, strict=strict)
                    await anyio.sleep(0)
        case ("stream", other, taken):
            async with bound_stream(_tokens(world, other)) as stream:
                for _ in range(taken):
                    await anext(stream)
                    world.check(user, strict=strict)
        case ("out of order", one, two, body):
            await _out_of_order(world, one, two, body)
        case ("foreign exit", other, body):
            await _foreign_exit(world, other, body)


def _count(world: World, user: str | None) -> None:
    world.ran += 1
    world.check(user, strict=True)


async def _task(world: World, body: list[Any], user: str | None) -> None:
    with contextlib.suppress(Failure):
        await run(world, body, user, strict=False)


async def _out_of_order(world: World, one: str, two: str, body: list[Any]) -> None:
    first, second = user_context(one), user_context(two)
    await first.__aenter__()
    await second.__aenter__()
    try:
        with contextlib.suppress(Failure):
            await run(world, body, two, strict=True)
    finally:
        await first.__aexit__(None, None, None)
        world.check(two, strict=True)
        await second.__aexit__(None, None, None)


async def _foreign_exit(world: World, other: str, body: list[Any]) -> None:
    block = user_context(other)
    await block.__aenter__()
    try:
        with contextlib.suppress(Failure):
            await run(world, body, other, strict=True)
    finally:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(block.__aexit__, None, None, None)
        try:
            current_context()
        except REFUSED:
            pass
        else:
            world.foreign += 1
        await block.__aexit__(None, None, None)


async def play(program: list[Any]) -> World:
    """Run one program to the end of its last task."""
    world = World()
    async with anyio.create_task_group() as world.tasks:
        with contextlib.suppress(Failure):
            await run(world, program, None, strict=False)
    assert current_context_or_none() is None
    return world


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_task_ever_reads_a_foreign_user(backend: str) -> None:
    checks = 0

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(PROGRAMS)
    def check(program: list[Any]) -> None:
        nonlocal checks
        faulthandler.dump_traceback_later(30, exit=True)  # a hang here holds off every signal
        world = anyio.run(play, program, backend=backend)
        faulthandler.cancel_dump_traceback_later()
        checks += world.checks
        assert world.foreign == 0
        assert world.ran == world.registered
        assert open_roots() == []
        assert len(registry) == 0

    check()
    assert checks > 1000
