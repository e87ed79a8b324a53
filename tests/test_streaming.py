"""`bound_stream`, beyond law 6: ends of every kind, and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import pytest

from ringfence import (
    BoundStream,
    ContextClosedError,
    Ringfence,
    Settings,
    WrongTypeError,
    bound_stream,
    child_context,
    counters,
    current_context,
    current_context_or_none,
    current_scope,
    user_context,
)

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
FAST = Ringfence(settings=Settings(finaliser_timeout=0.05))


async def _numbers(count: int = 3) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number


# --- ends -------------------------------------------------------------------------------------


async def test_it_ends_as_the_generator_does_and_stays_ended() -> None:
    async with bound_stream(_numbers()) as stream:
        assert isinstance(stream, BoundStream)
        assert aiter(stream) is stream
        assert [number async for number in stream] == [0, 1, 2]
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_an_empty_generator() -> None:
    async with bound_stream(_numbers(0)) as stream:
        assert [number async for number in stream] == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_no_block_is_needed(anyio_backend: str) -> None:
    assert [number async for number in bound_stream(_numbers())] == [0, 1, 2]
    stream = bound_stream(_numbers())
    assert await anext(stream) == 0
    await stream.aclose()


async def test_closing_what_was_never_begun_closes_the_generator() -> None:
    generator = _numbers()
    async with bound_stream(generator):
        pass
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_nothing_can_be_taken_after_closing_before_it_began() -> None:
    stream = bound_stream(_numbers())
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        async with stream:
            await anext(stream)


async def test_closing_twice_and_after_the_end_is_harmless() -> None:
    async with bound_stream(_numbers()) as stream:
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_error_is_raised_once_and_then_it_is_exhausted() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("mine")

    async with bound_stream(source()) as stream:
        await anext(stream)
        with pytest.raises(KeyError, match="mine"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_error_before_the_first_item() -> None:
    async def source() -> AsyncGenerator[int, None]:
        raise KeyError("mine")
        yield 1

    async with bound_stream(source()) as stream:
        with pytest.raises(KeyError, match="mine"):
            await anext(stream)


async def test_a_failing_clean_up_is_raised_once() -> None:
    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise KeyError("clean-up")

    stream = bound_stream(source())
    await stream.__aenter__()
    await anext(stream)
    with pytest.raises(KeyError, match="clean-up"):
        await stream.aclose()
    await stream.aclose()


async def test_the_bodys_error_is_the_one_raised() -> None:
    ended: list[int] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            ended.append(1)

    with pytest.raises(KeyError, match="body"):
        async with bound_stream(source()) as stream:
            await anext(stream)
            raise KeyError("body")
    assert ended == [1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_generator_that_was_cancelled_from_within_says_so(anyio_backend: str) -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise asyncio.CancelledError

    stream = bound_stream(source())
    await anext(stream)
    with pytest.raises(RuntimeError, match="cancelled from within") as caught:
        await anext(stream)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_a_generator_that_ignores_its_closing_is_reported_by_the_interpreter() -> None:
    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    stream = bound_stream(source())
    await stream.__aenter__()
    await anext(stream)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        await stream.aclose()


async def test_clean_up_that_takes_too_long_is_cancelled_and_counted() -> None:
    ran: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            try:
                await anyio.sleep(60)
            finally:
                ran.append("cancelled")

    async with FAST.user_context("alice-1"):
        async with bound_stream(source()) as stream:
            await anext(stream)
    assert ran == ["cancelled"]
    assert counters.value("stream.timeout") == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_cancellations_of_the_consumer_stop_no_clean_up(anyio_backend: str) -> None:
    began, go, ran = asyncio.Event(), asyncio.Event(), []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            began.set()
            await anyio.sleep(60)
        finally:
            await go.wait()
            ran.append("end")

    async def consume() -> None:
        async for _ in bound_stream(source()):
            pass

    task = asyncio.create_task(consume())
    await began.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == ["end"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_while_it_closes_is_raised_when_it_has(anyio_backend: str) -> None:
    closing, go, ran = asyncio.Event(), asyncio.Event(), []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closing.set()
            await go.wait()
            ran.append("end")

    async def consume() -> None:
        async with bound_stream(source()) as stream:
            await anext(stream)

    task = asyncio.create_task(consume())
    await closing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == ["end"]


# --- contexts and scopes ----------------------------------------------------------------------


async def test_what_the_generator_sets_stays_with_it_and_what_was_set_is_seen() -> None:
    async def source() -> AsyncGenerator[str, None]:
        yield VARIABLE.get()
        VARIABLE.set("inside")
        yield VARIABLE.get()
        yield VARIABLE.get()

    token = VARIABLE.set("made here")
    stream = bound_stream(source())
    VARIABLE.reset(token)
    async with stream:
        assert [value async for value in stream] == ["made here", "inside", "inside"]
    assert VARIABLE.get() == "outside"


async def test_one_stream_within_another() -> None:
    async def inner(user: str) -> AsyncGenerator[str, None]:
        async with user_context(user):
            for _ in range(3):
                yield current_context().user_id

    async def outer() -> AsyncGenerator[tuple[str, str], None]:
        async with user_context("alice-1"):
            async with bound_stream(inner("bob-22")) as stream:
                async for user in stream:
                    yield user, current_context().user_id

    async with bound_stream(outer()) as stream:
        assert [pair async for pair in stream] == [("bob-22", "alice-1")] * 3
    assert current_context_or_none() is None


async def test_a_child_scope_may_stand_in_a_bound_generator() -> None:
    async def source() -> AsyncGenerator[int, None]:
        for _ in range(2):
            async with child_context("step") as child:
                yield child.operation_depth

    async with user_context("alice-1") as ctx:
        async with bound_stream(source()) as stream:
            async for depth in stream:
                assert depth == 1
                assert current_context() is ctx
        assert current_scope().children == ()


async def test_a_foreign_task_may_consume_it() -> None:
    async def source() -> AsyncGenerator[str, None]:
        for _ in range(2):
            yield current_context().user_id

    got: list[str] = []

    async def consume(stream: BoundStream[str]) -> None:
        async with user_context("bob-22"):
            got.append(await anext(stream))
            got.append(current_context().user_id)

    async with user_context("alice-1"):
        async with bound_stream(source()) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, stream)
            got.append(await anext(stream))
    assert got == ["alice-1", "bob-22", "alice-1"]


async def test_outside_of_any_scope_it_works_too() -> None:
    async with bound_stream(_numbers()) as stream:
        assert await anext(stream) == 0
    assert current_context_or_none() is None


async def test_the_scope_that_ends_cancels_a_generator_at_work() -> None:
    began, ran, got = anyio.Event(), [], []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            began.set()
            await anyio.sleep(60)
            yield 2
        finally:
            ran.append(current_context().user_id)

    async def consume(stream: BoundStream[int]) -> None:
        try:
            async for number in stream:
                got.append(number)
        except ContextClosedError as error:
            got.append(error.code)

    async with anyio.create_task_group() as tasks:
        async with user_context("alice-1"):
            stream = bound_stream(source())
            await stream.__aenter__()
            tasks.start_soon(consume, stream)
            await began.wait()
    assert ran == ["alice-1"]
    assert got == [1, "RF102"]


async def test_an_ended_stream_leaves_nothing_in_its_scope() -> None:
    async with user_context("alice-1"):
        scope = current_scope()
        async with bound_stream(_numbers()) as stream:
            await anext(stream)
            assert scope.needs_event_loop
        assert not scope.needs_event_loop
        with contextlib.suppress(KeyError):
            async with bound_stream(_numbers()) as stream:
                await anext(stream)
                raise KeyError
        assert not scope.needs_event_loop
    assert scope.report == ()


# --- abandoned --------------------------------------------------------------------------------


def test_a_stream_that_outlives_its_event_loop_is_collected_quietly() -> None:
    kept: list[Any] = []

    async def main() -> None:
        stream = bound_stream(_numbers())
        await anext(stream)
        kept.append(stream)

    asyncio.run(main())  # ends at once, though the generator waits to be asked
    kept.clear()
    gc.collect()


def test_the_end_of_the_event_loop_ends_a_generator_at_work() -> None:
    ran: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(3600)
            yield 2
        finally:
            ran.append("end")

    async def main() -> None:
        stream = bound_stream(source())
        await anext(stream)
        stream._driver.wanted.set()  # type: ignore[union-attr]  # asked, and nobody waits
        await anyio.wait_all_tasks_blocked()
        kept.append(stream)

    kept: list[Any] = []
    asyncio.run(main())
    assert ran == ["end"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_never_began_is_collected_quietly(anyio_backend: str) -> None:
    bound_stream(_numbers())
    gc.collect()


@pytest.mark.parametrize("value", [[1], "text", None, _numbers, iter([1])])
def test_what_is_no_async_generator_is_refused(value: Any) -> None:
    with pytest.raises(WrongTypeError, match="takes an async generator, not a `"):
        bound_stream(value)


def test_an_async_iterator_of_another_kind_is_refused() -> None:
    class Numbers:
        def __aiter__(self) -> AsyncIterator[int]:
            raise NotImplementedError

    with pytest.raises(WrongTypeError, match="not a `Numbers`"):
        bound_stream(Numbers())  # type: ignore[arg-type]
