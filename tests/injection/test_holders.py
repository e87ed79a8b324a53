"""Clean-up is the scope's own, under its laws; what was made belongs to its request tree."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextIsolationError,
    OwnershipError,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    Settings,
    child_context,
    current_context,
    current_scope,
    owned,
    user_context,
)
from ringfence.injection import Container, Lifetime


class A:
    pass


class B:
    def __init__(self, a: A) -> None:
        self.a = a


class C:
    def __init__(self, b: B) -> None:
        self.b = b


def _chain(ran: list[str], lifetime: Lifetime = Lifetime.REQUEST) -> Container:
    """Three, each made with the one before: of an async, a plain and an async generator."""
    container = Container()

    async def a() -> AsyncIterator[A]:
        try:
            yield A()
        finally:
            await anyio.sleep(0.001)
            ran.append("a")

    def b(a: A) -> Iterator[B]:
        try:
            yield B(a)
        finally:
            ran.append("b")

    async def c(b: B) -> AsyncIterator[C]:
        try:
            yield C(b)
        finally:
            await anyio.sleep(0.001)
            ran.append("c")

    for source in (a, b, c):
        container.provide(source, lifetime=lifetime)
    return container


# --- finalisers: law 5 ------------------------------------------------------------------------


async def test_last_in_first_out_with_the_scopes_own() -> None:
    ran: list[str] = []
    fence = Ringfence(services=_chain(ran))
    async with fence.user_context("alice-1"):
        scope = current_scope()
        scope.callback(ran.append, "first")
        await scope.get(C)
        scope.callback(ran.append, "last")
    assert ran == ["last", "c", "b", "a", "first"]
    assert [report.name for report in scope.report][1:4] == ["C", "B", "A"]


async def test_the_body_fails_and_the_second_halves_see_why() -> None:
    seen: list[BaseException] = []

    async def a() -> AsyncIterator[A]:
        try:
            yield A()
        except ValueError as error:
            seen.append(error)
            raise

    def b(a: A) -> Iterator[B]:
        try:
            yield B(a)
        except ValueError as error:
            seen.append(error)
            raise

    container = Container()
    container.provide(a)
    container.provide(b)
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with Ringfence(services=container).user_context("alice-1"):
            await current_scope().get(B)
            raise error
    assert caught.value is error
    assert seen == [error, error]
    assert not hasattr(error, "__notes__")


async def test_a_failing_finaliser_is_not_silent_and_stops_no_other() -> None:
    ran: list[str] = []
    container = _chain(ran)

    class D:
        pass

    async def d(c: C) -> AsyncIterator[D]:
        yield D()
        raise OSError("gone")

    container.provide(d, gives=D)
    with pytest.raises(ScopeCloseError) as caught:
        async with Ringfence(services=container).user_context("alice-1"):
            await current_scope().get(D)
    assert ran == ["c", "b", "a"]
    assert [str(error) for error in caught.value.exceptions] == ["gone"]


async def test_a_generator_that_yields_again_is_not_silent() -> None:
    async def a() -> AsyncIterator[A]:
        yield A()
        yield A()

    def b(a: A) -> Iterator[B]:
        yield B(a)
        yield B(a)

    container = Container()
    container.provide(a)
    container.provide(b)
    with pytest.raises(ScopeCloseError) as caught:
        async with Ringfence(services=container).user_context("alice-1"):
            await current_scope().get(B)
    assert ["didn't stop" in str(error) for error in caught.value.exceptions] == [True, True]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_again_and_again_all_run() -> None:
    """What dishka, svcs and wireup stop at: a finaliser in which a cancellation arrives."""
    ran: list[str] = []
    fence = Ringfence(services=_chain(ran))

    is_there = asyncio.Event()

    async def serve() -> None:
        async with fence.user_context("alice-1"):
            await current_scope().get(C)
            is_there.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(serve())
    await is_there.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == ["c", "b", "a"]


async def test_a_cancelled_finaliser_stops_no_other() -> None:
    ran: list[str] = []
    container = _chain(ran)

    class D:
        pass

    async def d(c: C) -> AsyncIterator[D]:
        yield D()
        raise asyncio.CancelledError

    container.provide(d, gives=D)
    with contextlib.suppress(BaseException):
        async with Ringfence(services=container).user_context("alice-1"):
            await current_scope().get(D)
    assert ran == ["c", "b", "a"]


async def test_cancelled_by_a_scope_of_anyio_all_run() -> None:
    ran: list[str] = []
    fence = Ringfence(services=_chain(ran))
    with anyio.CancelScope() as cut:
        async with fence.user_context("alice-1"):
            await current_scope().get(C)
            cut.cancel()
            await anyio.sleep(10)
    assert cut.cancelled_caught
    assert ran == ["c", "b", "a"]


async def test_a_finaliser_that_hangs_is_cut_short() -> None:
    async def a() -> AsyncIterator[A]:
        yield A()
        await anyio.sleep(10)

    container = Container()
    container.provide(a)
    fence = Ringfence(services=container, settings=Settings(finaliser_timeout=0.02))
    with anyio.fail_after(2):
        with pytest.raises(ScopeCloseError) as caught:
            async with fence.user_context("alice-1"):
                await current_scope().get(A)
    assert isinstance(caught.value.exceptions[0], TimeoutError)


async def test_what_was_opened_before_a_failure_is_closed() -> None:
    ran: list[str] = []
    container = _chain(ran)

    class D:
        pass

    async def d(c: C) -> AsyncIterator[D]:
        raise OSError("refused")
        yield

    container.provide(d, gives=D)
    async with Ringfence(services=container).user_context("alice-1"):
        with pytest.raises(OSError, match="refused"):
            await current_scope().get(D)
        assert ran == []
    assert ran == ["c", "b", "a"]


async def test_task_groups_and_locks_are_left_by_the_task_that_entered_them() -> None:
    async def group() -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            yield tasks

    async def lock() -> AsyncIterator[anyio.Lock]:
        held = anyio.Lock()
        async with held:
            yield held

    container = Container()
    container.provide(group)
    container.provide(lock)
    async with Ringfence(services=container).user_context("alice-1"):
        await current_scope().get(anyio.abc.TaskGroup)
        assert (await current_scope().get(anyio.Lock)).locked()


async def test_both_halves_of_a_plain_generator_run_in_one_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    def a() -> Iterator[A]:
        token = variable.set(1)
        yield A()
        seen.append(variable.get())
        variable.reset(token)

    container = Container()
    container.provide(a)
    async with Ringfence(services=container).user_context("alice-1"):
        await current_scope().get(A)
        assert variable.get() == 0
    assert seen == [1]


async def test_both_halves_see_their_own_scope() -> None:
    seen: list[str] = []

    async def a() -> AsyncIterator[A]:
        seen.append(current_context().request_id)
        yield A()
        seen.append(current_context().request_id)

    container = Container()
    container.provide(a)
    async with Ringfence(services=container).user_context("alice-1") as root:
        async with child_context("tool"):
            await current_scope().get(A)
        assert seen == [root.request_id]  # it is the root's, and outlives the child
    assert seen == [root.request_id] * 2


async def test_a_childs_own_is_closed_with_it() -> None:
    ran: list[str] = []
    fence = Ringfence(services=_chain(ran, Lifetime.OPERATION))
    async with fence.user_context("alice-1"):
        async with child_context("tool"):
            await current_scope().get(C)
        assert ran == ["c", "b", "a"]


async def test_what_is_made_anew_is_finalised_with_who_asked() -> None:
    ran: list[str] = []
    container = Container()

    async def a() -> AsyncIterator[A]:
        yield A()
        ran.append("a")

    container.provide(a, lifetime=Lifetime.TRANSIENT)
    container.provide(B, lifetime=Lifetime.APP)
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            await current_scope().get(A)
            await current_scope().get(B)
        assert ran == ["a"]
    assert ran == ["a", "a"]


async def test_what_is_being_finalised_is_not_given_any_more() -> None:
    refused: list[str] = []

    async def a() -> AsyncIterator[A]:
        yield A()
        try:
            await current_scope().get(A)
        except ContextClosedError:
            refused.append("a")

    container = Container()
    container.provide(a)
    async with Ringfence(services=container).user_context("alice-1"):
        await current_scope().get(A)
    assert refused == ["a"]


# --- the application's ------------------------------------------------------------------------


async def test_the_applications_close_with_the_fence_and_are_made_again() -> None:
    ran: list[str] = []
    fence = Ringfence(services=_chain(ran, Lifetime.APP))
    got: list[C] = []
    for _ in range(2):
        async with fence:
            for user in ("alice-1", "bob-22"):
                async with fence.user_context(user):
                    got.append(await current_scope().get(C))
        assert ran == ["c", "b", "a"]
        ran.clear()
    assert got[0] is got[1]
    assert got[2] is got[3]
    assert got[0] is not got[2]


async def test_what_has_no_clean_up_goes_with_the_application_too() -> None:
    container = Container()
    container.provide(A, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)
    got: list[A] = []
    for _ in range(2):
        async with fence, fence.user_context("alice-1"):
            got.append(await current_scope().get(A))
    assert got[0] is not got[1]


async def test_what_nobody_would_close_is_not_opened() -> None:
    container = _chain([], Lifetime.APP)
    container.provide(int, lifetime=Lifetime.APP)
    async with Ringfence(services=container).user_context("alice-1"):
        assert await current_scope().get(int) == 0  # it has no clean-up
        with pytest.raises(ConfigurationError, match="fence is not open"):
            await current_scope().get(C)


async def test_a_failure_to_close_the_application_is_raised() -> None:
    ran: list[str] = []
    container = _chain(ran, Lifetime.APP)

    class D:
        pass

    async def d(c: C) -> AsyncIterator[D]:
        yield D()
        raise OSError("gone")

    container.provide(d, gives=D, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)
    with pytest.raises(ScopeCloseError, match="application stopped") as caught:
        async with fence:
            async with fence.user_context("alice-1"):
                await current_scope().get(D)
    assert [str(error) for error in caught.value.exceptions] == ["gone"]
    assert ran == ["c", "b", "a"]
    assert not fence.is_open
    assert fence.drain_report is not None


class Fatal(BaseException):
    pass


async def test_a_base_exception_of_one_hides_no_failure_of_another() -> None:
    def a() -> Iterator[A]:
        yield A()
        raise OSError("gone")

    def b(a: A) -> Iterator[B]:
        yield B(a)
        raise Fatal

    container = Container()
    container.provide(a, lifetime=Lifetime.APP)
    container.provide(b, lifetime=Lifetime.APP)
    with pytest.raises(Fatal) as caught:
        async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
            await current_scope().get(B)
    assert "gone" in caught.value.__notes__[0]


async def test_it_does_not_hide_what_the_application_ended_with() -> None:
    async def a() -> AsyncIterator[A]:
        yield A()
        raise OSError("gone")

    container = Container()
    container.provide(a, lifetime=Lifetime.APP)
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with Ringfence(services=container) as fence:
            async with fence.user_context("alice-1"):
                await current_scope().get(A)
            raise error
    assert caught.value is error
    assert "closing the container failed" in error.__notes__[0]


async def test_a_container_serves_one_fence_at_a_time() -> None:
    """Otherwise the second would forget what the first has to close."""
    ran: list[str] = []
    container = _chain(ran, Lifetime.APP)
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            await current_scope().get(C)
        with pytest.raises(ConfigurationError, match="open already"):
            async with Ringfence(services=container):
                raise NotImplementedError
        assert ran == []
    assert ran == ["c", "b", "a"]


# --- ownership: law 4 -------------------------------------------------------------------------


@owned
class Memory:
    def __init__(self) -> None:
        self.notes: list[str] = []


class Smuggler:
    """Lives as long as the application, and keeps what it is handed."""

    kept: list[object]

    def __init__(self) -> None:
        self.kept = []


@pytest.mark.parametrize("lifetime", [Lifetime.REQUEST, Lifetime.OPERATION])
async def test_an_owned_object_that_is_smuggled_out_is_refused_at_use(lifetime: Lifetime) -> None:
    container = Container()
    container.provide(Memory, lifetime=lifetime)
    container.provide(Smuggler, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        memory = await current_scope().get(Memory)
        smuggler = await current_scope().get(Smuggler)
        smuggler.kept.append(memory)
        assert memory.notes == []
        async with fence.user_context("bob-22"):
            (found,) = (await current_scope().get(Smuggler)).kept
            with pytest.raises(OwnershipError):
                found.notes  # type: ignore[attr-defined]  # noqa: B018
    async with fence.user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            memory.notes  # noqa: B018


@pytest.mark.parametrize("lifetime", [Lifetime.REQUEST, Lifetime.OPERATION])
async def test_a_plain_one_is_reported_by_check(lifetime: Lifetime) -> None:
    container = Container()
    container.provide(A, lifetime=lifetime)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        a = await current_scope().get(A)
        scope = current_scope()
        assert scope.check(a) is a
        assert scope.own(a) is a
        async with child_context("tool"):
            assert current_scope().check(a) is a
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError) as caught:
                current_scope().check(a)
            with pytest.raises(OwnershipError):
                current_scope().own(a)
        assert caught.value.owner_request_id == scope.request_id
        assert "alice-1" not in str(caught.value)


async def test_a_childs_object_is_its_trees_until_the_child_ends() -> None:
    container = Container()
    container.provide(A, lifetime=Lifetime.OPERATION)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        async with child_context("tool"):
            a = await current_scope().get(A)
            async with fence.user_context("bob-22"):
                with pytest.raises(OwnershipError):
                    current_scope().check(a)
        async with fence.user_context("bob-22"):
            assert current_scope().check(a) is a  # nobody's any more


async def test_a_childs_object_that_is_owned_is_its_trees_until_the_root_ends() -> None:
    container = Container()
    container.provide(A, lifetime=Lifetime.OPERATION)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        async with child_context("tool"):
            a = current_scope().own(await current_scope().get(A))
            assert current_scope().own(a) is a
        assert current_scope().check(a) is a
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().check(a)
    async with fence.user_context("bob-22"):
        assert current_scope().check(a) is a


async def test_what_is_owned_and_released_is_its_trees_until_the_root_ends() -> None:
    container = Container()
    container.provide(A)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        a = current_scope().own(await current_scope().get(A))
        await current_scope().release(A)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().check(a)


async def test_a_factory_that_gives_two_requests_one_object_is_refused() -> None:
    """The per-user cache in a module, which is the bug that isolation is about."""
    shared = A()
    container = Container()
    container.provide(lambda: shared, gives=A)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        await current_scope().get(A)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError, match="for the user's or the application's"):
                await current_scope().get(A)
        async with child_context("tool"):
            assert await current_scope().get(A) is shared


async def test_an_object_may_be_in_its_own_contexts_data() -> None:
    container = Container()
    container.provide(A)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1") as ctx:
        a = await current_scope().get(A)
        ctx.agent_context["a"] = a
        ctx.agent_context["b"] = [1]
        assert ctx.verify_isolation()
        async with fence.user_context("bob-22") as bob:
            bob.agent_context["a"] = a
            with pytest.raises(ContextIsolationError):
                bob.verify_isolation()


async def test_values_belong_to_nobody() -> None:
    container = Container()
    container.provide(lambda: "text", gives=str)
    container.provide(lambda: (), gives=tuple)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        async with fence.user_context("bob-22"):
            for kind in (str, tuple):
                current_scope().check(await current_scope().get(kind))


async def test_an_ended_scope_keeps_nothing_alive() -> None:
    container = Container()
    container.provide(A)
    container.provide(B)
    gc.collect()
    gc.disable()
    try:
        async with Ringfence(services=container).user_context("alice-1"):
            scope = current_scope()
            gone = weakref.ref(await scope.get(B))
            held = scope._extras.held  # type: ignore[union-attr]
            holder = weakref.ref(held)  # type: ignore[arg-type]
            del held
        assert gone() is None
        assert holder() is None
        assert scope.state == "closed"
    finally:
        gc.enable()


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_scope_with_a_callback_lets_go_too(is_first: bool) -> None:
    container = Container()
    container.provide(A)
    gc.collect()
    gc.disable()
    try:
        async with Ringfence(services=container).user_context("alice-1"):
            scope = current_scope()
            if is_first:
                scope.callback(lambda: None)
            gone = weakref.ref(await scope.get(A))
            if not is_first:
                scope.callback(lambda: None)
        assert gone() is None
        assert len(scope.report) == 1
    finally:
        gc.enable()


async def test_what_a_scope_is_told_after_it_had_objects_holds() -> None:
    """A scope without other extras has its holder for them."""
    container = Container()
    container.provide(A)
    with pytest.raises(ValueError, match="body"):
        async with Ringfence(services=container).user_context("alice-1"):
            scope = current_scope()
            await scope.get(A)
            own = scope.own([1])
            async with child_context("tool"):
                assert len(scope.children) == 1
            raise ValueError("body")
    assert not scope.ended_well
    assert own == [1]


async def test_a_scope_is_left_as_ever_with_a_session_of_ones_own() -> None:
    """What was claimed for the scope itself is released, though a container made things too."""
    container = Container()
    container.provide(A)
    session = object()
    fence = Ringfence(services=container)
    for user in ("alice-1", "bob-22"):
        async with user_context(user, db_session=A(), fence=fence) as ctx:
            await current_scope().get(A)
            current_scope().own([ctx, session])


async def test_a_request_that_was_cut_short_is_known_as_such_although_it_had_objects() -> None:
    class Plain:
        pass

    container = Container()
    container.provide(Plain)
    async with Ringfence(services=container).user_context("alice-1"):
        scope = current_scope()
        await scope.get(Plain)
        scope._more().is_cut_short = True  # as shutdown and the middleware do
    assert scope.is_cut_short
    assert not scope.ended_well


async def test_a_child_that_is_still_open_is_closed_by_a_root_that_had_objects() -> None:
    class Plain:
        pass

    container = Container()
    container.provide(Plain)
    opened: list[RequestScope] = []
    ended = anyio.Event()

    async def tool() -> None:
        async with child_context("tool"):
            opened.append(current_scope())
            await ended.wait()

    async with anyio.create_task_group() as tasks:
        async with Ringfence(services=container).user_context("alice-1"):
            await current_scope().get(Plain)
            tasks.start_soon(tool)
            await anyio.wait_all_tasks_blocked()
        assert [scope.state for scope in opened] == ["closed"]
        ended.set()
