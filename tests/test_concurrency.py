"""Work inside a scope: task groups, bound callbacks, threads, and `run_as`."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import types
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    Identity,
    InvalidContextError,
    NoContextError,
    OwnershipError,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    Settings,
    UserExecutionContext,
    WrongTypeError,
    bind,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    nobody,
    run_as,
    task_group,
    user_context,
)
from ringfence.concurrency import _drive
from ringfence.state import open_roots

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


def _user() -> str:
    return current_context().user_id


# --- task_group -------------------------------------------------------------------------------


async def test_a_task_belongs_to_the_scope_the_group_was_opened_in_whoever_starts_it() -> None:
    seen: dict[str, int] = {}

    async def work(name: str) -> None:
        await anyio.sleep(0)
        seen[name] = current_context().operation_depth

    async with user_context("alice-1") as ctx:
        async with task_group() as tasks:
            tasks.start_soon(work, "by itself")
            async with child_context("tool"):
                tasks.start_soon(work, "by a child")
                async with child_context("deeper"):
                    tasks.start_soon(work, "by a grandchild")
            async with user_context("bob-22"):
                tasks.start_soon(work, "by another")
            async with nobody():
                tasks.start_soon(work, "by nobody")
            callback = functools.partial(tasks.start_soon, work, "from outside of any scope")
            contextvars.Context().run(callback)
        assert current_context() is ctx
    assert seen == dict.fromkeys(
        ["by itself", "by a child", "by a grandchild", "by another", "by nobody",
         "from outside of any scope"], 0,
    )  # fmt: skip


async def test_a_task_outlives_the_child_that_started_it() -> None:
    go, seen = anyio.Event(), []

    async def work() -> None:
        await go.wait()
        seen.append(_user())

    async with user_context("alice-1"):
        async with task_group() as tasks:
            async with child_context("tool"):
                tasks.start_soon(work)
                await anyio.wait_all_tasks_blocked()
            go.set()
    assert seen == ["alice-1"]


async def test_the_plain_part_of_a_call_runs_there_too() -> None:
    """As with a decorator that reads the context before it makes the coroutine."""
    seen: list[int] = []

    def call() -> Coroutine[Any, Any, None]:
        seen.append(current_context().operation_depth)

        async def rest() -> None:
            seen.append(current_context().operation_depth)

        return rest()

    async with user_context("alice-1"):
        async with task_group() as tasks:
            async with child_context("tool"):
                tasks.start_soon(call)
    assert seen == [0, 0]


async def test_arguments_and_names_are_passed() -> None:
    seen: list[Any] = []

    async def work(*args: Any) -> None:
        seen.append((args, anyio.get_current_task().name))

    async with user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(work, 1, 2, name="mine")
    assert seen == [((1, 2), "mine")]


async def test_tasks_do_not_see_each_others_context_variables() -> None:
    seen: list[str] = []

    async def work(value: str) -> None:
        VARIABLE.set(value)
        await anyio.sleep(0)
        seen.append(VARIABLE.get())

    async with user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(work, "a")
            tasks.start_soon(work, "b")
    assert sorted(seen) == ["a", "b"]
    assert VARIABLE.get() == "outside"


async def test_the_block_waits_and_errors_come_as_a_group_that_cancels_the_others() -> None:
    ran: list[str] = []

    async def fails() -> None:
        raise KeyError("mine")

    async def waits() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ran.append("cancelled")

    async with user_context("alice-1") as ctx:
        with pytest.raises(ExceptionGroup) as caught:
            async with task_group() as tasks:
                tasks.start_soon(waits)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(fails)
        assert [str(error) for error in caught.value.exceptions] == ["'mine'"]
        assert ran == ["cancelled"]
        assert current_context() is ctx


async def test_it_can_be_cancelled() -> None:
    ran: list[str] = []

    async def waits() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ran.append(_user())

    async with user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(waits)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel()
    assert ran == ["alice-1"]


async def test_a_group_that_is_not_open_starts_nothing_and_leaves_no_coroutine() -> None:
    """A coroutine that is never awaited would be a warning, which fails the test."""

    async def work() -> None: ...

    async with user_context("alice-1"):
        with pytest.raises(ConfigurationError, match="This task group is not open"):
            task_group().start_soon(work)


async def test_a_group_needs_a_scope() -> None:
    with pytest.raises(NoContextError):
        async with task_group():
            pass
    async with nobody() as scope:
        seen = []

        async def work() -> None:
            seen.append(current_scope())

        async with task_group() as tasks:
            tasks.start_soon(work)
        assert seen == [scope]


async def test_a_group_whose_scope_has_ended_starts_nothing() -> None:
    async def work() -> None: ...

    block: Any = user_context("alice-1")
    await block.__aenter__()
    async with task_group() as tasks:
        await block.__aexit__(None, None, None)
        with pytest.raises(ContextClosedError):
            tasks.start_soon(work)


async def test_each_task_may_open_scopes_of_its_own() -> None:
    seen: list[tuple[str, str]] = []

    async def tool(name: str) -> None:
        async with child_context(name) as child:
            await anyio.sleep(0)
            seen.append((name, child.agent_context["operation_name"]))
            assert current_context() is child

    async with user_context("alice-1") as ctx:
        async with task_group() as tasks:
            for name in ("one", "two", "three"):
                tasks.start_soon(tool, name)
        assert current_context() is ctx
    assert sorted(seen) == [("one", "one"), ("three", "three"), ("two", "two")]


# --- bind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_bind_in_an_executor(anyio_backend: str) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        async with user_context("alice-1"):
            assert await loop.run_in_executor(pool, bind(_user)) == "alice-1"
            with pytest.raises(NoContextError):
                await loop.run_in_executor(pool, _user)
        async with user_context("bob-22"):
            assert await loop.run_in_executor(pool, bind(_user)) == "bob-22"
        assert await loop.run_in_executor(pool, current_context_or_none) is None


async def test_bind_in_a_plain_thread() -> None:
    seen: list[object] = []

    def work(value: object) -> None:
        seen.append((value, _user()))

    async with user_context("alice-1"):
        thread = threading.Thread(target=bind(work), args=("given",))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    assert seen == [("given", "alice-1")]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_bind_in_a_callback_of_the_loop(anyio_backend: str) -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    seen: list[str] = []

    def tick() -> None:
        seen.append(_user())
        done.set()

    async with user_context("alice-1"):
        bound = bind(tick)
        async with user_context("bob-22"):
            loop.call_soon(bound)
            await done.wait()
    assert seen == ["alice-1"]


async def test_a_bound_function_takes_and_gives_what_it_does() -> None:
    def add(one: int, *, two: int = 0) -> int:
        """Add."""
        return one + two

    async with user_context("alice-1"):
        bound = bind(add)
        assert bound(1, two=2) == 3
        assert (bound.__name__, bound.__doc__) == ("add", "Add.")
        with pytest.raises(ZeroDivisionError):
            bind(lambda: 1 / 0)()


async def test_each_call_has_a_copy_of_the_context() -> None:
    def work() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    async with user_context("alice-1"):
        bound = bind(work)
        assert [bound(), bound()] == ["outside", "outside"]
        start = threading.Barrier(4)

        def recursive(left: int) -> int:
            start.wait()
            return left

        both = bind(recursive)
        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(both, range(4))) == [0, 1, 2, 3]


async def test_a_bound_function_is_refused_when_its_scope_has_ended() -> None:
    ran: list[int] = []
    async with user_context("alice-1"):
        async with child_context("tool"):
            bound = bind(lambda: ran.append(1))
        with pytest.raises(ContextClosedError):
            bound()
    async with user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            bound()
    assert ran == []


async def test_bind_needs_a_scope_and_a_plain_function() -> None:
    async def work() -> None: ...

    async def generate() -> Any:
        yield 1

    with pytest.raises(NoContextError):
        bind(_user)
    async with user_context("alice-1"):
        for fn in (work, functools.partial(work), generate):
            with pytest.raises(WrongTypeError, match="`bind` takes a plain function"):
                bind(fn)  # type: ignore[arg-type]
    async with nobody() as scope:
        assert bind(current_scope)() is scope


async def test_what_anyio_starts_in_a_thread_is_bound_already() -> None:
    async with user_context("alice-1"):
        assert await anyio.to_thread.run_sync(_user) == "alice-1"

        def back() -> str:
            return anyio.from_thread.run(_async_user)

        async def _async_user() -> str:
            return _user()

        assert await anyio.to_thread.run_sync(back) == "alice-1"


# --- run_as -----------------------------------------------------------------------------------


def _in_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_plain_function_as_a_user() -> None:
    def report(month: str, *, detail: bool) -> tuple[str, str, bool]:
        return _user(), month, detail

    assert run_as("alice-1", report, "May", detail=True) == ("alice-1", "May", True)
    assert current_context_or_none() is None


async def test_in_a_plain_thread_beside_an_event_loop() -> None:
    async with user_context("alice-1"):
        seen = await anyio.to_thread.run_sync(lambda: _in_thread(lambda: run_as("bob-22", _user)))
        assert seen == "bob-22"
        assert _user() == "alice-1"


def test_an_identity_a_context_and_a_fence() -> None:
    fence = Ringfence(settings=Settings(id_prefixes=()))
    identity = Identity("alice-1", "acme", claims={"roles": ["admin"]})

    def read() -> tuple[str | None, Any]:
        return current_context().tenant_id, current_scope().claims["roles"]

    assert run_as(identity, read) == ("acme", ("admin",))
    value = UserExecutionContext("alice-1", "t-1", "r-1", request_id="q-1")
    assert run_as(value, lambda: current_context().request_id) == "q-1"
    assert run_as("test_1", _user, fence=fence) == "test_1"
    assert run_as("test_1", lambda: current_scope()._recipes, fence=fence) is fence
    with pytest.raises(InvalidContextError):
        run_as("test_1", _user)


def test_it_inherits_nothing_and_leaves_nothing() -> None:
    token = VARIABLE.set("mine")

    def work() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    assert run_as("alice-1", work) == "outside"
    assert VARIABLE.get() == "mine"
    VARIABLE.reset(token)
    assert open_roots() == []


class Awaits:
    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    async def __call__(self) -> None:
        await anyio.sleep(0)
        self.ran.append(f"object {_user()}")


def _register_all(ran: list[str]) -> RequestScope:
    async def coroutine() -> None:
        await anyio.sleep(0)
        ran.append(f"async {_user()}")

    scope = current_scope()
    scope.callback(ran.append, "first")
    scope.callback(coroutine)
    scope.callback(lambda: ran.append(f"plain {_user()}"))
    scope.callback(lambda: coroutine())
    scope.callback(Awaits(ran))
    scope.callback(ran.append, "last")
    return scope


EVERY = ["last", "object alice-1", "async alice-1", "plain alice-1", "async alice-1", "first"]


def test_finalisers_of_every_kind_run_before_it_returns() -> None:
    ran: list[str] = []
    scope = run_as("alice-1", _register_all, ran)
    assert ran == EVERY
    assert scope.state == "closed"
    assert scope.ended_well


def test_and_when_it_fails() -> None:
    ran: list[str] = []
    scopes: list[RequestScope] = []

    def work() -> None:
        scopes.append(_register_all(ran))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_as("alice-1", work)
    assert ran == EVERY
    assert not scopes[0].ended_well
    assert open_roots() == []


@pytest.mark.parametrize("kind", ["plain", "async", "lambda"])
def test_a_failing_finaliser_is_raised(kind: str) -> None:
    async def fails() -> None:
        raise OSError("clean-up")

    def plain() -> None:
        raise OSError("clean-up")

    finaliser = {"plain": plain, "async": fails, "lambda": lambda: fails()}[kind]

    def good() -> None:
        current_scope().callback(finaliser)

    def bad() -> None:
        current_scope().callback(finaliser)
        raise KeyError("mine")

    with pytest.raises(ScopeCloseError) as caught:
        run_as("alice-1", good)
    assert str(caught.value.exceptions[0]) == "clean-up"
    with pytest.raises(KeyError) as failed:
        run_as("alice-1", bad)
    assert "clean-up" in failed.value.__notes__[0]
    assert open_roots() == []


def test_plain_finalisers_start_no_event_loop() -> None:
    """They may start one of their own, as sync code does."""
    seen: list[str] = []

    async def main() -> str:
        return _user()

    def work() -> None:
        current_scope().callback(lambda: seen.append(asyncio.run(main())))

    run_as("alice-1", work)
    assert seen == ["alice-1"]


def test_what_leaks_from_it_is_refused() -> None:
    def leak() -> tuple[UserExecutionContext, RequestScope, Callable[[], str], contextvars.Context]:
        return current_context(), current_scope(), bind(_user), contextvars.copy_context()

    ctx, scope, bound, held = run_as("alice-1", leak)
    assert ctx.user_id == "alice-1"
    for use in (lambda: scope.callback(print), bound, lambda: held.run(current_context)):
        with pytest.raises(ContextClosedError):
            use()


def test_nested_it_is_another_root() -> None:
    def inner() -> str:
        assert current_scope().parent is None
        return _user()

    def outer() -> tuple[str, str]:
        scope, thing = current_scope(), current_scope().own([1])

        def steals() -> None:
            with pytest.raises(OwnershipError):
                scope.own([2])
            with pytest.raises(OwnershipError):
                current_scope().check(thing)

        run_as("carol-3", steals)
        return run_as("bob-22", inner), _user()

    assert run_as("alice-1", outer) == ("bob-22", "alice-1")


def test_many_threads_at_once() -> None:
    start = threading.Barrier(8)

    def work(user: str) -> bool:
        start.wait()
        return all(run_as(user, _user) == user for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, [f"user-{n}" for n in range(8)]))


async def test_in_a_running_event_loop_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="This thread runs an event loop"):
        run_as("alice-1", _user)


def test_an_async_function_is_refused() -> None:
    async def work() -> None: ...

    with pytest.raises(WrongTypeError, match="`run_as` runs a plain function"):
        run_as("alice-1", work)


@types.coroutine
def _suspend() -> Iterator[None]:
    yield


def test_a_part_that_needs_a_loop_is_named() -> None:
    with pytest.raises(ConfigurationError, match="needs an event loop"):
        _drive(_suspend())  # type: ignore[arg-type]
