"""The supervisor vocabulary, as the contract lists it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
import uuid
from typing import Any

import attrs
import pytest

import ringfence
from ringfence import (
    ContextLimitError,
    InvalidContextError,
    SharedObjectError,
    WrongTypeError,
    child_context,
    current_context,
    legacy,
    register_shared_object,
    user_context,
)
from ringfence.legacy import UserExecutionContext, clear_shared_objects

from .words import Session, make, quietly

pytestmark = quietly


# --- what is re-exported ----------------------------------------------------------------------


def test_it_is_the_canonical_class_and_more() -> None:
    assert issubclass(UserExecutionContext, ringfence.UserExecutionContext)
    assert isinstance(make(), ringfence.UserExecutionContext)
    assert not hasattr(make(), "__dict__")


def test_module_functions_and_errors_are_the_canonical_ones() -> None:
    for name in set(legacy.__all__) - {
        "UserExecutionContext",
        "WebSocketRegistry",
        "clear_shared_objects",
    }:
        assert getattr(legacy, name) is getattr(ringfence, name)
    assert list(legacy.__all__) == sorted(set(legacy.__all__))


def test_clear_shared_objects_clears_the_registry() -> None:
    shared = [1]
    register_shared_object(shared)
    with pytest.raises(SharedObjectError):
        make(agent_context={"x": shared})
    clear_shared_objects()
    assert make(agent_context={"x": shared})


def test_every_public_name_has_words_of_its_own() -> None:
    for name, member in vars(UserExecutionContext).items():
        if not name.startswith("_"):
            assert inspect.getdoc(member), name


# --- the constructor and from_request ---------------------------------------------------------

MAKERS = [UserExecutionContext, UserExecutionContext.from_request]
makers = pytest.mark.parametrize("maker", MAKERS, ids=["constructor", "from_request"])


@makers
def test_supervisor_keywords(maker: Any) -> None:
    ctx = maker(
        "alice-1", "t-1", "r-1",
        metadata={"step": 1, "operation_depth": 2, "parent_request_id": "q-0"},
        websocket_connection_id="ws-1", session_id="s-1",
    )  # fmt: skip
    assert ctx.websocket_client_id == ctx.websocket_connection_id == "ws-1"
    assert ctx.agent_context == {"session_id": "s-1", "step": 1}
    assert ctx.session_id == "s-1"
    assert (ctx.operation_depth, ctx.parent_request_id) == (2, "q-0")
    assert ctx.audit_metadata == {}


@makers
def test_supervisor_keywords_may_be_none(maker: Any) -> None:
    ctx = maker(
        "alice-1", "t-1", "r-1", metadata=None, websocket_connection_id=None, session_id=None
    )
    assert ctx.websocket_client_id is ctx.session_id is None
    assert ctx.agent_context == {}


@makers
def test_they_stand_beside_canonical_ones(maker: Any) -> None:
    ctx = maker(
        "alice-1", "t-1", "r-1", agent_context={"a": 1}, audit_metadata={"b": 2},
        metadata={"c": 3}, websocket_client_id="ws-1", websocket_connection_id="ws-1",
    )  # fmt: skip
    assert ctx.agent_context == {"a": 1, "c": 3}
    assert ctx.audit_metadata == {"b": 2}


@makers
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"websocket_client_id": "ws-1", "websocket_connection_id": "ws-2"}, "websocket_client_id"),
        ({"agent_context": {"a": 1}, "metadata": {"a": 2}}, "metadata['a']"),
        ({"audit_metadata": {"a": 1}, "metadata": {"a": 2}}, "metadata['a']"),
        (
            {"agent_context": {"session_id": "s-1"}, "session_id": "s-2"},
            "session_id",
        ),
    ],
)
def test_two_values_for_one_thing_are_refused(
    maker: Any, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidContextError) as caught:
        maker("alice-1", "t-1", "r-1", **given)
    assert (caught.value.field, caught.value.rule) == (field, "twice")


@makers
def test_one_value_in_both_words_is_taken(maker: Any) -> None:
    ctx = maker(
        "alice-1", "t-1", "r-1", agent_context={"a": [1], "session_id": "s-1"},
        metadata={"a": [1]}, session_id="s-1",
        websocket_client_id="ws", websocket_connection_id="ws",
    )  # fmt: skip
    assert ctx.agent_context == {"a": [1], "session_id": "s-1"}


def test_so_are_two_lineages() -> None:
    with pytest.raises(InvalidContextError, match="`operation_depth` is given twice"):
        make(operation_depth=1, metadata={"operation_depth": 2})


@makers
def test_the_canonical_positional_order_is_kept(maker: Any) -> None:
    session = Session()
    ctx = maker("alice-1", "t-1", "r-1", "q-1", session, "ws-1")
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.db_session is session
    assert maker("alice-1", "t-1", "r-1", None, session).db_session is session


@makers
def test_a_fourth_positional_argument_that_is_no_text_is_the_session(maker: Any) -> None:
    session = Session()
    assert maker("alice-1", "t-1", "r-1", session).db_session is session
    ctx = maker("alice-1", "t-1", "r-1", session, "q-1", "s-1", "ws-1")  # the supervisor's order
    assert (ctx.request_id, ctx.session_id, ctx.websocket_client_id) == ("q-1", "s-1", "ws-1")


@makers
def test_no_session_and_then_text_is_the_supervisor_s_order(maker: Any) -> None:
    ctx = maker("alice-1", "t-1", "r-1", None, "q-1")
    assert (ctx.request_id, ctx.db_session) == ("q-1", None)


@makers
@pytest.mark.parametrize("value", [17, b"q-1", uuid.uuid4(), {"a": 1}, ["q-1"], Session])
def test_what_is_no_session_either_is_refused_as_a_request_id(maker: Any, value: Any) -> None:
    with pytest.raises(WrongTypeError, match="`request_id` must be a `str`"):
        maker("alice-1", "t-1", "r-1", value)


@makers
def test_a_session_is_no_request_id_by_name(maker: Any) -> None:
    with pytest.raises(WrongTypeError, match="`request_id` must be a `str`"):
        maker("alice-1", "t-1", "r-1", request_id=Session())


@makers
def test_wrong_calls_are_wrong_in_python_s_way(maker: Any) -> None:
    with pytest.raises(TypeError, match="run_id"):
        maker("alice-1", "t-1")
    with pytest.raises(TypeError, match="unexpected keyword argument 'permissions'"):
        maker("alice-1", "t-1", "r-1", permissions=[])
    with pytest.raises(TypeError, match="multiple values for argument 'request_id'"):
        maker("alice-1", "t-1", "r-1", "q-1", request_id="q-2")
    with pytest.raises(TypeError, match="positional arguments are taken, 15 were given"):
        maker(*["x"] * 15)


def test_from_request_takes_no_more_than_it_did() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'operation_depth'"):
        UserExecutionContext.from_request("alice-1", "t-1", "r-1", operation_depth=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"operation_depth": "7"}, "operation_depth"),
        ({"operation_depth": -1000}, "operation_depth"),
        ({"operation_depth": True}, "operation_depth"),
        ({"operation_depth": None}, "operation_depth"),
        ({"parent_request_id": "placeholder"}, "parent_request_id"),
        ({"parent_request_id": 5}, "parent_request_id"),
        ({"user_id": "bob-22"}, "metadata"),
        ([("a", 1)], "metadata"),
        ("text", "metadata"),
    ],
)
def test_metadata_are_validated(metadata: Any, field: str) -> None:
    for made in (
        lambda: make(metadata=metadata),
        lambda: UserExecutionContext.from_request("alice-1", "t-1", "r-1", metadata=metadata),
        lambda: UserExecutionContext.from_request_supervisor(
            "alice-1", "t-1", "r-1", metadata=metadata
        ),
    ):
        with pytest.raises(InvalidContextError) as caught:
            made()
        assert caught.value.field == field


# --- the supervisor's factories ---------------------------------------------------------------

FACTORIES = ["from_supervisor_style_request", "from_request_supervisor"]
CHILDREN = ["create_supervisor_style_child_context", "create_child_context_supervisor"]


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_supervisor_style_request(factory: str) -> None:
    session = Session()
    given = {"catalog": [1], "log_level": 2, "operation_depth": 3, "parent_request_id": "q-0"}
    before = copy.deepcopy(given)
    from_request = getattr(UserExecutionContext, factory)
    ctx = from_request("alice-1", "t-1", "r-1", "q-1", session, "ws-1", given)
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.db_session is session
    assert (ctx.operation_depth, ctx.parent_request_id) == (3, "q-0")
    assert ctx.agent_context == {"catalog": [1], "log_level": 2}
    assert ctx.audit_metadata == {}
    assert given == before
    given["catalog"].append(2)  # type: ignore[attr-defined]
    assert ctx.agent_context["catalog"] == [1]
    assert from_request("alice-1", "t-1", "r-1").agent_context == {}


def test_the_old_signatures_are_kept() -> None:
    for factory in FACTORIES:
        assert (
            list(inspect.signature(getattr(UserExecutionContext, factory)).parameters)
            == (
                "user_id thread_id run_id request_id db_session websocket_connection_id metadata"
            ).split()
        )
    for name in CHILDREN:
        assert list(inspect.signature(getattr(UserExecutionContext, name)).parameters) == (
            "self operation_name additional_metadata".split()
        )


@pytest.mark.parametrize("name", CHILDREN)
def test_a_supervisor_style_child(name: str) -> None:
    parent = make(agent_context={"a": 1}, audit_metadata={"b": 2})
    addition = {"extra": ["data"]}
    child = getattr(parent, name)("analyse", addition)
    assert type(child) is UserExecutionContext
    assert child.metadata["operation_name"] == "analyse"
    assert child.metadata["parent_request_id"] == parent.request_id
    assert child.metadata["operation_depth"] == 1
    assert child.metadata["extra"] == ["data"]
    assert (child.metadata["a"], child.metadata["b"]) == (1, 2)
    addition["extra"].append("later")
    assert child.metadata["extra"] == ["data"]
    assert getattr(parent, name)("analyse").metadata["operation_name"] == "analyse"


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx, extra: ctx.create_child_context("tool", extra),
        lambda ctx, extra: ctx.create_child_context("tool", additional_metadata=extra),
        lambda ctx, extra: ctx.create_child_context("tool", metadata=extra),
        lambda ctx, extra: ctx.create_child_context("tool", {"mine": 1}, additional_metadata=extra),
        lambda ctx, extra: ctx.create_supervisor_style_child_context("tool", extra),
    ],
    ids=["positional", "additional_metadata", "metadata", "both", "supervisor"],
)
def test_additions_of_every_style_reach_the_child(call: Any) -> None:
    parent = make(audit_metadata={"source": "root"})
    assert call(parent, {"extra": "data"}).agent_context["extra"] == "data"
    forged = {"operation_depth": -5, "parent_request_id": "q-9", "operation_name": "forged"}
    child = call(parent, forged)
    assert (child.operation_depth, child.parent_request_id) == (1, parent.request_id)
    assert child.metadata["operation_depth"] == child.agent_context["operation_depth"] == 1
    assert child.metadata["parent_request_id"] == parent.request_id
    assert child.metadata["operation_name"] == child.agent_context["operation_name"] == "tool"
    with pytest.raises(InvalidContextError, match="reserved key `user_id`"):
        call(parent, {"user_id": "bob-22"})


@pytest.mark.parametrize("name", ["additional_metadata", "metadata"])
def test_an_addition_is_not_hidden_by_what_the_child_inherits(name: str) -> None:
    parent = make(agent_context={"here": 1}, audit_metadata={"source": "root"})
    child = parent.create_child_context("tool", **{name: {"source": "tool", "here": 2}})  # type: ignore[arg-type,misc]
    assert (child.metadata["source"], child.metadata["here"]) == ("tool", 2)
    assert child.audit_metadata["source"] == "tool"
    assert "source" not in child.agent_context
    assert (parent.metadata["source"], parent.metadata["here"]) == ("root", 1)


def test_forged_lineage_among_the_additions_is_nowhere() -> None:
    child = make().create_child_context("tool", metadata={"parent_request_id": "q-9"})
    assert "q-9" not in json.dumps(child.to_dict())


def test_an_addition_is_given_once() -> None:
    with pytest.raises(InvalidContextError, match="given twice"):
        make().create_child_context("tool", {"a": 1}, metadata={"a": 2})
    with pytest.raises(TypeError, match="unexpected keyword argument 'extra'"):
        make().create_child_context("tool", extra={"a": 2})  # type: ignore[call-arg]
    with pytest.raises(WrongTypeError, match="`metadata` must be a `dict`"):
        make().create_supervisor_style_child_context("tool", [1])  # type: ignore[arg-type]


def test_depth_ten_is_the_deepest_and_names_are_required() -> None:
    ctx = make()
    for depth in range(1, 11):
        ctx = ctx.create_supervisor_style_child_context(f"op-{depth}")
    assert ctx.metadata["operation_depth"] == 10
    for name in CHILDREN:
        with pytest.raises(ContextLimitError):
            getattr(ctx, name)("deeper")
        for blank in ("", "  "):
            with pytest.raises(InvalidContextError, match="`operation_name` is blank"):
                getattr(make(), name)(blank)


def test_with_websocket_connection_supervisor() -> None:
    ctx = make()
    changed = ctx.with_websocket_connection_supervisor("ws-1")
    assert (changed.websocket_client_id, changed.request_id) == ("ws-1", ctx.request_id)
    assert type(changed) is UserExecutionContext
    for nothing in ("", None):
        with pytest.raises(InvalidContextError):
            ctx.with_websocket_connection_supervisor(nothing)  # type: ignore[arg-type]


# --- what it stays ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", "user_id request_id websocket_connection_id session_id agent_context other".split()
)
def test_nothing_but_metadata_can_be_assigned(name: str) -> None:
    ctx = make()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(ctx, name, "x")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        delattr(ctx, name)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del ctx.metadata


def test_tests_of_the_old_immutability_stay_true() -> None:
    ctx = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ctx.user_id = "bob-22"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del ctx.user_id  # type: ignore[misc]
    assert ctx.user_id == "alice-1"


def test_a_refused_construction_leaves_nothing_writable() -> None:
    bare = object.__new__(UserExecutionContext)
    with pytest.raises(InvalidContextError):
        bare.__init__("alice-1", "test", "r-1")  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        bare.user_id = "bob-22"  # type: ignore[misc]


def test_copies_are_of_this_class_and_it_cannot_be_pickled() -> None:
    ctx = make(metadata={"a": [1]})
    for duplicate in (copy.copy(ctx), copy.deepcopy(ctx), ctx.with_db_session(Session())):
        assert type(duplicate) is UserExecutionContext
        duplicate.metadata["a"].append(2)
    assert ctx.metadata == {"a": [1]}
    assert copy.copy(ctx) == ctx
    assert hash(ctx) == hash(copy.copy(ctx))
    with pytest.raises(WrongTypeError, match="carrier"):
        pickle.dumps(ctx)


def test_to_dict_has_two_more_keys() -> None:
    ctx = make(websocket_client_id="ws-1", agent_context={"a": 1}, audit_metadata={"a": 2, "b": 3})
    plain = ringfence.UserExecutionContext.to_dict(ctx)
    assert set(ctx.to_dict()) - set(plain) == {"websocket_connection_id", "metadata"}
    assert ctx.to_dict() == {
        **plain, "websocket_connection_id": "ws-1", "metadata": {"a": 2, "b": 3},
    }  # fmt: skip
    child = ctx.create_child_context("tool")
    assert child.to_dict()["metadata"]["operation_depth"] == 1
    assert json.loads(json.dumps(child.to_dict())) == child.to_dict()


def test_metadata_in_to_dict_are_redacted_too() -> None:
    ctx = make(metadata={"api_key": "SECRET", "lock": {"token": "SECRET"}, "odd": 1 + 2j})
    assert "SECRET" not in json.dumps(ctx.to_dict())


# --- in a scope -------------------------------------------------------------------------------


async def test_a_scope_opened_with_one_is_a_legacy_one_all_the_way_down() -> None:
    session = Session()
    given = make(db_session=session, metadata={"a": [1]})
    async with user_context(given) as ctx:
        assert current_context() is ctx
        assert type(ctx) is UserExecutionContext
        assert ctx == given
        assert ctx is not given
        assert ctx.db_session is session
        ctx.metadata["result"] = "done"
        assert current_context().agent_context["result"] == "done"
        async with child_context("tool", agent_context={"step": 1}) as child:
            assert type(child) is UserExecutionContext
            child.metadata["mine"] = 1
            assert child.metadata["operation_depth"] == 1
        grandchild = ctx.create_child_context("one").create_child_context("two")
        assert type(grandchild) is UserExecutionContext
    assert given.metadata == {"a": [1]}
    assert "mine" not in ctx.metadata


async def test_it_can_be_entered_again_and_concurrently() -> None:
    given = make(metadata={"a": [1]})
    async with user_context(given) as one, user_context(given) as two:
        one.metadata["a"].append(2)
        assert two.metadata == given.metadata == {"a": [1]}


class Richer(UserExecutionContext):
    """A team's own subclass, with a dictionary of its own."""

    @property
    def label(self) -> str:
        return f"{self.user_id}/{self.metadata.get('agent')}"


async def test_a_subclass_keeps_its_class() -> None:
    ctx = Richer.from_request_supervisor("alice-1", "t-1", "r-1", metadata={"agent": "triage"})
    assert type(ctx) is Richer
    async with user_context(ctx):
        current: Any = current_context()
        assert current.label == "alice-1/triage"
        assert type(current.create_child_context("tool", metadata={"x": 1})) is Richer
