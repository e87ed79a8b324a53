"""The generator guard, beyond law 6: drivers of one's own, nesting, places."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from ringfence import (
    Ringfence,
    ScopeInGeneratorError,
    Settings,
    counters,
    current_context,
    current_context_or_none,
    nobody,
    user_context,
)
from ringfence import settings as settings_module
from ringfence.generators import place, refuse_generators


async def _provider() -> AsyncIterator[str]:
    async with user_context("alice-1") as ctx:
        yield ctx.user_id


async def _container() -> list[str]:
    """Enters and leaves the generator within one block of its own, as some containers do."""
    got = []
    async for user in _provider():
        got.append(user)
    return got


HERE = f"{__name__}:{_container.__qualname__}"


# --- drivers ----------------------------------------------------------------------------------


async def test_a_container_is_refused_until_it_is_named_a_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ScopeInGeneratorError, match="_provider"):
        await _container()
    drivers = settings_module.BLOCK_DRIVERS | {HERE}
    monkeypatch.setattr(settings_module, "_default", Settings(block_drivers=drivers))
    assert await _container() == ["alice-1"]
    assert current_context_or_none() is None


async def test_the_drivers_are_the_fences() -> None:
    async def provider(fence: Ringfence) -> AsyncIterator[str]:
        async with fence.user_context("alice-1") as ctx:
            yield ctx.user_id

    async def container(fence: Ringfence) -> list[str]:
        got = []
        async for user in provider(fence):
            got.append(user)
        return got

    name = f"{__name__}:{container.__qualname__}"
    assert await container(Ringfence(settings=Settings(block_drivers=frozenset({name})))) == [
        "alice-1"
    ]
    with pytest.raises(ScopeInGeneratorError):
        await container(Ringfence(settings=Settings(block_drivers=frozenset({HERE}))))


async def test_a_driver_is_judged_by_where_it_stands_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that is a generator, stepped by nobody in particular, carries the scope out."""

    async def driver() -> AsyncIterator[str]:
        async for user in _provider():
            yield user

    name = f"{__name__}:{driver.__qualname__}"
    monkeypatch.setattr(settings_module, "_default", Settings(block_drivers=frozenset({name})))
    with pytest.raises(ScopeInGeneratorError, match="driver"):
        await anext(driver())


def test_the_default_drivers_are_pinned() -> None:
    """Each has a test in `tests/laws/test_6_generators.py` against the released package."""
    modules = sorted(name.partition(":")[0] for name in Settings().block_drivers)
    assert modules == [
        "anyio._backends._asyncio", "anyio._backends._trio", "pytest_asyncio.plugin",
        "taskiq_dependencies.ctx",
    ]  # fmt: skip


# --- where a scope may be opened --------------------------------------------------------------


async def test_a_refusal_is_counted_and_nothing_is_open() -> None:
    for _ in range(2):
        with pytest.raises(ScopeInGeneratorError):
            await anext(_provider())
    assert counters.value("refused.RF301") == 2
    assert current_context_or_none() is None


async def test_the_remedies_are_named() -> None:
    with pytest.raises(ScopeInGeneratorError, match=r"bound_stream.*in_generator=True"):
        await anext(_provider())


async def test_a_coroutine_that_a_generator_awaits_is_no_generator() -> None:
    async def read() -> str:
        async with user_context("alice-1"):
            return current_context().user_id

    async def source() -> AsyncIterator[str]:
        yield await read()

    assert [user async for user in source()] == ["alice-1"]


async def test_a_nested_function_of_a_generator_is_no_generator() -> None:
    @contextlib.asynccontextmanager
    async def signed_in() -> AsyncIterator[str]:
        async with user_context("alice-1") as ctx:
            yield ctx.user_id

    async def read() -> list[str]:
        async with signed_in() as user:
            return [user]

    async def source() -> AsyncIterator[list[str]]:
        yield await read()

    assert [user async for user in source()] == [["alice-1"]]


async def test_a_comprehension_is_no_generator() -> None:
    async def read(user: str) -> str:
        async with user_context(user):
            return current_context().user_id

    assert [await read(user) for user in ("alice-1", "bob-22")] == ["alice-1", "bob-22"]


async def test_exit_stacks_are_seen_through_at_any_depth() -> None:
    @contextlib.asynccontextmanager
    async def inner() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(nobody())
            yield

    @contextlib.asynccontextmanager
    async def outer() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(inner())
            yield

    async with outer():
        pass

    async def source() -> AsyncIterator[None]:
        async with outer():
            yield

    with pytest.raises(ScopeInGeneratorError, match="source"):
        await anext(source())


# --- parts ------------------------------------------------------------------------------------


def _plain() -> None: ...


def test_the_end_of_the_stack_is_no_generator() -> None:
    refuse_generators(None, ())
    refuse_generators(sys._getframe(), ())


def test_a_generator_at_the_end_of_the_stack_is_refused() -> None:
    frames: list[FrameType] = []

    def generator() -> Iterator[None]:
        frames.append(sys._getframe())
        yield

    running: Any = generator()
    next(running)
    with pytest.raises(ScopeInGeneratorError, match="generator"):
        refuse_generators(frames[0], ())
    frames.clear()


def _line_of(frame_of: Callable[[], FrameType]) -> str:
    frame = frame_of()
    return place(frame.f_code, frame.f_lasti)


def test_a_place_is_file_line_and_function() -> None:
    def here() -> FrameType:
        return sys._getframe()

    first = here.__code__.co_firstlineno
    assert _line_of(here) == f"{__file__}:{first + 1} in {here.__qualname__}"


def test_a_place_that_is_not_known() -> None:
    assert place(None, 0) == "an unknown place"
    assert place(_plain.__code__, 10_000).endswith(f":{_plain.__code__.co_firstlineno} in _plain")
