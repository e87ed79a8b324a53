"""Law 6. Generators cannot carry a scope out; `bound_stream` is the right way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ScopeInGeneratorError,
    WrongTypeError,
    bound_stream,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    nobody,
    user_context,
)

# --- the guard --------------------------------------------------------------------------------


async def test_a_scope_directly_in_an_async_generator_is_refused() -> None:
    async def tokens() -> AsyncIterator[int]:
        async with user_context("alice-1"):
            yield 1

    with pytest.raises(ScopeInGeneratorError, match=r"in the generator .*test_6.*tokens"):
        async for _ in tokens():
            pass
    assert current_context_or_none() is None


async def test_so_is_a_child_and_nobody() -> None:
    async def child() -> AsyncIterator[int]:
        async with child_context("tool"):
            yield 1

    async def none() -> AsyncIterator[int]:
        async with nobody():
            yield 1

    async with user_context("alice-1"):
        for generator in (child(), none()):
            with pytest.raises(ScopeInGeneratorError):
                await anext(generator)


async def test_an_exit_stack_in_a_generator_is_seen_through() -> None:
    async def tokens() -> AsyncIterator[int]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(user_context("alice-1"))
            yield 1

    with pytest.raises(ScopeInGeneratorError):
        await anext(tokens())


def test_a_plain_generator_is_refused_too() -> None:
    def steps() -> Iterator[int]:
        coroutine = user_context("alice-1").__aenter__()
        try:
            coroutine.send(None)
        except StopIteration:
            yield 1

    with pytest.raises(ScopeInGeneratorError):
        next(steps())


@contextlib.asynccontextmanager
async def _signed_in(user: str) -> AsyncIterator[str]:
    async with user_context(user) as ctx:
        yield ctx.user_id


async def test_contextlib_enters_and_leaves_within_one_block() -> None:
    async with _signed_in("alice-1"):
        assert current_context().user_id == "alice-1"
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_signed_in("bob-22"))
        assert current_context().user_id == "bob-22"
    assert current_context_or_none() is None


async def test_it_is_judged_by_whoever_entered_that() -> None:
    @contextlib.asynccontextmanager
    async def outer() -> AsyncIterator[None]:
        async with _signed_in("alice-1"):
            yield

    async with outer():
        assert current_context().user_id == "alice-1"

    async def tokens() -> AsyncIterator[int]:
        async with outer():
            yield 1

    with pytest.raises(ScopeInGeneratorError, match="tokens"):
        await anext(tokens())


async def test_in_generator_is_the_word_of_somebody_who_knows() -> None:
    async def provider() -> AsyncIterator[str]:
        async with user_context("alice-1", in_generator=True) as ctx:
            yield ctx.user_id

    generator = provider()
    assert await anext(generator) == "alice-1"
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


FIXTURES = """
import pytest
from ringfence import current_context, user_context

{decorator}
async def alice({arguments}):
    async with user_context("alice-1") as ctx:
        yield ctx

{mark}
async def test_it(alice):
    assert current_context() is alice
