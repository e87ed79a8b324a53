"""`ctx.metadata`: one live mapping over two dictionaries."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence import InvalidContextError, SharedObjectError, WrongTypeError, register_shared_object
from ringfence.legacy import UserExecutionContext
from ringfence.records import json_ready

from .words import make, quietly

pytestmark = quietly


def _both() -> UserExecutionContext:
    return make(agent_context={"a": 1, "both": "agent"}, audit_metadata={"b": 2, "both": "audit"})


def _child() -> UserExecutionContext:
    return _both().create_child_context("tool")


# --- reading ----------------------------------------------------------------------------------


def test_it_is_both_dictionaries_and_audit_wins() -> None:
    assert _both().metadata == {"a": 1, "b": 2, "both": "audit"}


def test_lineage_is_there_when_there_is_any() -> None:
    assert make().metadata == {}
    child = _child()
    assert child.metadata["operation_depth"] == 1
    assert child.metadata["parent_request_id"] == child.parent_request_id
    assert {"operation_name", "parent_operation", "child_created_at"} <= set(child.metadata)


def test_every_way_of_reading_says_the_same() -> None:
    ctx = _child()
    view, plain = ctx.metadata, dict(ctx.metadata)
    assert type(plain) is dict
    assert view == plain == {**view} == dict(view.items()) == view.copy()
    assert plain == view
    assert (len(view), list(view), list(view.keys())) == (len(plain), list(plain), list(plain))
    assert sorted(map(str, view.values())) == sorted(map(str, plain.values()))
    assert (view.get("a"), view.get("none"), view.get("none", 5)) == (1, None, 5)
    assert "a" in view
    assert "none" not in view
    assert repr(view) == repr(plain)
    assert bool(view)
    assert not make().metadata
    assert view | {"z": 1} == {**plain, "z": 1}
    assert {"z": 1} | view == {"z": 1, **plain}
    assert (lambda **given: given)(**view) == plain
    with pytest.raises(KeyError, match="none"):
        view["none"]


def test_who_asks_for_a_dict_gets_one() -> None:
    view = _both().metadata
    assert isinstance(view, dict)
    assert json.loads(json.dumps(view)) == json_ready(view) == view
    assert json.loads(json.JSONEncoder(indent=1).encode(view)) == view  # not by the C encoder
    for duplicate in (copy.copy(view), copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert type(duplicate) is dict
        assert duplicate == view


def test_what_was_read_earlier_sees_what_is_written_later() -> None:
    ctx = make()
    view = ctx.metadata
    ctx.agent_context["a"] = 1
    ctx.audit_metadata["b"] = 2
    ctx.metadata["c"] = 3
    assert view == {"a": 1, "b": 2, "c": 3}
    assert len(view) == 3
    view["d"] = 4
    assert json.loads(json.dumps(view)) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_it_may_be_written_to_while_it_is_read() -> None:
    ctx = _both()
    for key in ctx.metadata:
        ctx.metadata[f"{key}!"] = 1
    assert len(ctx.metadata) == 6


# --- writing ----------------------------------------------------------------------------------


def test_a_write_sticks_where_the_key_is_else_in_the_agent_context() -> None:
    ctx = _both()
    ctx.metadata["new"] = ctx.metadata["a"] = ctx.metadata["b"] = ctx.metadata["both"] = 9
    assert ctx.metadata == {"new": 9, "a": 9, "b": 9, "both": 9}
    assert ctx.agent_context == {"new": 9, "a": 9, "both": "agent"}
    assert ctx.audit_metadata == {"b": 9, "both": 9}


def test_what_is_written_is_what_is_read() -> None:
    ctx, value = make(), [1]
    ctx.metadata["list"] = value
    assert ctx.metadata["list"] is value
    ctx.metadata.setdefault("list", []).append(2)
    ctx.metadata.setdefault("other", []).append(3)
    assert ctx.agent_context == {"list": [1, 2], "other": [3]}


def test_what_is_deleted_is_gone_from_both() -> None:
    ctx = _both()
    del ctx.metadata["both"]
    assert ctx.metadata.pop("a") == 1
    assert ctx.metadata.pop("none", 5) == 5
    assert (ctx.agent_context, ctx.audit_metadata) == ({}, {"b": 2})
    with pytest.raises(KeyError):
        del ctx.metadata["both"]


def test_update_and_clear() -> None:
    ctx = _child()
    ctx.metadata.update({"b": 5}, c=6)
    ctx.metadata |= {"d": 7}
    assert ctx.audit_metadata["b"] == 5
    assert (ctx.agent_context["c"], ctx.agent_context["d"]) == (6, 7)
    ctx.metadata.clear()
    assert ctx.metadata == {"operation_depth": 1, "parent_request_id": ctx.parent_request_id}


def test_a_view_that_is_written_is_a_copy() -> None:
    parent, child = make(agent_context={"x": 1}), make()
    child.metadata["parent"] = parent.metadata
    child.metadata["parent"]["x"] = 2
    assert parent.agent_context == {"x": 1}
    assert child.verify_isolation()


@pytest.mark.parametrize(
    "key",
    "user_id thread_id run_id request_id created_at db_session websocket_client_id".split(),
)
def test_a_fact_cannot_be_written_over(key: str) -> None:
    ctx = make()
    with pytest.raises(InvalidContextError, match=f"reserved key `{key}`"):
        ctx.metadata[key] = "bob-22"
    with pytest.raises(InvalidContextError, match=f"reserved key `{key}`"):
        ctx.metadata = {key: "bob-22"}
    assert ctx.metadata == {}


def test_a_shared_object_cannot_be_written() -> None:
    ctx, shared = make(), [1]
    register_shared_object(shared)
    with pytest.raises(SharedObjectError):
        ctx.metadata["x"] = shared
    with pytest.raises(SharedObjectError):
        ctx.metadata = {"x": {"deep": shared}}
    assert ctx.metadata == {}


KEYS = st.sampled_from(["a", "b", "both", "c", "d"])
STEPS = st.one_of(
    st.tuples(st.just("__setitem__"), KEYS, st.integers()),
    st.tuples(st.just("setdefault"), KEYS, st.integers()),
    st.tuples(st.just("pop"), KEYS, st.none()),
    st.tuples(st.just("update"), st.dictionaries(KEYS, st.integers())),
    st.tuples(st.just("__ior__"), st.dictionaries(KEYS, st.integers())),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("clear")),
)


@given(st.lists(STEPS, max_size=12))
def test_whatever_is_done_to_it_a_dict_would_hold_the_same(steps: list[tuple[Any, ...]]) -> None:
    ctx = _both()
    kept, plain = ctx.metadata, ctx.metadata.copy()
    for name, *arguments in steps:
        said = getattr(ctx.metadata, name)(*arguments)
        assert said == getattr(plain, name)(*arguments)
        assert ctx.metadata == kept == plain == {**ctx.agent_context, **ctx.audit_metadata}
        assert set(ctx.audit_metadata) <= {"b", "both"}


# --- assigning --------------------------------------------------------------------------------


def test_an_assigned_mapping_is_copied_into_the_agent_context() -> None:
    ctx, given = _both(), {"list": [1]}
    agent, view = ctx.agent_context, ctx.metadata
    ctx.metadata = given
    assert ctx.agent_context == {"list": [1]}
    assert ctx.agent_context is agent
    assert ctx.audit_metadata == {}
    assert view == {"list": [1]}
    ctx.metadata["list"].append(2)
    ctx.metadata["more"] = 1
    assert given == {"list": [1]}


def test_an_assigned_mapping_keeps_its_lineage_keys() -> None:
    child = _child()
    given = {"operation_depth": 1, "parent_request_id": child.parent_request_id, "x": 1}
    before = dict(given)
    child.metadata = given
    assert given == before
    assert child.agent_context == {"x": 1}
    assert child.metadata == given


def test_one_s_own_metadata_may_be_assigned() -> None:
    ctx = _both()
    ctx.metadata = ctx.metadata
    assert ctx.audit_metadata == {"b": 2, "both": "audit"}
    ctx.metadata = ctx.metadata.copy()
    assert ctx.agent_context == {"a": 1, "b": 2, "both": "audit"}


def test_another_s_metadata_are_copied() -> None:
    ctx, other = make(), make(agent_context={"list": [1]})
    ctx.metadata = other.metadata
    ctx.metadata["list"].append(2)
    assert other.agent_context == {"list": [1]}


@pytest.mark.parametrize("value", [None, [], "text", 5, [("a", 1)]])
def test_only_a_mapping_can_be_assigned(value: Any) -> None:
    ctx = _both()
    with pytest.raises(WrongTypeError, match="`metadata` must be a `dict`"):
        ctx.metadata = value
    assert len(ctx.metadata) == 3


# --- lineage is never forged ------------------------------------------------------------------

FORGED = [
    ("operation_depth", 0), ("operation_depth", 2), ("operation_depth", -1000),
    ("operation_depth", True), ("operation_depth", "1"), ("operation_depth", None),
    ("parent_request_id", "q-9"), ("parent_request_id", None), ("parent_request_id", ""),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FORGED)
def test_lineage_that_is_not_its_own_is_refused(key: str, value: Any) -> None:
    child = _child()
    before = child.metadata.copy()
    with pytest.raises(InvalidContextError) as caught:
        child.metadata[key] = value
    assert (caught.value.field, caught.value.rule) == (f"metadata[{key!r}]", "lineage")
    with pytest.raises(InvalidContextError):
        child.metadata.update({key: value})
    with pytest.raises(InvalidContextError):
        child.metadata = {"x": 1, key: value}
    assert child.metadata == before


def test_a_root_has_no_lineage_to_be_given() -> None:
    ctx = make()
    for key, value in (("operation_depth", 1), ("parent_request_id", "q-0")):
        with pytest.raises(InvalidContextError):
            ctx.metadata[key] = value
        with pytest.raises(KeyError):
            del ctx.metadata[key]
    ctx.metadata["operation_depth"] = 0
    ctx.metadata["parent_request_id"] = None
    assert ctx.metadata == ctx.agent_context == {}


def test_its_own_lineage_may_be_written_and_is_stored_nowhere() -> None:
    child = _child()
    child.metadata.clear()
    child.metadata["operation_depth"] = 1
    child.metadata["parent_request_id"] = child.parent_request_id
    assert child.agent_context == child.audit_metadata == {}


def test_lineage_cannot_be_deleted() -> None:
    child = _child()
    for key in ("operation_depth", "parent_request_id"):
        with pytest.raises(InvalidContextError, match="cannot be deleted"):
            del child.metadata[key]
        with pytest.raises(InvalidContextError):
            child.metadata.pop(key)
        assert key in child.metadata


def test_lineage_that_the_data_claim_is_not_believed() -> None:
    ctx = make(agent_context={"operation_depth": 7}, audit_metadata={"parent_request_id": "q-9"})
    assert ctx.metadata == {}
    child = _child()
    child.agent_context["operation_depth"] = 7
    child.audit_metadata["parent_request_id"] = "q-9"
    assert child.metadata["operation_depth"] == 1
    assert child.metadata["parent_request_id"] == child.parent_request_id
    assert child.to_dict()["metadata"]["operation_depth"] == 1
