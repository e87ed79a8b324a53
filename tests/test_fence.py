"""Ringfence: opening and closing, scopes of one application, and work that outlives its request."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import inspect
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    Detached,
    DrainingError,
    DrainReport,
    Identity,
    NoContextError,
    RequestScope,
    Ringfence,
    Settings,
    UserExecutionContext,
    child_context,
    counters,
    current_context,
    current_context_or_none,
    current_scope,
    nobody,
    user_context,
)
from ringfence import fence as module
from ringfence.current import NobodyOptions, RootOptions, UserContextOptions
from ringfence.state import open_roots

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
HASTY = Settings(drain_timeout=0.05)


# --- its life ---------------------------------------------------------------------------------


async def test_it_is_open_inside_its_block() -> None:
    fence = Ringfence()
    assert (fence.is_open, fence.is_draining, fence.drain_report) == (False, False, None)
    async with fence as opened:
        assert opened is fence
        assert (fence.is_open, fence.is_draining) == (True, False)
    assert (fence.is_open, fence.is_draining) == (False, False)
    assert fence.drain_report == DrainReport(0, 0, ())


async def test_it_is_opened_once() -> None:
    fence = Ringfence()
    async with fence:
        with pytest.raises(ConfigurationError, match="This fence is open already"):
            async with fence:
                pass
        assert fence.is_open
    assert not fence.is_open


async def test_lifespan_nests_in_ones_own_and_yields_nothing() -> None:
    fence, order = Ringfence(), []
    app = object()

    @contextlib.asynccontextmanager
    async def lifespan(given: object) -> AsyncIterator[None]:
        order.append("start")
        async with fence.lifespan(given) as state:
            assert state is None
            assert fence.is_open
            yield
        order.append("end")

    async with lifespan(app):
        assert order == ["start"]
    assert order == ["start", "end"]
    assert not fence.is_open
    async with fence.lifespan():
        assert fence.is_open


async def test_an_error_of_the_application_passes() -> None:
    fence = Ringfence()
    with pytest.raises(KeyError, match="mine"):
        async with fence.lifespan():
            raise KeyError("mine")
    assert not fence.is_open


def test_it_is_bound_to_no_event_loop_and_opens_again_in_another() -> None:
    fence, ran = Ringfence(), []

    async def work() -> None:
        await anyio.sleep(0)
        ran.append(current_context().user_id)

    async def serve(user: str) -> None:
        async with fence:
            async with fence.user_context(user):
                fence.detach(work)

    anyio.run(serve, "alice-1")
    asyncio.run(serve("bob-22"))
    anyio.run(serve, "carol-3", backend="trio")
    assert ran == ["alice-1", "bob-22", "carol-3"]
    assert fence.drain_report == DrainReport(1, 0, ())


def test_its_recipes_are_what_was_given() -> None:
    parts: dict[str, Any] = {name: object() for name in "database services events audit".split()}
    fence = Ringfence(settings=HASTY, **parts)
    assert fence.settings is HASTY
    for name, part in parts.items():
        assert getattr(fence, name) is part
    with pytest.raises(TypeError):
        Ringfence(HASTY)  # type: ignore[misc]


# --- its scopes -------------------------------------------------------------------------------


async def test_unopened_it_serves_requests() -> None:
    fence = Ringfence()
    async with fence.user_context("alice-1", thread_id="t-1", agent_context={"a": 1}) as ctx:
        assert (ctx.thread_id, ctx.agent_context) == ("t-1", {"a": 1})
        assert current_scope()._recipes is fence
        async with child_context("tool"):
            assert current_scope()._recipes is fence
    async with fence.nobody(request_id="q-1") as scope:
        assert scope.request_id == "q-1"
        assert scope._recipes is fence


# --- detach -----------------------------------------------------------------------------------


async def test_unopened_it_detaches_nothing_and_names_its_lifespan() -> None:
    async def work() -> None: ...

    fence = Ringfence()
    async with fence.user_context("alice-1"):
        with pytest.raises(ConfigurationError, match=r"not open.*`lifespan=fence\.lifespan`"):
            fence.detach(work)
    async with fence:
        pass
    async with fence.user_context("alice-1"):
        with pytest.raises(ConfigurationError):
            fence.detach(work)


async def test_detached_work_is_a_new_root_with_the_same_identity_and_nothing_else() -> None:
    seen: list[tuple[UserExecutionContext, RequestScope]] = []
    fence = Ringfence()

    async def work() -> None:
        seen.append((current_context(), current_scope()))

    async with fence:
        async with fence.user_context(
            Identity("alice-1", "acme", expires_at=NOON, claims={"roles": ["admin"]}),
            thread_id="t-1", run_id="r-1", websocket_client_id="ws-1", client_request_id="c-1",
            agent_context={"a": [1]}, audit_metadata={"b": [2]}, db_session=object.__new__(Work),
        ) as ctx:  # fmt: skip
            origin = current_scope()
            detached = fence.detach(work)
            await detached.wait()
            assert current_context() is ctx
    ((facts, scope),) = seen
    for name in (
        "user_id thread_id run_id tenant_id expires_at websocket_client_id client_request_id"
    ).split():
        assert getattr(facts, name) == getattr(ctx, name)
    assert facts.request_id == detached.request_id != ctx.request_id
    assert (facts.operation_depth, facts.parent_request_id) == (0, None)
    assert facts.agent_context == {}
    assert facts.audit_metadata == {"detached_from": ctx.request_id}
    assert not facts.has_db_session
    assert scope.root is scope is not origin
    assert scope.claims == {"roles": ("admin",)}


class Work:
    """Stands for a session."""


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


async def test_no_context_variable_of_the_request_reaches_it() -> None:
    seen: list[str] = []
    fence = Ringfence()

    async def work() -> None:
        seen.append(VARIABLE.get())

    async with fence:
        async with fence.user_context("alice-1"):
            token = VARIABLE.set("the request's")
            await fence.detach(work).wait()
            VARIABLE.reset(token)
    assert seen == ["outside"]


async def test_it_goes_on_after_its_request_has_ended() -> None:
    go, seen = anyio.Event(), []
    fence = Ringfence()

    async def work(word: str, *, more: str) -> None:
        await go.wait()
        seen.append((current_context().user_id, word, more))

    async with fence:
        async with fence.user_context("alice-1"):
            async with child_context("tool"):
                detached = fence.detach(work, "word", more="more")
                assert isinstance(detached, Detached)
                await anyio.wait_all_tasks_blocked()
        assert current_context_or_none() is None
        assert (detached.is_done, detached.error) == (False, None)
        go.set()
        await detached.wait()
        assert (detached.is_done, detached.error) == (True, None)
    assert seen == [("alice-1", "word", "more")]


async def test_its_finalisers_run_in_it() -> None:
    fence, ran = Ringfence(), []

    async def work() -> None:
        current_scope().callback(lambda: ran.append(current_context().user_id))

    async with fence:
        async with fence.user_context("alice-1"):
            fence.detach(work)
    assert ran == ["alice-1"]


async def test_nobodys_work_is_nobodys() -> None:
    fence, seen = Ringfence(), []

    async def work() -> None:
        seen.append((current_scope().request_id, current_context_or_none()))

    async with fence:
        async with fence.nobody():
            detached = fence.detach(work)
    assert seen == [(detached.request_id, None)]


async def test_it_needs_somebody_to_be_detached_from() -> None:
    async def work() -> None: ...

    fence = Ringfence()
    async with fence:
        with pytest.raises(NoContextError):
            fence.detach(work)
        late: list[str] = []

        def finaliser() -> None:
            fence.detach(work)
            late.append("a closing scope may still detach")

        async with fence.user_context("alice-1"):
            current_scope().callback(finaliser)
        assert late != []
        block: Any = fence.user_context("alice-1")
        await block.__aenter__()
        held = contextvars.copy_context()
        await block.__aexit__(None, None, None)
        with pytest.raises(ContextClosedError):
            held.run(fence.detach, work)


async def test_what_it_raises_is_logged_counted_and_raised_by_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise KeyError("mine")

    fence = Ringfence()
    async with fence:
        async with fence.user_context("alice-1"):
            detached = fence.detach(work)
        with pytest.raises(KeyError, match="mine"):
            await detached.wait()
    assert isinstance(detached.error, KeyError)
    assert counters.value("detach.error") == 1
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ringfence.fence", logging.ERROR)
    assert detached.request_id in record.getMessage()
    assert "alice-1" not in record.getMessage()
    assert fence.drain_report == DrainReport(0, 0, ())


async def test_it_can_be_cancelled_and_its_finalisers_run() -> None:
    began, ran = anyio.Event(), []
    fence = Ringfence()

    async def work() -> None:
        current_scope().callback(ran.append, "finaliser")
        began.set()
        await anyio.sleep(60)

    async with fence:
        async with fence.user_context("alice-1"):
            detached = fence.detach(work)
        await began.wait()
        detached.cancel()
        with contextlib.suppress(BaseException):
            await detached.wait()
        assert detached.is_done
    assert ran == ["finaliser"]
    assert counters.value("detach.error") == 0


async def test_a_cancelled_request_does_not_cancel_it() -> None:
    go, ran = anyio.Event(), []
    fence = Ringfence()

    async def work() -> None:
        await go.wait()
        ran.append(current_context().user_id)

    async with fence:
        with anyio.CancelScope() as cancel:
            async with fence.user_context("alice-1"):
                fence.detach(work)
                cancel.cancel()
                await anyio.sleep(60)
        go.set()
    assert ran == ["alice-1"]


# --- draining ---------------------------------------------------------------------------------


async def test_it_is_drained_at_the_exit() -> None:
    fence, ran = Ringfence(), []

    async def work(number: int) -> None:
        await anyio.sleep(0.001 * number)
        ran.append(number)

    async with fence:
        async with fence.user_context("alice-1"):
            for number in range(3):
                fence.detach(work, number)
    assert sorted(ran) == [0, 1, 2]
    assert fence.drain_report == DrainReport(3, 0, ())


async def test_what_had_not_begun_when_draining_did_runs_all_the_same() -> None:
    fence, ran = Ringfence(), []

    async def work() -> None:
        ran.append((current_context().user_id, fence.is_draining))

    async with fence:
        async with fence.user_context("alice-1"):
            detached = fence.detach(work)
    assert ran in ([("alice-1", True)], [("alice-1", False)])  # the latter on an eager loop
    assert detached.error is None


async def test_what_takes_too_long_is_cancelled_and_its_finalisers_run() -> None:
    fence, ran = Ringfence(settings=HASTY), []

    async def work() -> None:
        current_scope().callback(ran.append, "finaliser")
        await anyio.sleep(60)

    async def quick() -> None: ...

    async with fence:
        async with fence.user_context("alice-1"):
            fence.detach(work)
            fence.detach(quick)
            fence.detach(work)
    assert ran == ["finaliser"] * 2
    assert fence.drain_report == DrainReport(drained=1, cancelled=2, abandoned=())
    assert (counters.value("drain.cancelled"), counters.value("drain.abandoned")) == (2, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_will_not_stop_is_abandoned_and_reported(anyio_backend: str) -> None:
    fence, release = Ringfence(settings=HASTY), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with fence:
        async with fence.user_context("alice-1"):
            detached = fence.detach(stubborn)
    assert fence.drain_report == DrainReport(0, 0, (detached.request_id,))
    assert counters.value("drain.abandoned") == 1
    assert not fence.is_open
    async with fence:  # opens again, and does not wait for it again
        pass
    assert fence.drain_report == DrainReport(0, 0, ())
    release.set()
    await detached._job.done.wait()


async def test_the_time_is_for_all_of_it_together() -> None:
    fence = Ringfence(settings=Settings(drain_timeout=0.2))

    async def work() -> None:
        await anyio.sleep(60)

    began = anyio.current_time()
    async with fence:
        async with fence.user_context("alice-1"):
            for _ in range(20):
                fence.detach(work)
    assert anyio.current_time() - began < 2
    assert fence.drain_report == DrainReport(0, 20, ())


async def test_draining_refuses_new_roots_and_new_detached_work() -> None:
    fence, refused, began = Ringfence(), [], anyio.Event()
    go = anyio.Event()

    async def idle() -> None: ...

    async def work() -> None:
        began.set()
        await go.wait()
        try:
            fence.detach(idle)
        except DrainingError as error:
            refused.append(error.code)
        for block in (fence.user_context("bob-22"), user_context("carol-3"), nobody()):
            try:
                await block.__aenter__()
            except DrainingError as error:
                refused.append(error.code)
        async with child_context("tool"):  # what is open goes on
            refused.append("child")

    async def stop() -> None:
        await began.wait()
        await anyio.wait_all_tasks_blocked()
        assert fence.is_draining
        go.set()

    async with anyio.create_task_group() as tasks:
        async with fence:
            async with fence.user_context("alice-1"):
                fence.detach(work)
            tasks.start_soon(stop)
    assert refused == ["RF103"] * 4 + ["child"]
    async with fence.user_context("dave-4"):  # drained, it serves again
        pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancellations_do_not_cut_draining_short(anyio_backend: str) -> None:
    fence, began, go, ran = Ringfence(), asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        began.set()
        await go.wait()
        ran.append(1)

    async def serve() -> None:
        async with fence:
            async with fence.user_context("alice-1"):
                fence.detach(work)

    server = asyncio.create_task(serve())
    await began.wait()
    for _ in range(3):
        server.cancel()
        await anyio.wait_all_tasks_blocked()
    assert not server.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await server
    assert ran == [1]
    assert not fence.is_open


def test_the_end_of_the_event_loop_cancels_work_of_a_fence_that_nobody_closed() -> None:
    """Otherwise `asyncio.run` would wait for it."""
    fence, ran = Ringfence(), []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ran.append("cancelled")

    async def main() -> None:
        await fence.__aenter__()
        async with fence.user_context("alice-1"):
            fence.detach(work)
        await anyio.wait_all_tasks_blocked()

    asyncio.run(main())
    assert ran == ["cancelled"]


async def test_what_is_done_is_forgotten() -> None:
    async def work() -> None: ...

    fence = Ringfence()
    async with fence:
        async with fence.user_context("alice-1"):
            for _ in range(10):
                await fence.detach(work).wait()
        assert fence._detached == set()
    assert open_roots() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_work_that_ends_before_its_handle_is_made_is_forgotten_too(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with eager tasks, which Python 3.12 has."""

    class Eager:
        def __init__(self, work: Any, name: str, context: Any, at_end: Any, *rest: Any) -> None:
            self.done = anyio.Event()
            self.error = None
            with contextlib.suppress(StopIteration):
                context.run(work().send, None)
            at_end()
            self.done.set()

    async def work() -> None:
        ran.append(current_context().user_id)

    ran: list[str] = []
    fence = Ringfence()
    monkeypatch.setattr(module, "Job", Eager)
    async with fence:
        async with fence.user_context("alice-1"):
            detached = fence.detach(work)
        assert detached.is_done
        assert fence._detached == set()
    assert ran == ["alice-1"]


async def test_detached_work_that_was_cancelled_says_so() -> None:
    fence = Ringfence()
    async with fence:
        async with fence.user_context("alice-1"):
            early = fence.detach(anyio.sleep_forever)
            early.cancel()
            late = fence.detach(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            late.cancel()
        for detached in (early, late):
            with pytest.raises(ContextClosedError, match="was cancelled"):
                await detached.wait()


def test_a_database_that_is_not_wrapped_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Wrap it"):
        Ringfence(database=async_sessionmaker())  # type: ignore[arg-type]


def test_its_options_are_those_of_the_functions() -> None:
    for function, options, more in (
        (user_context, UserContextOptions, RootOptions),
        (nobody, NobodyOptions, None),
    ):
        names = set(inspect.signature(function).parameters) - {"user_id", "fence", "options"}
        names |= set(more.__annotations__) if more else set()
        assert names == set(options.__annotations__)


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="'tenant'"):
        user_context("alice-1", tenant="acme")  # type: ignore[call-arg]