"""


def _run_pytest(path: Path, source: str, *options: str) -> str:
    path.joinpath("test_inner.py").write_text(source)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(path)],
        capture_output=True, text=True, cwd=path, timeout=50, check=False,
    )  # fmt: skip
    return run.stdout + run.stderr


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_the_fixture_runners_of_anyio(anyio_backend: str, tmp_path: Path) -> None:
    source = FIXTURES.format(
        decorator="@pytest.fixture", arguments="anyio_backend", mark="@pytest.mark.anyio"
    )
    out = _run_pytest(tmp_path, source, "-p", "no:asyncio")
    assert "2 passed" in out, out  # on asyncio and trio


def test_the_fixture_runner_of_pytest_asyncio(tmp_path: Path) -> None:
    source = FIXTURES.format(
        decorator="import pytest_asyncio\n@pytest_asyncio.fixture",
        arguments="",
        mark="@pytest.mark.asyncio",
    )
    out = _run_pytest(tmp_path, source, "-p", "no:anyio")
    assert "1 passed" in out, out


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_taskiq_dependencies(anyio_backend: str) -> None:
    from taskiq_dependencies import DependencyGraph, Depends

    async def alice() -> AsyncIterator[str]:
        async with user_context("alice-1") as ctx:
            yield ctx.user_id

    async def task(user: str = Depends(alice)) -> None: ...

    async with DependencyGraph(task).async_ctx() as resolver:
        assert await resolver.resolve_kwargs() == {"user": "alice-1"}
    assert current_context_or_none() is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_fastapis_yield_dependencies_and_lifespans(anyio_backend: str) -> None:
    from fastapi import Depends, FastAPI

    async def alice() -> AsyncIterator[str]:
        async with user_context("alice-1") as ctx:
            yield ctx.user_id

    app = FastAPI()

    @app.get("/")
    async def read(user: str = Depends(alice)) -> str:
        assert current_context().user_id == user
        return user

    import httpx2

    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/")).json() == "alice-1"


# --- bound_stream -----------------------------------------------------------------------------


async def _tokens(user: str, count: int = 3) -> AsyncGenerator[tuple[str, str], None]:
    """Opens its own scope; yields the user it was asked for, and the one it finds."""
    async with user_context(user):
        for _ in range(count):
            await anyio.sleep(0)
            yield user, current_context().user_id


async def test_the_consumer_is_never_touched() -> None:
    async with user_context("carol-3") as carol:
        async with bound_stream(_tokens("alice-1")) as stream:
            async for asked, found in stream:
                assert asked == found == "alice-1"
                assert current_context() is carol
    assert current_context_or_none() is None


async def test_it_runs_in_the_scope_it_was_made_in() -> None:
    async def names() -> AsyncGenerator[str, None]:
        for _ in range(3):
            yield current_context().user_id

    async with user_context("alice-1"):
        stream = bound_stream(names())
        async with stream, user_context("bob-22"):
            assert [name async for name in stream] == ["alice-1"] * 3


async def test_interleaved_streams_stay_apart() -> None:
    async with (
        bound_stream(_tokens("alice-1", 20)) as first,
        bound_stream(_tokens("bob-22", 20)) as second,
    ):
        for _ in range(20):
            assert await anext(first) == ("alice-1", "alice-1")
            assert await anext(second) == ("bob-22", "bob-22")


async def test_no_read_ahead() -> None:
    made: list[int] = []

    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(5):
            made.append(number)
            yield number

    async with bound_stream(numbers()) as stream:
        await anext(stream)
        for _ in range(5):
            await anyio.sleep(0)
        assert made == [0]


async def test_early_exit_cleans_up_in_the_generators_task() -> None:
    ran: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        async with user_context("alice-1"):
            try:
                yield 1
                yield 2
            finally:
                await anyio.sleep(0)
                ran.append(current_context().user_id)

    async with bound_stream(source()) as stream:
        async for _ in stream:
            break
    assert ran == ["alice-1"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_abandoned_stream_is_closed_when_collected(anyio_backend: str) -> None:
    ended = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            ended.set()

    async for _ in bound_stream(source()):
        break
    gc.collect()
    await asyncio.wait_for(ended.wait(), 1)


async def test_it_works_with_a_task_group_and_a_cancel_scope_inside() -> None:
    async def source() -> AsyncGenerator[int, None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 60)
            with anyio.fail_after(60):
                yield 1
                yield 2
            tasks.cancel_scope.cancel()

    async with bound_stream(source()) as stream:
        assert [item async for item in stream] == [1, 2]


async def test_a_timeout_inside_that_runs_out_between_items_is_the_generators() -> None:
    async def source() -> AsyncGenerator[str, None]:
        with anyio.move_on_after(0.02):
            yield "before"
            await anyio.sleep(60)
        yield "after"

    async with bound_stream(source()) as stream:
        assert await anext(stream) == "before"
        await anyio.sleep(0.05)
        assert await anext(stream) == "after"


async def test_a_cancelled_consumer_ends_the_generator() -> None:
    ran: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await anyio.sleep(60)
        finally:
            ran.append("end")

    with anyio.move_on_after(0.02) as cancel:
        async with bound_stream(source()) as stream:
            async for _ in stream:
                pass
    assert cancel.cancelled_caught
    assert ran == ["end"]


async def test_foreign_closing() -> None:
    async with user_context("alice-1"):
        async with bound_stream(_tokens("bob-22", 100)) as stream:
            await anext(stream)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.aclose)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_errors_reach_the_consumer() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("mine")

    async with bound_stream(source()) as stream:
        assert await anext(stream) == 1
        with pytest.raises(KeyError, match="mine"):
            await anext(stream)


async def test_a_failing_clean_up_is_raised_by_closing() -> None:
    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise KeyError("clean-up")

    stream = bound_stream(source())
    with pytest.raises(KeyError, match="clean-up"):
        async with stream:
            await anext(stream)


async def test_a_stream_ends_with_its_scope_and_says_so() -> None:
    ran: list[str] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            ran.append(current_context().user_id)

    async with user_context("alice-1"):
        stream = bound_stream(source())
        await stream.__aenter__()
        await anext(stream)
    assert ran == ["alice-1"]
    with pytest.raises(ContextClosedError):
        await anext(stream)
    await stream.aclose()


async def test_a_stream_begun_too_late_is_refused() -> None:
    async with user_context("alice-1"):
        stream = bound_stream(_tokens("bob-22"))
    with pytest.raises(ContextClosedError):
        async with stream:
            await anext(stream)


async def test_two_consumers_at_once_are_refused() -> None:
    async def source() -> AsyncGenerator[int, None]:
        await anyio.sleep(60)
        yield 1

    async with bound_stream(source()) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.__anext__)
            await anyio.sleep(0.01)
            with pytest.raises(ConfigurationError, match="Two tasks iterate one stream"):
                await anext(stream)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_needs_the_block(anyio_backend: str) -> None:
    with pytest.raises(ConfigurationError, match="async with bound_stream"):
        await anext(bound_stream(_tokens("alice-1")))


async def test_only_async_generators() -> None:
    with pytest.raises(WrongTypeError, match="not a `list`"):
        bound_stream([1])  # type: ignore[arg-type]


async def test_what_a_stream_registered_is_forgotten_when_it_ends() -> None:
    async with user_context("alice-1"):
        for _ in range(10):
            async with bound_stream(_tokens("bob-22")) as stream:
                async for _item in stream:
                    pass
        assert current_scope()._finalisers().entries == []
