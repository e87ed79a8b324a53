"""Shutdown: what is in flight is waited for, then cancelled, its clean-up awaited and reported."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from typing import Any

import anyio
import pytest

from ringfence import (
    DrainReport,
    Identity,
    Ringfence,
    Settings,
    counters,
    current_scope,
    user_context,
)
from ringfence.integrations.logging import ContextFilter
from ringfence.state import open_roots
from ringfence.tasks import Job, is_on_trio

from .integrations.asgi_driver import Answer, call, fenced, ok, respond

HASTY = Settings(drain_timeout=0.1)


class Service:
    """An application whose one route cleans up after itself, and an `Answer` once it ended."""

    def __init__(self, settings: Settings = HASTY) -> None:
        self.fence = Ringfence(settings=settings)
        self.ran: list[str] = []
        self.began = anyio.Event()
        self.answer: Answer | None = None

    async def use(self) -> None:
        """What each request opens."""
        scope = current_scope()
        await scope.enter(self._resource())
        scope.callback(self._awaiting)
        scope.callback(self.ran.append, "callback")

    @asynccontextmanager
    async def _resource(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep(0.01)
            self.ran.append("resource")

    async def _awaiting(self) -> None:
        await anyio.sleep(0.01)
        self.ran.append("awaiting")

    async def serve(self, app: Any, **options: Any) -> Answer:
        """One request, and a shutdown once it is in its handler."""
        middleware = fenced(app, fence=self.fence)

        async def client() -> None:
            self.answer = await call(middleware, user="alice-1", **options)

        async with anyio.create_task_group() as tasks:
            async with self.fence:
                tasks.start_soon(client)
                await self.began.wait()
        assert self.answer is not None
        assert open_roots() == []
        return self.answer


CLEANED_UP = ["callback", "awaiting", "resource"]


async def test_a_request_that_ends_within_the_grace_is_drained() -> None:
    service = Service(Settings(drain_timeout=10))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await service.use()
        service.began.set()
        await anyio.sleep(0.05)
        await respond(send)

    answer = await service.serve(app)
    assert (answer.status, answer.outcome) == (200, "completed")
    assert service.ran == CLEANED_UP
    assert service.fence.drain_report == DrainReport(1, 0, ())


async def test_one_that_does_not_is_cancelled_cleaned_up_and_answered_with_503() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await service.use()
        service.began.set()
        await anyio.sleep_forever()

    answer = await service.serve(app)
    assert answer.error is None
    assert (answer.status, answer.outcome) == (503, "cancelled")
    assert answer.headers["retry-after"].isdigit()
    assert answer.problem["type"] == "urn:ringfence:error:RF103"
    assert service.ran == CLEANED_UP
    assert service.fence.drain_report == DrainReport(0, 1, ())
    assert counters.value("drain.cancelled") == 1


async def test_a_stream_is_cut_and_cleaned_up() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await service.use()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        service.began.set()
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await anyio.sleep(0.01)

    answer = await service.serve(app)
    assert (answer.status, answer.outcome) == (200, "cancelled")
    assert answer.error is not None, "the server must hear that the body is not complete"
    assert service.ran == CLEANED_UP
    assert service.fence.drain_report == DrainReport(0, 1, ())


async def test_a_websocket_is_cut_and_cleaned_up() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await service.use()
        await receive()
        await send({"type": "websocket.accept"})
        service.began.set()
        await receive()

    answer = await service.serve(app, type="websocket", extensions={})
    assert answer.outcome == "cancelled"
    assert service.ran == CLEANED_UP


async def test_one_that_answers_when_it_is_cancelled_is_heard() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        service.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await respond(send, 504)

    answer = await service.serve(app)
    assert (answer.status, answer.outcome) == (504, "cancelled")


async def test_one_that_fails_when_it_is_cancelled_failed() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        service.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("mine")

    answer = await service.serve(app)
    assert isinstance(answer.error, KeyError)
    assert answer.outcome == "error"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_servers_own_cancellation_stays_one(anyio_backend: str) -> None:
    service, tasks = Service(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        service.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            tasks[0].cancel()  # the server's, while ours is on its way
            await asyncio.sleep(0)

    answer = await service.serve(app)
    assert isinstance(answer.error, asyncio.CancelledError)
    assert (answer.messages, answer.outcome) == ([], "cancelled")


async def test_a_root_outside_of_http_is_cancelled_where_its_task_is_known() -> None:
    fence, began, ran = Ringfence(settings=HASTY), anyio.Event(), []

    async def work() -> None:
        async with fence.user_context("alice-1") as ctx:
            ran.append(ctx.request_id)
            current_scope().callback(ran.append, "finaliser")
            began.set()
            await anyio.sleep(0.6)

    async with anyio.create_task_group() as tasks:
        async with fence:
            tasks.start_soon(work)
            await began.wait()
        if is_on_trio():
            assert fence.drain_report == DrainReport(0, 0, (ran[0],))
        else:
            assert fence.drain_report == DrainReport(0, 1, ())
            assert ran[1:] == ["finaliser"]


async def test_the_scopes_of_others_are_left_alone() -> None:
    fence, ended = Ringfence(settings=HASTY), []

    async def work() -> None:
        async with user_context("alice-1"), Ringfence().user_context("bob-22"):
            began.set()
            await anyio.sleep(0.3)
            ended.append(True)

    began = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with fence:
            tasks.start_soon(work)
            await began.wait()
    assert ended == [True]
    assert fence.drain_report == DrainReport(0, 0, ())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_will_not_stop_is_abandoned_once(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    fence, began, release = Ringfence(settings=HASTY), asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        async with fence.user_context("alice-1", request_id="r-stubborn"):
            began.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass

    task = asyncio.create_task(stubborn())
    async with fence:
        await began.wait()
    assert fence.drain_report == DrainReport(0, 0, ("r-stubborn",))
    assert counters.value("drain.abandoned") == 1
    [record] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "r-stubborn" in record.getMessage()
    before = anyio.current_time()
    async with fence:
        pass
    assert fence.drain_report == DrainReport(0, 0, ())
    assert anyio.current_time() - before < 0.09
    release.set()
    await task


async def test_scopes_around_the_fence_are_not_waited_for() -> None:
    fence = Ringfence(settings=Settings(drain_timeout=30))
    with anyio.fail_after(5):
        async with fence.user_context("alice-1"), fence.user_context("bob-22"):
            async with fence:
                pass
    assert fence.drain_report == DrainReport(0, 0, ())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_only_the_task_of_the_block_is_cancelled(anyio_backend: str) -> None:
    """What it shields runs in a task that has inherited its scope."""
    fence, began, ran = Ringfence(settings=HASTY), asyncio.Event(), []

    async def shielded() -> None:
        await asyncio.sleep(0.2)
        ran.append("shielded")

    async def request() -> None:
        async with fence.user_context("alice-1"):
            began.set()
            task = asyncio.create_task(shielded())
            try:
                await asyncio.shield(task)
            finally:
                await task

    task = asyncio.create_task(request())
    async with fence:
        await began.wait()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == ["shielded"]
    assert fence.drain_report == DrainReport(0, 1, ())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_block_behind_a_manager_of_ones_own_is_found_too(anyio_backend: str) -> None:
    fence, began = Ringfence(settings=HASTY), asyncio.Event()

    @asynccontextmanager
    async def signed_in() -> AsyncIterator[None]:
        async with fence.user_context("alice-1"):
            yield

    async def request() -> None:
        async with signed_in():
            began.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(request())
    async with fence:
        await began.wait()
    assert task.cancelled()


async def test_requests_and_detached_work_are_counted_together() -> None:
    service = Service()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        service.fence.detach(anyio.sleep, 0.01)
        service.fence.detach(anyio.sleep_forever)
        service.began.set()
        await anyio.sleep_forever()

    answer = await service.serve(app)
    assert answer.status == 503
    assert service.fence.drain_report == DrainReport(1, 2, ())


async def test_clean_up_that_had_begun_is_waited_for() -> None:
    service = Service(Settings(drain_timeout=0.1, finaliser_timeout=5))

    async def slow() -> None:
        service.began.set()
        await anyio.sleep(0.2)
        service.ran.append("slow")

    async def serve() -> None:
        async with service.fence.user_context("alice-1"):
            current_scope().callback(slow)

    async with service.fence:
        job = Job(serve, "request", Context())
        await service.began.wait()
    assert service.ran == ["slow"]
    await job.done.wait()


# --- who is who -------------------------------------------------------------------------------


async def test_two_roots_with_one_request_id_are_two() -> None:
    """As when one context is entered twice."""
    fence, ran = Ringfence(settings=HASTY), []
    began = [anyio.Event(), anyio.Event()]

    async def work(number: int) -> None:
        async with fence.user_context("alice-1", request_id="r-1"):
            current_scope().callback(ran.append, number)
            began[number].set()
            await anyio.sleep(0.6)

    async with anyio.create_task_group() as tasks:
        async with fence:
            for number in range(2):
                tasks.start_soon(work, number)
                await began[number].wait()
        if is_on_trio():
            assert fence.drain_report == DrainReport(0, 0, ("r-1", "r-1"))
        else:
            assert fence.drain_report == DrainReport(0, 2, ())
            assert sorted(ran) == [0, 1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_request_id_that_was_abandoned_once_may_come_back(anyio_backend: str) -> None:
    fence, release = Ringfence(settings=HASTY), asyncio.Event()

    async def work(is_stubborn: bool, began: asyncio.Event) -> None:
        async with fence.user_context("alice-1", request_id="r-1"):
            began.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    if not is_stubborn:
                        raise

    tasks = []
    for is_stubborn in (True, False):
        began = asyncio.Event()
        async with fence:
            tasks.append(asyncio.create_task(work(is_stubborn, began)))
            await began.wait()
    assert fence.drain_report == DrainReport(0, 1, ())
    release.set()
    await tasks[0]


@pytest.mark.parametrize("within", ["its own", "another", "nobody's"])
async def test_a_request_that_is_within_another_block_is_found(within: str) -> None:
    service = Service()
    other = {"its own": service.fence, "another": Ringfence(), "nobody's": None}[within]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await service.use()
        async with user_context("service-1", fence=other):
            service.began.set()
            await anyio.sleep_forever()

    answer = await service.serve(app)
    assert (answer.status, answer.outcome) == (503, "cancelled")
    assert service.ran == CLEANED_UP


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_a_handler_took_back_does_not_excuse_the_servers(
    anyio_backend: str,
) -> None:
    service, tasks = Service(Settings(drain_timeout=0.2)), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        service.began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            task.uncancel()
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(30)

    answer = await service.serve(app)
    assert isinstance(answer.error, asyncio.CancelledError)
    assert answer.messages == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["stack", "awaitable"])
async def test_a_bystander_is_left_alone(anyio_backend: str, how: str) -> None:
    fence, began, ran = Ringfence(settings=HASTY), asyncio.Event(), []

    class Wrapped:
        def __init__(self, coroutine: Any) -> None:
            self.coroutine = coroutine

        def __await__(self) -> Any:
            return self.coroutine.__await__()

    async def bystander() -> None:
        await asyncio.sleep(0.4)
        ran.append("bystander")

    async def body() -> None:
        ran.append(asyncio.create_task(bystander()))
        current_scope().callback(ran.append, "finaliser")
        began.set()
        await asyncio.sleep(30)

    async def request() -> None:
        if how == "stack":
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(fence.user_context("alice-1"))
                await body()
        async with fence.user_context("alice-1"):
            await body()

    async def outer() -> None:
        await Wrapped(request())

    task = asyncio.create_task(outer())
    async with fence:
        await began.wait()
    assert fence.drain_report == DrainReport(0, 1, ())
    assert task.cancelled()
    await ran[0]
    assert ran[1:] == ["finaliser", "bystander"]


async def test_many_requests_are_found_in_one_look() -> None:
    fence, began = Ringfence(settings=HASTY), anyio.Event()
    count = 400

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            began.set()
        await anyio.sleep_forever()

    async def client() -> None:
        statuses.append((await call(middleware, user="alice-1")).status)

    left, statuses = count, list[int]()
    middleware = fenced(app, fence=fence)
    async with anyio.create_task_group() as tasks:
        async with fence:
            for _ in range(count):
                tasks.start_soon(client)
            await began.wait()
            before = time.thread_time()
    assert time.thread_time() - before < 2
    assert statuses == [503] * count
    assert fence.drain_report == DrainReport(0, count, ())


async def test_who_is_being_identified_when_the_fence_is_left_is_refused() -> None:
    fence, asked, go = Ringfence(), anyio.Event(), anyio.Event()

    async def slowly(connection: Any) -> Identity:
        asked.set()
        await go.wait()
        return Identity("alice-1")

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("served by an application that has stopped")

    async def client() -> None:
        answers.append(await ok(fenced(never, fence=fence, identify=slowly)))

    answers: list[Answer] = []
    async with anyio.create_task_group() as tasks:
        async with fence:
            tasks.start_soon(client)
            await asked.wait()
        go.set()
    assert [answer.status for answer in answers] == [503]


async def test_a_refusal_is_nobodys_in_the_log_while_draining_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fence = Ringfence()
    caplog.handler.addFilter(ContextFilter())
    fence.is_draining = True
    async with user_context("alice-1"):
        with caplog.at_level(logging.INFO, "ringfence.asgi"):
            answer = await call(
                fenced(respond, fence=fence), user="alice-1", context=copy_context()
            )
    assert answer.status == 503
    [record] = [r for r in caplog.records if "refused" in r.getMessage()]
    assert vars(record)["user_id"] == "-"
