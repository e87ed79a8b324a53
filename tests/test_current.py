"""The way in and the readers: what the blocks take, and the contract's `managed_user_context`."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import ringfence
from ringfence import (
    ConfigurationError,
    ContextClosedError,
    Identity,
    InvalidContextError,
    NoContextError,
    Ringfence,
    ScopeCloseError,
    ScopeInGeneratorError,
    SessionIsolationError,
    SharedObjectError,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    managed_user_context,
    nobody,
    register_shared_object,
    user_context,
)

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


def _make(**given: Any) -> UserExecutionContext:
    return UserExecutionContext("alice-1", "t-1", "r-1", **given)


# --- readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reader", [current_context, current_scope, current_context_or_none, current_scope_or_none]
)
def test_readers_take_no_arguments(reader: Any) -> None:
    """FastAPI's `Depends` makes each parameter one of the query string."""
    assert inspect.signature(reader).parameters == {}


def test_where_nothing_is_open() -> None:
    assert current_context_or_none() is None
    assert current_scope_or_none() is None
    for reader in (current_context, current_scope):
        with pytest.raises(NoContextError, match=r"No scope is open here\. Enter one with"):
            reader()
    with pytest.raises(NoContextError, match="No scope is open here"):
        child_context("tool")


async def test_readers_agree() -> None:
    async with user_context("alice-1") as ctx:
        assert current_context() is current_context_or_none() is current_scope().context is ctx
        assert current_scope() is current_scope_or_none()


# --- user_context -----------------------------------------------------------------------------


async def test_every_fact_that_is_given_arrives() -> None:
    given: dict[str, Any] = {
        "thread_id": "t-1", "run_id": "r-1", "request_id": "q-1", "websocket_client_id": "ws-1",
        "agent_context": {"a": [1]}, "audit_metadata": {"b": 2}, "tenant_id": "acme",
        "expires_at": NOON, "client_request_id": "c-1",
    }  # fmt: skip
    session = object.__new__(type("Session", (), {}))
    async with user_context("alice-1", db_session=session, **given) as ctx:
        for name, value in given.items():
            assert getattr(ctx, name) == value
        assert ctx.db_session is session
        assert (ctx.user_id, ctx.operation_depth, ctx.parent_request_id) == ("alice-1", 0, None)
        assert ctx.verify_isolation()
        assert given["agent_context"]["a"] is not ctx.agent_context["a"]


async def test_the_fast_way_in_makes_the_same_context_as_the_constructor() -> None:
    given: dict[str, Any] = {"request_id": "q-1", "agent_context": {"a": 1}, "tenant_id": "acme"}
    async with user_context("alice-1", thread_id="t-1", run_id="r-1", **given) as ctx:
        by_hand = _make(created_at=ctx.created_at, **given)
        assert ctx == by_hand
        assert type(ctx) is type(by_hand)
        assert ctx.to_dict() == by_hand.to_dict()
        for slot in UserExecutionContext.__slots__:
            if slot != "__weakref__":
                assert hasattr(ctx, slot)
        with pytest.raises(AttributeError):
            ctx.user_id = "bob-22"  # type: ignore[misc]


async def test_ids_that_are_not_given_are_generated_and_differ() -> None:
    async with user_context("alice-1") as ctx:
        ids = {ctx.thread_id, ctx.run_id, ctx.request_id}
    assert len(ids) == 3
    assert {len(each) for each in ids} == {36}


def test_the_positional_order_is_that_of_from_request() -> None:
    """Code that made contexts by hand can change the name of what it calls, and no more."""

    def positional(make: Any) -> list[str]:
        parameters = inspect.signature(make).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional(user_context) == positional(UserExecutionContext.from_request)
    assert positional(child_context) == ["operation_name"]


async def test_the_old_order_arrives_in_the_old_fields() -> None:
    session = object.__new__(type("Session", (), {}))
    async with user_context(
        "alice-1", "t-1", "r-1", "q-1", session, "ws-1", {"a": 1}, {"b": 2}
    ) as ctx:
        assert ctx == UserExecutionContext(
            "alice-1", "t-1", "r-1", "q-1", session, "ws-1", ctx.created_at, {"a": 1}, {"b": 2}
        )


