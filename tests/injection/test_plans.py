"""One instance for each scope, whoever asks at once, and whoever is cancelled or fails."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from ringfence import (
    ContextClosedError,
    ProviderCycleError,
    Ringfence,
    child_context,
    current_scope,
    task_group,
)
from ringfence.injection import Container, Lifetime

KEPT = [Lifetime.APP, Lifetime.USER, Lifetime.REQUEST, Lifetime.OPERATION]


class Pool:
    pass


class Repository:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


@pytest.mark.parametrize("lifetime", KEPT)
@pytest.mark.parametrize("is_managed", [False, True])
async def test_all_who_ask_at_once_get_the_same(lifetime: Lifetime, is_managed: bool) -> None:
    made: list[Pool] = []

    async def pool() -> Pool:
        await anyio.sleep(0.005)
        made.append(Pool())
        return made[-1]

    async def managed() -> AsyncIterator[Pool]:
        yield await pool()

    container = Container()
    container.provide(managed if is_managed else pool, lifetime=lifetime, gives=Pool)
    got: list[Pool] = []

    async def ask() -> None:
        got.append(await current_scope().get(Pool))

    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        async with task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert got == made * 5


async def test_what_is_made_of_it_at_once_is_one_too() -> None:
    async def pool() -> Pool:
        await anyio.sleep(0.005)
        return Pool()

    container = Container()
    container.provide(pool)
    container.provide(Repository)
    got: list[Repository] = []

    async def ask() -> None:
        got.append(await current_scope().get(Repository))

    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
    assert got[0] is got[1]


class Held:
    """A factory that goes on when it is told to, and the tasks that ask for what it makes."""

    def __init__(self) -> None:
        self.began = 0
        self.may_go_on = anyio.Event()
        self.got: list[Pool] = []

    async def pool(self) -> Pool:
        self.began += 1
        await self.may_go_on.wait()
        return Pool()

    async def managed(self) -> AsyncIterator[Pool]:
        yield await self.pool()

    async def ask(self, scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            self.got.append(await current_scope().get(Pool))

    async def has_begun(self, times: int) -> None:
        with anyio.fail_after(5):
            while self.began < times:  # noqa: ASYNC110 - as often as it may be
                await anyio.sleep(0.001)


@pytest.mark.parametrize("lifetime", KEPT)
@pytest.mark.parametrize("is_managed", [False, True])
async def test_the_cancellation_of_one_breaks_no_other(
    lifetime: Lifetime, is_managed: bool
) -> None:
    held, hurry = Held(), anyio.CancelScope()
    container = Container()
    container.provide(held.managed if is_managed else held.pool, lifetime=lifetime, gives=Pool)
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(held.ask, hurry)
            await held.has_begun(1)
            tasks.start_soon(held.ask)
            tasks.start_soon(held.ask)
            await anyio.sleep(0.005)
            assert held.began == 1  # they wait
            hurry.cancel()
            await held.has_begun(2)
            held.may_go_on.set()
        assert len(held.got) == 2
        assert held.got[0] is held.got[1]
        assert await current_scope().get(Pool) is held.got[0]
    assert held.began == 2


async def test_who_waits_may_be_cancelled_without_harm_to_who_makes() -> None:
    held, hurry = Held(), anyio.CancelScope()
    container = Container()
    container.provide(held.pool)
    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(held.ask)
            await held.has_begun(1)
            tasks.start_soon(held.ask, hurry)
            await anyio.sleep(0.005)
            hurry.cancel()
            await anyio.sleep(0.005)
            held.may_go_on.set()
    assert len(held.got) == 1
    assert held.began == 1


async def test_those_who_waited_share_a_failure_and_the_next_tries_again() -> None:
    tries: list[int] = []

    async def pool() -> Pool:
        tries.append(1)
        await anyio.sleep(0.005)
        if len(tries) == 1:
            raise OSError("refused")
        return Pool()

    container = Container()
    container.provide(pool)
    failed: list[OSError] = []

    async def ask() -> None:
        try:
            await current_scope().get(Pool)
        except OSError as error:
            failed.append(error)

    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        assert len(failed) == 2
        assert failed[0] is failed[1]
        assert type(await current_scope().get(Pool)) is Pool
    assert len(tries) == 2


async def test_a_factory_that_fails_without_waiting_is_tried_again_too() -> None:
    tries: list[int] = []

    def pool() -> Pool:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("refused")
        return Pool()

    container = Container()
    container.provide(pool)
    async with Ringfence(services=container).user_context("alice-1"):
        with pytest.raises(OSError, match="refused"):
            await current_scope().get(Pool)
        assert type(await current_scope().get(Pool)) is Pool


async def test_a_factory_that_asks_for_itself_is_told_so() -> None:
    async def pool() -> Pool:
        return await current_scope().get(Pool)

    container = Container()
    container.provide(pool)
    async with Ringfence(services=container).user_context("alice-1"):
        with anyio.fail_after(2):
            with pytest.raises(ProviderCycleError, match="which waits for it"):
                await current_scope().get(Pool)


async def test_two_that_wait_for_each_other_are_told_so() -> None:
    """Begun by two tasks at once, it is no recursion, and would wait for ever."""

    async def pool() -> Pool:
        await anyio.sleep(0.005)
        await current_scope().get(Repository)
        raise NotImplementedError

    async def repository() -> Repository:
        await anyio.sleep(0.005)
        await current_scope().get(Pool)
        raise NotImplementedError

    container = Container()
    container.provide(pool)
    container.provide(repository)
    failed: list[BaseException] = []

    async def ask(kind: type) -> None:
        try:
            await current_scope().get(kind)
        except ProviderCycleError as error:
            failed.append(error)

    async with Ringfence(services=container).user_context("alice-1"):
        with anyio.fail_after(2):
            async with task_group() as tasks:
                tasks.start_soon(ask, Pool)
                tasks.start_soon(ask, Repository)
    assert len(failed) == 2


async def test_two_that_only_meet_are_no_circle() -> None:
    held = Held()

    async def repository() -> Repository:
        return Repository(await current_scope().get(Pool))

    container = Container()
    container.provide(held.pool)
    container.provide(repository)

    async def ask_for_what_waits() -> None:
        await current_scope().get(Repository)

    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(held.ask)
            await held.has_begun(1)
            tasks.start_soon(ask_for_what_waits)
            await anyio.sleep(0.005)
            held.may_go_on.set()
        assert (await current_scope().get(Repository)).pool is held.got[0]


async def test_what_comes_too_late_is_not_kept() -> None:
    """The scope closed while a factory ran in a task that outlived it."""
    may_go_on = anyio.Event()
    failed: list[BaseException] = []

    async def pool() -> Pool:
        await may_go_on.wait()
        return Pool()

    container = Container()
    container.provide(pool)

    async def ask() -> None:
        try:
            await current_scope().get(Pool)
        except ContextClosedError as error:
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        async with Ringfence(services=container).user_context("alice-1"):
            tasks.start_soon(ask)
            await anyio.sleep(0.001)
        may_go_on.set()
    assert len(failed) == 1


async def test_an_object_of_the_root_is_made_once_by_many_children() -> None:
    made: list[Pool] = []

    async def pool() -> Pool:
        await anyio.lowlevel.checkpoint()
        made.append(Pool())
        return made[-1]

    container = Container()
    container.provide(pool)

    async def ask() -> None:
        async with child_context("tool"):
            await current_scope().get(Pool)

    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
    assert len(made) == 1


async def test_nothing_is_left_behind_by_who_gave_up() -> None:
    async def pool() -> Pool:
        await anyio.sleep(1)
        raise NotImplementedError

    container = Container()
    container.provide(pool)
    async with Ringfence(services=container).user_context("alice-1"):
        with anyio.move_on_after(0.005):
            await current_scope().get(Pool)
        extras = current_scope()._extras
        assert extras is not None
        assert extras.held.pending == {}  # type: ignore[union-attr]
        with contextlib.suppress(Exception):
            current_scope().get_now(Pool)


async def test_a_failure_is_not_shared_between_requests() -> None:
    """Its traceback leads to the frames, and so to the data, of whoever asked first."""
    failed: dict[str, OSError] = {}

    async def pool() -> Pool:
        await anyio.sleep(0.005)
        raise OSError("refused")

    container = Container()
    container.provide(pool, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)

    async def serve(user: str) -> None:
        async with fence.user_context(user):
            try:
                await current_scope().get(Pool)
            except OSError as error:
                failed[user] = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, "alice-1")
        tasks.start_soon(serve, "bob-22")
    assert len(failed) == 2
    assert failed["alice-1"] is not failed["bob-22"]
