"""Law 3. Closed is closed: whatever still holds an ended scope is refused."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from ringfence import (
    ContextClosedError,
    NoContextError,
    bind,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    owned,
    user_context,
)


@owned
class Memory:
    def __init__(self) -> None:
        self.notes = ["n"]


async def _ended() -> contextvars.Context:
    async with user_context("alice-1"):
        return contextvars.copy_context()


READERS: list[Callable[[], object]] = [
    current_context,
    current_scope,
    lambda: child_context("late"),
    lambda: bind(print),
]


@pytest.mark.parametrize("reader", READERS, ids=["context", "scope", "child", "bind"])
async def test_a_captured_context_is_refused(reader: Callable[[], object]) -> None:
    held = await _ended()
    with pytest.raises(ContextClosedError, match=r"opened at .*_ended, ended at .*_ended"):
        held.run(reader)


async def test_the_polite_readers_say_none() -> None:
    held = await _ended()
    assert held.run(current_context_or_none) is None
    assert held.run(current_scope_or_none) is None


async def test_every_method_of_a_captured_scope_is_refused() -> None:
    async with user_context("alice-1") as ctx:
        scope = current_scope()
    calls: list[Callable[[], object]] = [
        lambda: scope.callback(print),
        lambda: scope.own([]),
        lambda: scope.check([]),
        lambda: scope.context,
        lambda: scope.db_session,
        lambda: scope.claimant,
        lambda: ctx.db_session,
    ]
    for call in calls:
        with pytest.raises(ContextClosedError):
            call()
    with pytest.raises(ContextClosedError):
        await scope.enter(anyio.Lock())


async def test_facts_stay_readable() -> None:
    async with user_context("alice-1", agent_context={"k": 1}) as ctx:
        scope = current_scope()
    assert (ctx.user_id, ctx.agent_context) == ("alice-1", {"k": 1})
    assert ctx.to_dict()["user_id"] == "alice-1"
    assert scope.request_id == ctx.request_id
    assert scope.state == "closed"


async def test_a_task_that_outlived_its_scope_is_refused() -> None:
    go = anyio.Event()
    caught: list[BaseException] = []

    async def orphan() -> None:
        await go.wait()
        try:
            current_context()
        except ContextClosedError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        async with user_context("alice-1"):
            tasks.start_soon(orphan)
            await anyio.sleep(0)
        async with user_context("bob-22"):
            go.set()
            await anyio.sleep(0.01)
    assert len(caught) == 1


async def test_it_never_falls_back_to_the_parent() -> None:
    go = anyio.Event()
    refused: list[str] = []

    async def orphan() -> None:
        await go.wait()
        try:
            current_context()
        except ContextClosedError as error:
            refused.append(error.request_id or "")

    async with user_context("alice-1"):
        async with anyio.create_task_group() as tasks:
            async with child_context("tool") as child:
                tasks.start_soon(orphan)
                await anyio.sleep(0)
            go.set()
    assert refused == [child.request_id]


async def test_a_thread_is_refused() -> None:
    held = await _ended()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            held.run(current_context)
        except ContextClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1


async def test_a_bound_callback_is_refused() -> None:
    async with user_context("alice-1"):
        callback = bind(lambda: "ran")
        assert callback() == "ran"
    with pytest.raises(ContextClosedError, match="ended at"):
        callback()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_timer_is_refused(anyio_backend: str) -> None:
    caught: list[str] = []

    def tick() -> None:
        try:
            current_context()
        except ContextClosedError as error:
            caught.append(error.code)

    async with user_context("alice-1"):
        asyncio.get_running_loop().call_later(0.01, tick)
    async with user_context("bob-22"):
        await asyncio.sleep(0.03)
    assert caught == ["RF102"]


async def test_an_owned_object_is_refused_after_its_end() -> None:
    async with user_context("alice-1"):
        memory = Memory()
        assert memory.notes == ["n"]
    with pytest.raises(ContextClosedError):
        _ = memory.notes
    async with user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            memory.notes = []


async def test_a_closing_scope_can_be_read_and_takes_nothing_new() -> None:
    seen: list[object] = []

    def finaliser() -> None:
        seen.append(current_context().user_id)
        for late in (lambda: current_scope().callback(print), lambda: child_context("late")):
            try:
                seen.append(late())
            except ContextClosedError as error:
                seen.append(error.code)

    async with user_context("alice-1"):
        current_scope().callback(finaliser)
    assert seen[:2] == ["alice-1", "RF102"]


async def test_a_child_cannot_be_entered_in_a_closing_scope() -> None:
    refused: list[str] = []

    async def finaliser() -> None:
        try:
            async with child_context("late"):
                pass
        except ContextClosedError as error:
            refused.append(error.code)

    async with user_context("alice-1"):
        current_scope().callback(finaliser)
    assert refused == ["RF102"]


async def test_leaving_out_of_order_resurrects_nothing() -> None:
    outer, inner = user_context("alice-1"), user_context("bob-22")
    await outer.__aenter__()
    bob = await inner.__aenter__()
    await outer.__aexit__(None, None, None)
    assert current_context() is bob
    await inner.__aexit__(None, None, None)
    with pytest.raises(NoContextError):
        current_context()


async def test_leaving_goes_back_to_the_nearest_that_is_open() -> None:
    blocks = [user_context(user) for user in ("alice-1", "bob-22", "carol-3")]
    alice = await blocks[0].__aenter__()
    await blocks[1].__aenter__()
    await blocks[2].__aenter__()
    await blocks[1].__aexit__(None, None, None)
    await blocks[2].__aexit__(None, None, None)
    assert current_context() is alice
    await blocks[0].__aexit__(None, None, None)


async def test_an_orphan_of_one_never_becomes_the_other_beneath() -> None:
    """Bob's scope is opened within alice's; his task outlives it, and opens scopes of its own."""
    go = anyio.Event()
    found: list[str | None] = []

    async def orphan() -> None:
        await go.wait()
        async with user_context("carol-3"):
            pass
        try:
            found.append(current_context().user_id)
        except ContextClosedError:
            found.append(None)

    async def orphan_inside() -> None:
        async with user_context("carol-3"):
            await go.wait()
        try:
            found.append(current_context().user_id)
        except ContextClosedError:
            found.append(None)

    async with user_context("alice-1"):
        async with anyio.create_task_group() as tasks:
            async with user_context("bob-22"):
                tasks.start_soon(orphan)
                tasks.start_soon(orphan_inside)
                await anyio.sleep(0)
            go.set()
    assert found == [None, None]


async def test_a_chain_of_scopes_born_in_each_other_is_not_kept_alive() -> None:
    """As pipelined requests are: each is born in a copy of the context of the one before."""

    def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(StopIteration):
            coroutine.send(None)

    def enter(block: Any) -> None:
        drive(block.__aenter__())

    def leave(block: Any) -> None:
        drive(block.__aexit__(None, None, None))

    block: Any = user_context("user-0")
    first = weakref.ref(block)
    context = contextvars.copy_context()
    context.run(enter, block)
    for number in range(1, 20):
        following, born_in = user_context(f"user-{number}"), context.copy()
        born_in.run(enter, following)
        context.run(leave, block)
        block, context = following, born_in
    gc.collect()
    assert first() is None
    context.run(leave, block)


async def test_leaving_from_a_foreign_task_closes_it_everywhere() -> None:
    block = user_context("alice-1")
    await block.__aenter__()
    held = contextvars.copy_context()

    async def leave() -> None:
        await block.__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
    with pytest.raises(ContextClosedError):
        held.run(current_context)
    with pytest.raises(ContextClosedError):
        current_context()
    await block.__aexit__(None, None, None)
    with pytest.raises(NoContextError):
        current_context()


async def test_leaving_twice_runs_nothing_twice() -> None:
    ran: list[int] = []
    block = user_context("alice-1")
    await block.__aenter__()
    current_scope().callback(ran.append, 1)
    await block.__aexit__(None, None, None)
    await block.__aexit__(None, None, None)
    assert ran == [1]
