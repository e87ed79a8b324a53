"""Threads of one scope: a framework runs plain handlers in them, and nobody can cancel one."""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from ringfence import ContextClosedError, Ringfence, current_scope
from ringfence.injection import Container, Lifetime, users
from ringfence.isolation import registry


class Pool:
    pass


def _in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread in this context that nothing waits for, and what became of the call."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    return thread, results


@pytest.mark.parametrize("is_managed", [False, True])
@pytest.mark.parametrize("has_callback", [False, True])
async def test_what_a_thread_makes_too_late_is_closed_and_not_given(
    is_managed: bool, has_callback: bool
) -> None:
    lines: list[str] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def pool() -> Pool:
        begun.set()
        may_go_on.wait(5)
        return Pool()

    def managed() -> Iterator[Pool]:
        yield pool()
        lines.append("closed")

    container = Container()
    container.provide(managed if is_managed else pool, gives=Pool)
    before = len(registry)
    async with Ringfence(services=container).user_context("alice-1"):
        if has_callback:
            current_scope().callback(lambda: None)
        thread, results = _in_thread(functools.partial(current_scope().get_now, Pool))
        assert begun.wait(5)
    may_go_on.set()
    thread.join(5)
    assert [type(result) for result in results] == [ContextClosedError]
    assert lines == ["closed"] * is_managed
    assert len(registry) == before


async def test_what_a_written_function_makes_too_late_is_not_given() -> None:
    is_slow, begun, may_go_on = False, threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            if is_slow:
                begun.set()
                may_go_on.wait(5)

    container = Container()
    container.provide(Slow)
    fence = Ringfence(services=container)
    for _ in range(2):  # it is written for the second
        async with fence.user_context("alice-1"):
            current_scope().get_now(Slow)
    is_slow, before = True, len(registry)
    async with fence.user_context("alice-1"):
        scope = current_scope()
        thread, results = _in_thread(lambda: scope.get_now(Slow))
        begun.wait(5)
    may_go_on.set()
    thread.join(5)
    assert isinstance(results[0], ContextClosedError)
    assert len(registry) == before


@pytest.mark.parametrize("is_class", [False, True])
async def test_two_threads_get_one_object_and_the_other_is_forgotten(is_class: bool) -> None:
    both = threading.Barrier(2)

    class Met:
        def __init__(self) -> None:
            both.wait(5)

    def met() -> Met:
        return Met()

    container = Container()
    container.provide(Met if is_class else met, gives=Met)
    got: list[Met] = []

    async def ask() -> None:
        got.append(await anyio.to_thread.run_sync(current_scope().get_now, Met))

    before = len(registry)
    async with Ringfence(services=container).user_context("alice-1"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
    assert got[0] is got[1]
    assert len(registry) == before


@pytest.fixture
def _slow_to_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(users.UserHolder):
        def __init__(self, *args: Any) -> None:
            time.sleep(0.02)  # another thread comes meanwhile
            super().__init__(*args)

    monkeypatch.setattr(users, "UserHolder", Slow)


@pytest.mark.usefixtures("_slow_to_enter")
async def test_a_users_requests_in_threads_share_what_is_kept_and_all_is_closed() -> None:
    opened: list[Pool] = []
    closed: list[Pool] = []

    def pool() -> Iterator[Pool]:
        made = Pool()
        opened.append(made)
        yield made
        closed.append(made)

    container = Container()
    container.provide(pool, gives=Pool, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence:

        async def request() -> None:
            async with fence.user_context("alice-1"):
                await anyio.to_thread.run_sync(current_scope().get_now, Pool)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(request)
    assert set(opened) == set(closed)
    assert opened


@pytest.mark.parametrize("lifetime", [Lifetime.APP, Lifetime.USER])
def test_whoever_waits_on_another_event_loop_is_woken(lifetime: Lifetime) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    async def pool() -> Pool:
        begun.set()
        while not may_go_on.is_set():  # noqa: ASYNC110 - set by another event loop
            await anyio.sleep(0.001)
        return Pool()

    container = Container()
    container.provide(pool, lifetime=lifetime)
    fence = Ringfence(services=container)

    async def ask(is_last: bool) -> Pool:
        async with fence.user_context("alice-1"), anyio.create_task_group() as group:
            if is_last:
                group.start_soon(_set_soon)
            with anyio.fail_after(5):
                return await current_scope().get(Pool)

    async def _set_soon() -> None:
        may_go_on.set()

    first, made = _in_thread(lambda: anyio.run(ask, False))
    assert begun.wait(5)
    started = time.monotonic()
    last, got = _in_thread(lambda: anyio.run(ask, True))
    first.join(6)
    last.join(6)
    anyio.run(container.aclose)
    assert made == got
    assert isinstance(made[0], Pool)
    assert time.monotonic() - started < 4
