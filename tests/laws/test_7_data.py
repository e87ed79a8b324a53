"""Law 7. Facts are immutable, data is copied."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import attrs
import pytest

from ringfence import (
    ContextIsolationError,
    Identity,
    SessionIsolationError,
    SharedObjectError,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    current_context,
    current_scope,
    register_shared_object,
    user_context,
    validate_user_context,
)
from ringfence.copies import mutable_objects


def _make(**given: Any) -> UserExecutionContext:
    return UserExecutionContext("alice-1", "t-1", "r-1", **given)


def test_facts_cannot_be_assigned_or_deleted() -> None:
    ctx = _make()
    for field in ("user_id", "request_id", "operation_depth", "_session", "_scope", "other"):
        with pytest.raises(AttributeError):
            setattr(ctx, field, "bob-22")
        with pytest.raises(AttributeError):
            delattr(ctx, field)
    assert ctx.user_id == "alice-1"


@pytest.mark.parametrize(
    "swap",
    [
        lambda ctx: attrs.evolve(ctx, user_id="bob-22"),
        lambda ctx: dataclasses.replace(ctx, user_id="bob-22"),
        lambda ctx: ctx.__replace__(user_id="bob-22"),
        lambda ctx: ctx.__setstate__({"user_id": "bob-22"}),
        lambda ctx: copy.replace(ctx, user_id="bob-22"),  # type: ignore[attr-defined]
    ],
    ids=["attrs", "dataclasses", "__replace__", "__setstate__", "copy"],
)
def test_no_swap_of_a_user_in_one_line(swap: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        swap(_make())


def test_pickle_is_refused_and_names_the_carrier() -> None:
    with pytest.raises(WrongTypeError, match="carrier"):
        pickle.dumps(_make())


def test_data_is_copied_in_both_directions() -> None:
    mine: dict[str, Any] = {"deep": {"list": [1]}}
    ctx = _make(agent_context=mine, audit_metadata=mine)
    mine["deep"]["list"].append(2)
    assert ctx.agent_context == {"deep": {"list": [1]}}
    ctx.agent_context["deep"]["list"].append(3)
    assert mine == {"deep": {"list": [1, 2]}}
    assert ctx.audit_metadata == {"deep": {"list": [1]}}


def test_a_dict_of_another_class_is_copied_by_us() -> None:
    class Sly(dict[str, Any]):
        def copy(self) -> Any:
            return self

    mine = Sly(step=1)
    ctx = _make(agent_context=mine)
    assert type(ctx.agent_context) is dict
    assert ctx.agent_context == {"step": 1}
    assert ctx.agent_context is not mine


def test_a_copy_has_data_of_its_own() -> None:
    ctx = _make(agent_context={"list": [1]})
    for duplicate in (copy.copy(ctx), copy.deepcopy(ctx), ctx.with_websocket_connection("ws-1")):
        duplicate.agent_context["list"].append(2)
    assert ctx.agent_context == {"list": [1]}


async def test_no_mutable_object_is_reachable_from_two_trees_or_two_levels() -> None:
    data = {"deep": {"list": [{"x": 1}]}}
    contexts = []
    async with user_context("alice-1", agent_context=data) as alice:
        async with child_context("tool", agent_context=data) as child:
            contexts += [alice, child]
        async with user_context("bob-22", agent_context=data) as bob:
            contexts.append(bob)
        async with user_context(alice) as again:
            contexts.append(again)
        seen: set[int] = {id(item) for item in mutable_objects(data)}
        for ctx in contexts:
            own = {id(item) for item in mutable_objects(ctx.agent_context)}
            assert not own & seen
            seen |= own


async def test_a_child_gets_copies_of_what_it_inherits() -> None:
    async with user_context("alice-1", agent_context={"list": [1]}, audit_metadata={"l": [1]}):
        async with child_context("tool") as child:
            child.agent_context["list"].append(2)
            child.audit_metadata["l"].append(2)
        parent = current_context()
        assert (parent.agent_context, parent.audit_metadata) == ({"list": [1]}, {"l": [1]})


async def test_claims_are_read_only_and_shared_by_nobody() -> None:
    roles = ["admin"]
    identity = Identity("alice-1", claims={"roles": roles, "org": {"id": 1}})
    roles.append("root")
    async with user_context(identity):
        claims = current_scope().claims
        assert claims["roles"] == ("admin",)
        with pytest.raises(TypeError):
            claims["roles"] = ()  # type: ignore[index]
        with pytest.raises(TypeError):
            claims["org"]["id"] = 2
        assert list(mutable_objects(dict(claims["org"]).values()))[1:] == []


async def test_a_value_may_be_entered_again_and_at_once() -> None:
    ctx = _make(agent_context={"n": 1})
    async with user_context(ctx) as first, user_context(ctx) as second:
        assert first == ctx == second
        assert first is not ctx
        first.agent_context["n"] = 2
        assert second.agent_context == {"n": 1}


async def test_the_binding_is_outside_repr_equality_dict_and_facts() -> None:
    ctx = _make()
    async with user_context(ctx) as bound:
        assert bound == ctx
        assert hash(bound) == hash(ctx)
        assert repr(bound) == repr(ctx)
        assert bound.to_dict() == ctx.to_dict()


# --- verify_isolation -------------------------------------------------------------------------


async def test_a_mutable_object_put_into_two_trees_is_found() -> None:
    shared: list[int] = []
    async with user_context("alice-1") as alice:
        alice.agent_context["list"] = shared
        assert alice.verify_isolation()
        async with user_context("bob-22") as bob:
            bob.agent_context["deep"] = {"er": [shared]}
            with pytest.raises(ContextIsolationError, match=alice.request_id):
                bob.verify_isolation()
        async with child_context("tool") as child:
            child.agent_context["mine too"] = shared
            assert child.verify_isolation()
    async with user_context("bob-22") as bob:
        bob.agent_context["list"] = shared
        assert bob.verify_isolation()


def test_one_session_in_the_contexts_of_two_users_is_found_though_neither_is_entered() -> None:
    session = object.__new__(type("Session", (), {}))
    alice = _make(db_session=session)
    bob = UserExecutionContext("bob-22", "t-2", "r-2", db_session=session)
    assert alice.verify_isolation()
    assert alice.create_child_context("tool").verify_isolation()
    with pytest.raises(SessionIsolationError):
        validate_user_context(bob)
    del alice
    assert bob.verify_isolation()


def test_sequential_contexts_with_one_session_are_not_accused() -> None:
    session = object.__new__(type("Session", (), {}))
    for number in range(1000):
        ctx = UserExecutionContext(f"user-{number}", "t-1", "r-1", db_session=session)
        assert ctx.verify_isolation()


def test_a_shared_object_is_found_at_any_depth() -> None:
    class Client:
        def __init__(self) -> None:
            self.state = [1]

    client = Client()
    register_shared_object(client)
    with pytest.raises(SharedObjectError, match="Client"):
        _make(agent_context={"a": [{"b": (client,)}]})
    with pytest.raises(SharedObjectError):
        _make(db_session=client)
    ctx = _make()
    ctx.audit_metadata["later"] = {"deep": client}
    with pytest.raises(SharedObjectError):
        ctx.verify_isolation()


def test_a_shared_object_inside_another_object_is_found() -> None:
    class Holder:
        def __init__(self, inner: object) -> None:
            self.inner = inner

    inner = [1]
    register_shared_object(inner)
    with pytest.raises(SharedObjectError):
        _make(agent_context={"holder": Holder(inner)})