@pytest.mark.parametrize("user_id", ["placeholder", "", "alice 1", ["alice-1"], None])
def test_a_user_id_is_checked_each_time_whatever_else_is_given(user_id: Any) -> None:
    for others in ({}, {}, {"thread_id": "t-1"}, {"thread_id": "t-1", "run_id": "r-1"}):
        with pytest.raises(InvalidContextError):
            user_context(user_id, **others)


def test_an_expired_identity_opens_nothing() -> None:
    expired = Identity("alice-1", expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(InvalidContextError, match="This identity has expired") as caught:
        user_context(expired)
    assert (caught.value.field, caught.value.rule) == ("expires_at", "expired")


@pytest.mark.parametrize("expires_at", [dt.datetime(2030, 1, 1), "2030-01-01", 5])
def test_expiry_is_an_aware_time(expires_at: Any) -> None:
    with pytest.raises(WrongTypeError, match="`expires_at` must be"):
        user_context("alice-1", expires_at=expires_at)


@pytest.mark.parametrize("field", ["agent_context", "audit_metadata"])
def test_data_are_checked_before_a_scope_opens(field: str) -> None:
    with pytest.raises(WrongTypeError, match=f"`{field}` must be a `dict`"):
        user_context("alice-1", **{field: []})  # type: ignore[arg-type]
    with pytest.raises(InvalidContextError, match="reserved key"):
        user_context("alice-1", **{field: {"user_id": 1}})  # type: ignore[arg-type]


@pytest.mark.parametrize("claims", [["admin"], "admin", {"x": object()}])
def test_claims_are_checked(claims: Any) -> None:
    with pytest.raises(WrongTypeError, match="claims"):
        user_context("alice-1", claims=claims)


async def test_an_identity_beside_explicit_facts() -> None:
    identity = Identity("alice-1", "acme", expires_at=NOON, claims={"a": 1})
    async with user_context(identity, claims={"b": 2}, run_id="r-9") as ctx:
        assert (ctx.tenant_id, ctx.expires_at, ctx.run_id) == ("acme", NOON, "r-9")
        assert current_scope().claims == {"b": 2}


async def test_a_context_of_an_ended_scope_can_be_entered_again() -> None:
    async with user_context("alice-1", agent_context={"a": [1]}) as first:
        pass
    async with user_context(first) as second:
        assert second == first
        assert second is not first
        assert second.agent_context["a"] is not first.agent_context["a"]
        assert current_scope().parent is None
        assert second.verify_isolation()


async def test_a_child_value_opens_a_root_that_keeps_its_lineage() -> None:
    child = _make().create_child_context("tool")
    async with user_context(child) as ctx:
        assert (ctx.operation_depth, ctx.parent_request_id) == (1, child.parent_request_id)
        async with child_context("deeper") as deeper:
            assert deeper.operation_depth == 2
            assert deeper.agent_context["parent_operation"] == "tool"


async def test_the_fence_is_the_one_beneath_unless_one_is_given() -> None:
    one, two = Ringfence(), Ringfence()
    async with one.user_context("alice-1"):
        async with nobody():
            assert current_scope()._recipes is one
        async with user_context("bob-22", fence=two):
            assert current_scope()._recipes is two
            async with child_context("tool"):
                assert current_scope()._recipes is two
    async with user_context("alice-1"):
        assert current_scope()._recipes is None


async def test_an_ended_scope_hands_on_no_fence() -> None:
    import contextvars

    async with Ringfence().user_context("alice-1"):
        held = contextvars.copy_context()
    block: Any = held.run(user_context, "bob-22")
    assert block._recipes is None


# --- child_context ----------------------------------------------------------------------------


async def test_a_child_has_all_of_its_parent_but_request_and_data() -> None:
    async with user_context(
        Identity("alice-1", "acme", expires_at=NOON), websocket_client_id="ws-1",
        client_request_id="c-1", agent_context={"a": [1]},
    ) as ctx:  # fmt: skip
        async with child_context(
            "analyse", agent_context={"step": 1}, audit_metadata={"why": "asked"}
        ) as child:
            for name in (
                "user_id thread_id run_id tenant_id expires_at websocket_client_id "
                "client_request_id"
            ).split():
                assert getattr(child, name) == getattr(ctx, name)
            assert child.request_id != ctx.request_id
            assert (child.operation_depth, child.parent_request_id) == (1, ctx.request_id)
            assert child.agent_context == {
                "a": [1], "step": 1, "parent_operation": "root", "operation_name": "analyse",
                "operation_depth": 1,
            }  # fmt: skip
            assert child.audit_metadata["why"] == "asked"
            assert child.agent_context["a"] is not ctx.agent_context["a"]


async def test_a_block_and_a_method_make_the_same_child() -> None:
    async with user_context("alice-1", agent_context={"a": 1}) as ctx:
        value = ctx.create_child_context("tool", {"b": 2}, {"c": 3})
        async with child_context("tool", agent_context={"b": 2}, audit_metadata={"c": 3}) as child:
            assert child.agent_context == value.agent_context
            assert set(child.audit_metadata) == set(value.audit_metadata)
            assert type(child) is type(value)


async def test_a_childs_lineage_cannot_be_overwritten() -> None:
    forged = {"operation_depth": -1000, "parent_request_id": "forged", "operation_name": "forged"}
    async with user_context("alice-1") as ctx:
        async with child_context("tool", agent_context=forged, audit_metadata=forged) as child:
            assert child.agent_context["operation_depth"] == 1
            assert child.agent_context["operation_name"] == "tool"
            assert child.audit_metadata["parent_request_id"] == ctx.request_id
            assert child.audit_metadata["operation_depth"] == 1


async def test_a_child_has_no_user_or_tenant_of_its_own() -> None:
    async with user_context("alice-1"):
        for name in ("user_id", "tenant_id", "request_id"):
            with pytest.raises(TypeError, match=name):
                child_context("tool", **{name: "bob-22"})


@pytest.mark.parametrize("session", ["owned", "", "Share"])
async def test_another_word_is_no_childs_session(session: str) -> None:
    async with user_context("alice-1"):
        with pytest.raises(ConfigurationError, match=f"`session` cannot be '{session}'"):
            child_context("tool", session=session)


async def test_a_shared_object_is_no_childs_session() -> None:
    shared = object.__new__(type("Session", (), {}))
    register_shared_object(shared)
    async with user_context("alice-1"):
        with pytest.raises(SharedObjectError):
            child_context("tool", session=shared)


# --- nobody -----------------------------------------------------------------------------------


async def test_nobody_has_no_context_and_no_child() -> None:
    async with nobody() as scope:
        assert scope is current_scope() is current_scope_or_none()
        assert current_context_or_none() is None
        with pytest.raises(NoContextError, match="belongs to nobody"):
            current_context()
        with pytest.raises(NoContextError, match="belongs to nobody"):
            child_context("tool")
        async with user_context("alice-1"):
            assert current_context().user_id == "alice-1"


async def test_in_generator_is_taken_by_all_three() -> None:
    async def one() -> AsyncIterator[None]:
        async with nobody(in_generator=True):
            yield

    async def two() -> AsyncIterator[None]:
        async with child_context("tool", in_generator=True):
            yield

    async def three() -> AsyncIterator[None]:
        async with child_context("tool"):
            yield

    async with user_context("alice-1"):
        for generator in (one(), two()):
            await anext(generator)
            with pytest.raises(StopAsyncIteration):
                await anext(generator)
        with pytest.raises(ScopeInGeneratorError):
            await anext(three())


# --- managed_user_context ---------------------------------------------------------------------


class Session:
    """Records what is done to it."""

    def __init__(self, *, fails: str = "") -> None:
        self.log: list[str] = []
        self.fails = fails

    async def _do(self, what: str) -> None:
        await anyio.sleep(0)
        self.log.append(what)
        if self.fails == what:
            raise OSError(f"{what} failed")

    async def rollback(self) -> None:
        await self._do("rollback")

    async def close(self) -> None:
        await self._do("close")


class SyncSession:
    """As SQLAlchemy's plain `Session`."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def rollback(self) -> None:
        self.log.append("rollback")

    def close(self) -> None:
        self.log.append("close")


class Connection:
    """Something that can be closed and no more."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def close(self) -> None:
        self.log.append("close")


KINDS = [Session, SyncSession]


def test_it_has_the_old_signature() -> None:
    parameters = inspect.signature(managed_user_context).parameters
    assert list(parameters) == ["ctx", "cleanup_db_session"]
    assert parameters["cleanup_db_session"].default is True


@pytest.mark.parametrize("kind", KINDS)
async def test_it_closes_the_session_on_success(kind: Any) -> None:
    session = kind()
    ctx = _make(db_session=session)
    async with managed_user_context(ctx) as bound:
        assert bound == ctx
        assert current_context() is bound
        assert bound.db_session is session
        assert session.log == []
    assert session.log == ["close"]


@pytest.mark.parametrize("kind", KINDS)
async def test_it_rolls_back_and_closes_on_failure(kind: Any) -> None:
    session = kind()
    with pytest.raises(KeyError, match="mine"):
        async with managed_user_context(_make(db_session=session)):
            raise KeyError("mine")
    assert session.log == ["rollback", "close"]


@pytest.mark.parametrize("kind", KINDS)
async def test_it_rolls_back_and_closes_on_a_cancellation(kind: Any) -> None:
    session = kind()
    with anyio.CancelScope() as cancel:
        async with managed_user_context(_make(db_session=session)):
            cancel.cancel()
            await anyio.sleep(60)
    assert cancel.cancelled_caught
    assert session.log == ["rollback", "close"]


@pytest.mark.parametrize("kind", KINDS)
async def test_it_rolls_back_and_closes_on_a_timeout(kind: Any) -> None:
    session = kind()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.01):
            async with managed_user_context(_make(db_session=session)):
                await anyio.sleep(60)
    assert session.log == ["rollback", "close"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_closes_under_many_cancellations(anyio_backend: str) -> None:
    entered, session = asyncio.Event(), Session()

    async def request() -> None:
        async with managed_user_context(_make(db_session=session)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await entered.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.log == ["rollback", "close"]


async def test_what_has_no_rollback_is_closed() -> None:
    connection = Connection()
    with pytest.raises(KeyError):
        async with managed_user_context(_make(db_session=connection)):
            raise KeyError
    assert connection.log == ["close"]


async def test_a_failing_close_is_raised() -> None:
    session = Session(fails="close")
    with pytest.raises(ScopeCloseError) as caught:
        async with managed_user_context(_make(db_session=session)):
            pass
    assert [str(error) for error in caught.value.exceptions] == ["close failed"]


async def test_a_failing_close_is_attached_to_the_bodys_exception() -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        async with managed_user_context(_make(db_session=Session(fails="close"))):
            raise KeyError("mine")
    assert any("close failed" in note for note in caught.value.__notes__)


async def test_a_failing_rollback_does_not_prevent_the_close() -> None:
    session = Session(fails="rollback")
    with pytest.raises(KeyError) as caught:
        async with managed_user_context(_make(db_session=session)):
            raise KeyError
    assert session.log == ["rollback", "close"]
    assert any("rollback failed" in note for note in caught.value.__notes__)


async def test_the_session_is_closed_after_everything_else() -> None:
    session = Session()
    async with managed_user_context(_make(db_session=session)):
        current_scope().callback(session.log.append, "mine")
    assert session.log == ["mine", "close"]


async def test_without_clean_up_and_without_a_session_there_is_nothing_to_do() -> None:
    session = Session()
    async with managed_user_context(_make(db_session=session), cleanup_db_session=False):
        pass
    async with managed_user_context(_make(), True) as ctx:
        assert ctx.db_session is None
    assert session.log == []


async def test_a_child_does_not_close_its_parents_session() -> None:
    session = Session()
    async with managed_user_context(_make(db_session=session)) as parent:
        root = current_scope()
        async with managed_user_context(parent.create_child_context("tool")) as child:
            assert child.db_session is session
            assert current_scope().parent is root
            async with managed_user_context(child.create_child_context("deeper")) as deeper:
                assert deeper.db_session is session
                assert current_scope().root is root
        assert session.log == []
    assert session.log == ["close"]


async def test_a_child_made_before_its_parent_was_entered_is_entered_beneath_it_too() -> None:
    session = Session()
    ctx = _make(db_session=session)
    child = ctx.create_child_context("tool")
    async with managed_user_context(ctx):
        async with managed_user_context(child):
            assert current_scope().parent is not None
    assert session.log == ["close"]


async def test_a_child_on_its_own_does_not_close_it_either() -> None:
    session = Session()
    child = _make(db_session=session).create_child_context("tool")
    async with managed_user_context(child) as ctx:
        assert ctx.db_session is session
        assert current_scope().parent is None
    assert session.log == []


async def test_a_childs_own_session_is_closed_with_it() -> None:
    one, two = Session(), Session()
    async with managed_user_context(_make(db_session=one)) as parent:
        async with managed_user_context(parent.create_child_context("tool").with_db_session(two)):
            pass
        assert (one.log, two.log) == ([], ["close"])
    assert one.log == ["close"]


async def test_children_of_a_failed_parent_do_not_close_it_twice() -> None:
    session = Session()
    with pytest.raises(KeyError):
        async with managed_user_context(_make(db_session=session)) as parent:
            async with managed_user_context(parent.create_child_context("tool")):
                raise KeyError
    assert session.log == ["rollback", "close"]


async def test_one_session_for_two_open_requests_is_refused_and_left_open() -> None:
    session = Session()
    async with managed_user_context(_make(db_session=session)):
        bob = UserExecutionContext("bob-22", "t-2", "r-2", db_session=session)
        with pytest.raises(SessionIsolationError):
            async with managed_user_context(bob):
                pass
        assert session.log == []
    assert session.log == ["close"]


async def test_afterwards_the_session_is_refused() -> None:
    session = Session()
    async with managed_user_context(_make(db_session=session)) as ctx:
        pass
    with pytest.raises(ContextClosedError):
        _ = ctx.db_session


async def test_two_in_a_row_and_two_at_once() -> None:
    ctx = _make()
    for _ in range(2):
        async with managed_user_context(ctx):
            pass
    async with managed_user_context(ctx) as one, managed_user_context(ctx) as two:
        assert one == two
        assert one is not two


async def test_it_keeps_to_the_fence_beneath() -> None:
    fence = Ringfence()
    async with fence.user_context("alice-1"):
        async with managed_user_context(_make()):
            assert current_scope()._recipes is fence


@pytest.mark.parametrize("value", [None, "alice-1", {}, Identity("alice-1")])
def test_another_type_is_a_type_error(value: Any) -> None:
    with pytest.raises(WrongTypeError, match="Expected a `UserExecutionContext`, not a `"):
        managed_user_context(value)


def test_it_is_public() -> None:
    for name in (
        "validate_user_context managed_user_context register_shared_object "
        "clear_shared_object_registry"
    ).split():
        assert name in ringfence.__all__


async def test_a_value_as_session_is_named() -> None:
    with pytest.raises(WrongTypeError, match="cannot be owned"):
        async with managed_user_context(_make(db_session="text")):
            pass


async def test_a_context_takes_no_session_beside_it() -> None:
    with pytest.raises(ConfigurationError, match="Pass the context alone"):
        user_context(_make(), db_session=Session())


async def test_the_context_that_is_open_here_can_be_managed_again() -> None:
    class Session:
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    session = Session()
    async with user_context("alice-1", db_session=session) as ctx:
        async with managed_user_context(ctx) as again:
            assert again == ctx
            assert again.db_session is session
        assert current_context() is ctx
    assert session.closed == 1
