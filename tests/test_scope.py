"""RequestScope: what it is in each state, its resources, deadlines and children."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    DrainingError,
    NoContextError,
    OwnershipError,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    SessionIsolationError,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    counters,
    current_scope,
    nobody,
    user_context,
)
from ringfence.isolation import registry
from ringfence.state import open_roots


class Session:
    """Stands for an `AsyncSession`."""


class Database:
    """The least a session source can be."""

    def __init__(self) -> None:
        self.opened: list[RequestScope] = []
        self.adopted: list[tuple[RequestScope, object]] = []

    def open_session(self, scope: RequestScope) -> object:
        self.opened.append(scope)
        return Session()

    def adopt_session(self, scope: RequestScope, session: object) -> None:
        self.adopted.append((scope, session))

    def serve(self, root: RequestScope) -> None: ...

    async def before_response(self, root: RequestScope, status: int) -> None: ...

    async def start(self) -> None: ...


# --- states -----------------------------------------------------------------------------------


async def test_its_states() -> None:
    seen: list[str] = []
    block: Any = user_context("alice-1")
    assert (block.state, block.ended_well) == ("new", False)
    async with block:
        scope = current_scope()
        assert scope is block
        assert (scope.state, scope.ended_well) == ("open", False)
        scope.callback(lambda: seen.append(scope.state))
    assert seen == ["closing"]
    assert (scope.state, scope.ended_well) == ("closed", True)


async def test_how_it_ended() -> None:
    seen: list[bool] = []
    for with_finaliser in (False, True):
        with pytest.raises(KeyError):
            async with user_context("alice-1"):
                scope = current_scope()
                if with_finaliser:
                    scope.callback(lambda scope=scope: seen.append(scope.ended_well))
                raise KeyError
        assert not scope.ended_well
    assert seen == [False]


async def test_a_finaliser_knows_how_the_body_ended() -> None:
    seen: list[bool] = []
    async with user_context("alice-1"):
        scope = current_scope()
        scope.callback(lambda: seen.append(scope.ended_well))
    assert seen == [True]


async def test_it_says_where_it_was_opened_and_closed() -> None:
    block: Any = user_context("alice-1")
    assert (block.opened_at, block.closed_at) == ("nowhere yet", None)
    async with block:
        scope = current_scope()
        assert scope.closed_at is None
    form = r"test_scope\.py:\d+ in test_it_says_where_it_was_opened_and_closed"
    with pytest.raises(
        ContextClosedError, match=f"opened at .*{form}, ended at .*{form}"
    ) as caught:
        scope.callback(print)
    assert (caught.value.opened_at, caught.value.closed_at) == (scope.opened_at, scope.closed_at)
    assert caught.value.request_id == scope.request_id


async def test_a_scope_that_was_never_entered_is_refused() -> None:
    block: Any = user_context("alice-1")
    for use in (lambda: block.callback(print), lambda: block.own([]), lambda: block.db_session):
        with pytest.raises(ContextClosedError, match=r"was never entered.*async with"):
            use()
    assert block.context.user_id == "alice-1"


async def test_its_repr_names_the_request_and_no_user() -> None:
    async with user_context("alice-1") as ctx:
        scope = current_scope()
        assert repr(scope) == f"<RequestScope {ctx.request_id} open>"
    assert repr(scope) == f"<RequestScope {ctx.request_id} closed>"


async def test_what_is_open_is_listed() -> None:
    before = open_roots()
    async with user_context("alice-1"), child_context("tool"):
        async with nobody() as scope:
            ours = [root for root in open_roots() if root not in before]
            assert ours == [open_roots()[-2], scope]
            assert ours[0].context.user_id == "alice-1"
    assert open_roots() == before


async def test_the_tree() -> None:
    async with user_context("alice-1"):
        root = current_scope()
        assert (root.root, root.parent, root.children) == (root, None, ())
        async with child_context("one"):
            one = current_scope()
            async with child_context("two"):
                two = current_scope()
                assert (two.root, two.parent) == (root, one)
                assert (root.children, one.children, two.children) == ((one,), (two,), ())
        assert root.children == ()


async def test_nobody_has_a_request_id_and_keeps_it() -> None:
    async with nobody() as scope:
        given = scope.request_id
        assert scope.request_id == given
        assert not scope.has_user
    assert scope.request_id == given
    async with nobody(request_id="q-1") as scope:
        assert scope.request_id == "q-1"


class Data:
    """Something to be freed."""


async def _plainly(block: Any) -> None:
    await block.__aexit__(None, None, None)


async def _with_an_error(block: Any) -> None:
    error = KeyError()
    await block.__aexit__(type(error), error, None)


async def _with_a_finaliser(block: Any) -> None:
    current_scope().callback(print, end="")
    await block.__aexit__(None, None, None)


async def _out_of_order(block: Any) -> None:
    async with user_context("bob-22"):
        await block.__aexit__(None, None, None)


@pytest.mark.parametrize("leave", [_plainly, _with_an_error, _with_a_finaliser, _out_of_order])
async def test_an_ended_scope_holds_neither_context_nor_data(leave: Any) -> None:
    block: Any = user_context("alice-1", agent_context={"data": Data()})
    ctx = await block.__aenter__()
    gone, request_id = weakref.ref(ctx.agent_context["data"]), ctx.request_id
    await leave(block)
    del ctx
    assert gone() is None  # at once: there is no cycle for the collector
    assert block.request_id == request_id
    assert not block.has_user


# --- resources --------------------------------------------------------------------------------


async def test_sync_managers_are_entered_and_left_too() -> None:
    ran: list[str] = []

    @contextlib.contextmanager
    def plain() -> Iterator[int]:
        ran.append("open")
        try:
            yield 1
        finally:
            ran.append("close")

    async with user_context("alice-1"):
        assert await current_scope().enter(plain()) == 1
        assert ran == ["open"]
    assert ran == ["open", "close"]


async def test_an_async_half_is_preferred_where_there_are_both() -> None:
    ran: list[str] = []

    class Both:
        def __enter__(self) -> None:
            ran.append("sync")

        def __exit__(self, *details: object) -> None:
            ran.append("sync")

        async def __aenter__(self) -> None:
            ran.append("async")

        async def __aexit__(self, *details: object) -> None:
            ran.append("async")

    async with user_context("alice-1"):
        await current_scope().enter(Both())
    assert ran == ["async", "async"]


async def test_the_report_names_what_ran_in_order_with_its_error() -> None:
    async def fails() -> None:
        raise OSError("no")

    with pytest.raises(ScopeCloseError):
        async with user_context("alice-1"):
            scope = current_scope()
            scope.callback(print, end="")
            await scope.enter(contextlib.nullcontext())
            scope.callback(fails)
    assert [(entry.kind, type(entry.error)) for entry in scope.report] == [
        ("callback", OSError),
        ("manager", type(None)),
        ("callback", type(None)),
    ]
    assert [entry.name.rpartition(".")[2] for entry in scope.report] == [
        "fails", "nullcontext", "print",
    ]  # fmt: skip
    assert all(0 <= entry.duration < 5 for entry in scope.report)


async def test_a_scope_without_finalisers_has_an_empty_report() -> None:
    async with user_context("alice-1"):
        scope = current_scope()
    assert scope.report == ()


async def test_a_callback_can_be_forgotten() -> None:
    ran: list[int] = []
    async with user_context("alice-1"):
        current_scope().callback(ran.append, 1)
        forget = current_scope().callback(ran.append, 2)
        forget()
        forget()
    forget()
    assert ran == [1]


async def test_a_callback_gets_its_arguments() -> None:
    seen: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    async with user_context("alice-1"):
        current_scope().callback(record, 1, 2, key=3)
    assert seen == [((1, 2), {"key": 3})]


async def test_the_same_function_twice_runs_twice() -> None:
    ran: list[int] = []
    async with user_context("alice-1"):
        current_scope().callback(ran.append, 1)
        current_scope().callback(ran.append, 1)
    assert ran == [1, 1]


async def test_a_child_ends_before_its_parent_and_gives_back_what_it_took() -> None:
    ran: list[str] = []
    async with user_context("alice-1"):
        current_scope().callback(ran.append, "parent")
        async with child_context("tool"):
            current_scope().callback(ran.append, "child")
        assert ran == ["child"]
    assert ran == ["child", "parent"]


async def test_what_a_child_owns_is_its_roots() -> None:
    thing = [1]
    async with user_context("alice-1"):
        async with child_context("tool"):
            current_scope().own(thing)
        assert current_scope().check(thing) is thing
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().check(thing)
    assert len(registry) == 0


async def test_check_and_own_return_what_they_got() -> None:
    thing = {"x": 1}
    async with user_context("alice-1"):
        assert current_scope().check(thing) is thing
        assert current_scope().own(thing) is thing
        assert current_scope().check(5) == 5


async def test_a_use_of_a_scope_where_none_is_open_is_refused() -> None:
    block: Any = user_context("alice-1")
    await block.__aenter__()
    refused: list[str] = []

    def work() -> None:
        try:
            block.callback(print)
        except NoContextError as error:
            refused.append(error.code)

    await anyio.to_thread.run_sync(lambda: contextvars.Context().run(work))
    await block.__aexit__(None, None, None)
    assert refused == ["RF101"]


async def test_a_use_from_where_a_child_has_ended_is_refused() -> None:
    async with user_context("alice-1"):
        root = current_scope()
        async with child_context("tool"):
            held = contextvars.copy_context()
            held.run(root.check, 5)
        with pytest.raises(ContextClosedError):
            held.run(root.check, 5)


# --- entering that fails ----------------------------------------------------------------------


async def test_a_session_in_use_leaves_the_other_scope_as_it_was() -> None:
    session = Session()
    async with user_context("alice-1", db_session=session) as alice:
        block: Any = user_context("bob-22", db_session=session)
        with pytest.raises(SessionIsolationError):
            await block.__aenter__()
        assert block.state == "closed"
        assert current_scope().context is alice
        assert alice.db_session is session


async def test_asking_a_captured_context_for_its_session_is_told_what_to_do() -> None:
    async with user_context("alice-1", db_session=Session()) as alice:
        async with child_context("tool") as child:
            async with user_context("bob-22") as bob:
                with pytest.raises(SessionIsolationError) as caught:
                    child.db_session  # noqa: B018
    assert "This session belongs to" in caught.value.fact
    assert "opened at" in caught.value.fact
    assert "`current_context().db_session`" in caught.value.remedy
    assert caught.value.owner_request_id == alice.request_id
    assert caught.value.request_id == bob.request_id


@pytest.mark.parametrize("session", ["text", 5, True, print])
async def test_a_session_that_is_a_value_cannot_be_owned(session: object) -> None:
    with pytest.raises(WrongTypeError, match="cannot be owned"):
        async with user_context("alice-1", db_session=session):
            pass


async def test_a_database_that_refuses_a_session_leaves_nothing_open() -> None:
    class Refusing(Database):
        def adopt_session(self, scope: RequestScope, session: object) -> None:
            raise ConfigurationError("It is none of ours.", "Pass another.")

    before = open_roots()
    fence = Ringfence(database=Refusing())
    with pytest.raises(ConfigurationError):
        async with fence.user_context("alice-1", db_session=Session()):
            pass
    assert open_roots() == before
    assert len(registry) == 0


async def test_a_child_cannot_be_entered_once_its_parent_has_ended() -> None:
    async with user_context("alice-1"):
        block = child_context("late")
    with pytest.raises(ContextClosedError):
        await block.__aenter__()


# --- sessions ---------------------------------------------------------------------------------


async def test_without_a_database_there_is_no_session() -> None:
    async with user_context("alice-1") as ctx:
        assert ctx.db_session is None
        assert current_scope().db_session is None
        assert not ctx.has_db_session
        assert not current_scope().has_db_session
        with pytest.raises(ConfigurationError, match="no database to open a session of its own"):
            child_context("tool", session="own")


async def test_each_scope_opens_its_own_session_on_first_use() -> None:
    database = Database()
    fence = Ringfence(database=database)
    async with fence.user_context("alice-1") as ctx:
        root = current_scope()
        assert ctx.has_db_session
        assert database.opened == []
        first = ctx.db_session
        assert ctx.db_session is root.db_session is first
        async with child_context("tool") as child:
            own = current_scope()
            assert child.db_session is not first
            assert child.db_session is own.db_session
        async with child_context("tool", session="own") as child:
            assert child.db_session is not first
        async with child_context("tool", session="share") as child:
            assert child.has_db_session
            assert child.db_session is current_scope().db_session is first
            async with child_context("deeper", session="share") as deeper:
                assert deeper.db_session is first
    assert database.opened[:2] == [root, own]
    assert len(database.opened) == 3


async def test_a_scope_with_an_explicit_session_has_one() -> None:
    async with user_context("alice-1", db_session=Session()) as ctx:
        assert current_scope().has_db_session
        async with child_context("tool") as child:
            assert current_scope().has_db_session
            assert current_scope().db_session is child.db_session is ctx.db_session


async def test_an_explicit_session_is_adopted_and_wins() -> None:
    database, session = Database(), Session()
    fence = Ringfence(database=database)
    async with fence.user_context("alice-1", db_session=session) as ctx:
        assert ctx.db_session is session
        assert database.adopted == [(current_scope(), session)]
        async with child_context("tool") as child:
            assert child.db_session is not session
        async with child_context("tool", session="share") as child:
            assert child.db_session is session
        other = Session()
        async with child_context("tool", session=other) as child:
            assert child.db_session is other
    assert len(database.opened) == 1


async def test_a_session_cannot_be_opened_in_a_closing_scope() -> None:
    database, refused = Database(), []
    fence = Ringfence(database=database)

    def late() -> None:
        try:
            _ = current_scope().db_session
        except ContextClosedError as error:
            refused.append(str(error))

    async with fence.user_context("alice-1"):
        current_scope().callback(late)
    assert database.opened == []
    assert "is closing" in refused[0]


async def test_nobody_has_a_session_too() -> None:
    database = Database()
    async with Ringfence(database=database).nobody() as scope:
        assert scope.has_db_session
        assert isinstance(scope.db_session, Session)
    assert database.opened == [scope]


# --- deadlines --------------------------------------------------------------------------------


async def test_the_deadline_is_a_fact_and_the_smaller_of_two() -> None:
    async with user_context("alice-1"):
        assert current_scope().deadline is None
        async with child_context("tool", timeout=50):
            assert current_scope().deadline == pytest.approx(anyio.current_time() + 50, abs=5)
    async with user_context("alice-1", timeout=100):
        outer = current_scope().deadline
        assert outer is not None
        assert outer == pytest.approx(anyio.current_time() + 100, abs=5)
        async with child_context("tool"):
            assert current_scope().deadline == outer
            async with child_context("longer", timeout=1000):
                assert current_scope().deadline == outer
            async with child_context("shorter", timeout=10):
                inner = current_scope().deadline
                assert inner is not None
                assert inner < outer - 50
        async with user_context("bob-22"):
            assert current_scope().deadline is None


async def test_a_childs_timeout_is_the_childs() -> None:
    async with user_context("alice-1"):
        with pytest.raises(TimeoutError):
            async with child_context("slow", timeout=0.01):
                await anyio.sleep(60)
        assert current_scope().state == "open"


async def test_a_longer_timeout_does_not_outlive_the_parents() -> None:
    with pytest.raises(TimeoutError):
        async with user_context("alice-1", timeout=0.02):
            async with child_context("slow", timeout=60):
                await anyio.sleep(60)


async def test_a_timeout_that_did_not_run_out_changes_nothing() -> None:
    with pytest.raises(KeyError):
        async with user_context("alice-1", timeout=60):
            raise KeyError
    async with user_context("alice-1", timeout=60):
        pass


async def test_finalisers_run_after_a_timeout_and_their_errors_are_attached() -> None:
    async def fails() -> None:
        await anyio.sleep(0)
        raise OSError("clean-up")

    with pytest.raises(TimeoutError) as caught:
        async with user_context("alice-1", timeout=0.01):
            current_scope().callback(fails)
            await anyio.sleep(60)
    assert any("clean-up" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("timeout", [0, -1, True, "1", float("nan")])
async def test_a_timeout_is_seconds_above_zero(timeout: Any) -> None:
    for make in (user_context, nobody):
        with pytest.raises(ValueError, match="`timeout` must be seconds above 0"):
            make("alice-1", timeout=timeout) if make is user_context else make(timeout=timeout)
    async with user_context("alice-1"):
        with pytest.raises(ValueError, match="`timeout` must be seconds above 0"):
            child_context("tool", timeout=timeout)


# --- claims and transactions ------------------------------------------------------------------


async def test_claims_hold_in_the_whole_tree_and_beyond_it_not() -> None:
    async with user_context("alice-1", claims={"roles": ["admin"]}) as ctx:
        async with child_context("tool"):
            assert current_scope().claims == {"roles": ("admin",)}
        async with user_context(ctx):
            assert current_scope().claims == {}
        with pytest.raises(TypeError):
            current_scope().claims["roles"] = ()  # type: ignore[index]


async def test_the_transaction_policy_is_each_scopes_own() -> None:
    async with user_context("alice-1", transaction="manual"):
        assert current_scope().transaction == "manual"
        async with child_context("tool"):
            assert current_scope().transaction is None
        async with child_context("tool", transaction="read_only"):
            assert current_scope().transaction == "read_only"
    async with nobody(transaction="commit_on_exit") as scope:
        assert scope.transaction == "commit_on_exit"
    for make in (
        lambda: user_context("alice-1", transaction="never"),
        lambda: nobody(transaction="x"),
    ):
        with pytest.raises(ConfigurationError, match="It is one of `commit_before_response`, `com"):
            make()


# --- leaving ----------------------------------------------------------------------------------


async def test_leaving_twice_from_two_tasks_waits_for_the_first() -> None:
    began, go, ran = anyio.Event(), anyio.Event(), []

    async def slow() -> None:
        began.set()
        await go.wait()
        ran.append("slow")

    block: Any = user_context("alice-1")
    await block.__aenter__()
    current_scope().callback(slow)

    async def leave(name: str) -> None:
        await block.__aexit__(None, None, None)
        ran.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave, "first")
        await began.wait()
        tasks.start_soon(leave, "second")
        await anyio.wait_all_tasks_blocked()
        assert ran == []
        go.set()
    assert ran[0] == "slow"
    assert sorted(ran[1:]) == ["first", "second"]
    await block.__aexit__(None, None, None)


async def test_a_child_that_is_closing_is_waited_for_by_its_parent() -> None:
    began, go, ran = anyio.Event(), anyio.Event(), []

    async def slow() -> None:
        began.set()
        await go.wait()
        ran.append("child")

    async def tool() -> None:
        async with child_context("tool"):
            current_scope().callback(slow)

    block: Any = user_context("alice-1")
    await block.__aenter__()
    current_scope().callback(lambda: ran.append("parent"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tool)
        await began.wait()
        tasks.start_soon(block.__aexit__, None, None, None)
        await anyio.wait_all_tasks_blocked()
        go.set()
    await block.__aexit__(None, None, None)
    assert ran == ["child", "parent"]
    assert counters.value("scope.parent_closed") == 0


async def test_a_child_that_its_parent_closed_is_counted_and_says_so() -> None:
    async with user_context("alice-1"):
        parent: Any = current_scope()
        inner: Any = child_context("tool")
        await inner.__aenter__()
    assert parent.state == inner.state == "closed"
    assert inner.is_parent_closed
    assert inner.closed_at == "the end of its parent"
    assert not parent.is_parent_closed
    assert counters.value("scope.parent_closed") == 1
    with pytest.raises(ContextClosedError, match="ended at the end of its parent"):
        inner.callback(print)
    await inner.__aexit__(None, None, None)


async def test_the_finalisers_of_a_child_that_its_parent_closed_are_in_the_parents_report() -> None:
    async def quick() -> None: ...

    async with user_context("alice-1"):
        parent = current_scope()
        parent.callback(quick)
        await child_context("tool").__aenter__()
        current_scope().callback(quick)
    assert [entry.kind for entry in parent.report] == ["child", "callback"]


@types.coroutine
def _suspend() -> Iterator[None]:
    yield


def test_what_no_event_loop_is_left_to_run_is_counted() -> None:
    class Slow:
        def __await__(self) -> Iterator[None]:
            raise AssertionError
            yield

    async def request() -> None:
        async with user_context("alice-1"):
            current_scope().callback(Slow)
            scopes.append(current_scope())
            await _suspend()

    scopes: list[RequestScope] = []
    coroutine = request()
    coroutine.send(None)
    coroutine.close()
    gc.collect()
    assert scopes[0].state == "closed"
    assert counters.value("finaliser.abandoned") == 1


async def test_plain_finalisers_need_no_event_loop_and_no_other_task() -> None:
    ran: list[int] = []
    block: Any = user_context("alice-1")
    await block.__aenter__()
    current_scope().callback(ran.append, 1)
    assert not block.needs_event_loop
    leaving = block.__aexit__(None, None, None)
    with pytest.raises(StopIteration):
        leaving.send(None)
    assert ran == [1]


async def test_what_needs_an_event_loop() -> None:
    async def work() -> None: ...

    async with user_context("alice-1"):
        scope = current_scope()
        assert not scope.needs_event_loop
        forget = scope.callback(work)
        assert scope.needs_event_loop
        forget()
        assert not scope.needs_event_loop
        async with child_context("tool"):
            assert scope.needs_event_loop
        await scope.enter(contextlib.nullcontext())
        assert scope.needs_event_loop


# --- draining ---------------------------------------------------------------------------------


async def test_a_draining_fence_takes_no_new_roots_and_lets_open_ones_end() -> None:
    fence = Ringfence()
    async with fence.user_context("alice-1") as ctx:
        fence.is_draining = True
        async with child_context("tool"):
            pass
        for block in (fence.user_context("bob-22"), fence.nobody(), user_context("carol-3")):
            with pytest.raises(DrainingError, match=r"is shutting down.*another instance"):
                await block.__aenter__()
        async with user_context("dave-4", fence=Ringfence()):
            pass
        assert current_scope().context is ctx
    assert counters.value("refused.RF103") == 3


# --- enter and closing ------------------------------------------------------------------------


async def test_entering_while_the_scope_closes_is_refused_and_left() -> None:
    ran: list[str] = []
    began = anyio.Event()
    refused: list[str] = []

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        began.set()
        try:
            await anyio.sleep(60)
            yield
        finally:
            ran.append("left")

    async def enter(scope: RequestScope) -> None:
        try:
            await scope.enter(slow())
        except ContextClosedError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as tasks:
        async with user_context("alice-1"):
            tasks.start_soon(enter, current_scope())
            await began.wait()
    assert ran == ["left"]
    assert refused == ["RF102"]


async def test_facts_of_a_bound_context_are_its_scopes() -> None:
    value = UserExecutionContext("alice-1", "t-1", "r-1", request_id="q-1")
    async with user_context(value) as ctx:
        assert current_scope().context is ctx
        assert current_scope().request_id == "q-1"
        assert current_scope().has_user
