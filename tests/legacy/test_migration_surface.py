"""
How one code base used the old classes: one test for each pattern that was counted in it.

A name such as `test_57_writes_...` has the number of call sites there. What cannot go on is
tested too: it fails at once and says why.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import types
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

import ringfence
from ringfence import (
    ContextIsolationError,
    InvalidContextError,
    SharedObjectError,
    current_context,
    legacy,
    user_context,
)
from ringfence.legacy import (
    UserExecutionContext,
    clear_shared_object_registry,
    clear_shared_objects,
    managed_user_context,
    register_shared_object,
    validate_user_context,
)

from .words import Session, make, quietly

pytestmark = quietly

IDS: dict[str, Any] = {"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1"}


def _module(source: str) -> dict[str, Any]:
    """The names in a module with this source."""
    module = types.ModuleType("somebodys_module")
    exec(compile(source, "somebodys_module.py", "exec"), vars(module))
    return vars(module)


# --- files and imports ------------------------------------------------------------------------


def test_406_files_mention_the_class_by_its_name() -> None:
    assert UserExecutionContext.__name__ == "UserExecutionContext"
    assert repr(make()).startswith("UserExecutionContext(")


def test_295_files_by_five_sources_get_one_class_that_is_the_canonical_one() -> None:
    assert issubclass(UserExecutionContext, ringfence.UserExecutionContext)


def test_307_imports_from_services_find_their_names() -> None:
    found = _module(
        "from ringfence.legacy import (UserExecutionContext, InvalidContextError, "
        "ContextIsolationError, validate_user_context, managed_user_context, "
        "register_shared_object, clear_shared_object_registry)"
    )
    assert found["managed_user_context"] is ringfence.managed_user_context


def test_30_imports_from_supervisor_find_their_names_and_one_error_class() -> None:
    found = _module(
        "from ringfence.legacy import (UserExecutionContext, InvalidContextError, "
        "validate_user_context, register_shared_object, clear_shared_objects)"
    )
    with pytest.raises(found["InvalidContextError"]):  # theirs was a class of its own
        ringfence.UserExecutionContext("test", "t-1", "r-1")


def test_1_import_from_models_still_catches_value_errors() -> None:
    with pytest.raises(ValueError, match="`user_id` is empty"):
        make(user_id="")


def test_3_imports_from_the_execution_factory_are_for_a_person_and_fail_at_once() -> None:
    """That class was mutable, had no `run_id`, and counted runs."""
    with pytest.raises(TypeError, match="run_id"):
        UserExecutionContext(user_id="alice-1", request_id="q-1", thread_id="t-1")  # type: ignore[call-arg]
    for gone in ("active_runs", "run_history", "execution_metrics", "status", "cleanup"):
        assert not hasattr(make(), gone)


def test_2_imports_from_the_corpus_admin_meet_an_immutable_class() -> None:
    with pytest.raises(AttributeError):
        make().user_id = "bob-22"  # type: ignore[misc]


def test_1_import_of_a_module_that_never_was_fails_as_before() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ringfence.legacy.core")


IMPORT = "from ringfence.legacy import UserExecutionContext"
PLACES = {
    "263 at module level": IMPORT,
    "53 in a function": f"def make():\n    {IMPORT}\n    return UserExecutionContext\n"
    "UserExecutionContext = make()",
    "22 under TYPE_CHECKING": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {IMPORT}\n"
    f"def run(ctx: 'UserExecutionContext') -> None: ...\n{IMPORT}",
    "6 in try": f"try:\n    {IMPORT}\nexcept ImportError:\n    UserExecutionContext = None",
}


@pytest.mark.parametrize("source", PLACES.values(), ids=PLACES)
def test_344_imports_work_wherever_they_stand(source: str) -> None:
    assert _module(source)["UserExecutionContext"] is UserExecutionContext


def test_58_imports_of_several_names_find_them_in_one_place() -> None:
    names = ", ".join(legacy.__all__)
    assert set(legacy.__all__) <= set(_module(f"from ringfence.legacy import ({names})"))


def test_6_imports_have_another_name() -> None:
    found = _module(f"{IMPORT} as SupervisorContext\nctx = SupervisorContext('u-1', 't-1', 'r-1')")
    assert type(found["ctx"]) is UserExecutionContext


def test_16_dotted_paths_in_text_can_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module("ringfence.legacy")
    assert found.validate_user_context is validate_user_context
    monkeypatch.setattr("ringfence.legacy.validate_user_context", lambda ctx: "patched")
    assert legacy.validate_user_context(None) == "patched"  # type: ignore[comparison-overlap]


# --- constructors -----------------------------------------------------------------------------


def test_141_constructors_of_the_supervisor_class() -> None:
    session = Session()
    ctx = UserExecutionContext(
        **IDS, db_session=session, request_id="q-1", session_id="s-1",
        websocket_client_id="ws-1", created_at=None, metadata={"agent": "triage"},
    )  # fmt: skip
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.db_session is session
    assert ctx.metadata == {"session_id": "s-1", "agent": "triage"}


def test_618_constructors_of_the_services_class() -> None:
    ctx = UserExecutionContext(
        **IDS, request_id="q-1", db_session=None, websocket_client_id="ws-1", created_at=None,
        agent_context={"a": 1}, audit_metadata={"b": 2}, operation_depth=1,
        parent_request_id="q-0",
    )  # fmt: skip
    canonical = ringfence.UserExecutionContext(
        **IDS, request_id="q-1", websocket_client_id="ws-1", created_at=ctx.created_at,
        agent_context={"a": 1}, audit_metadata={"b": 2}, operation_depth=1,
        parent_request_id="q-0",
    )  # fmt: skip
    assert ctx == canonical


def test_26_constructors_of_other_classes() -> None:
    """1 of models, 5 of the factory, 3 of the corpus admin, 17 of classes next to their use."""
    ctx = UserExecutionContext(**IDS, request_id="q-1", websocket_client_id="ws-1")
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    with pytest.raises(TypeError, match="run_id"):
        UserExecutionContext(user_id="alice-1", thread_id="t-1", request_id="q-1", session_id="s")  # type: ignore[call-arg]


def test_0_constructors_with_positional_ids_and_they_would_work() -> None:
    session = Session()
    assert UserExecutionContext("alice-1", "t-1", "r-1", "q-1").request_id == "q-1"
    assert UserExecutionContext("alice-1", "t-1", "r-1", session).db_session is session


def test_4_constructors_with_keywords_from_a_dictionary() -> None:
    assert UserExecutionContext(**{**IDS, "metadata": {"a": 1}}).agent_context == {"a": 1}


def test_142_constructors_with_metadata() -> None:
    given = {"agent": "triage", "operation_depth": 1, "parent_request_id": "q-0"}
    ctx = make(metadata=given)
    assert ctx.metadata == given
    assert ctx.agent_context == {"agent": "triage"}
    assert (ctx.operation_depth, ctx.parent_request_id) == (1, "q-0")


def test_59_constructors_with_websocket_connection_id() -> None:
    assert make(websocket_connection_id="ws-1").websocket_client_id == "ws-1"


def test_41_constructors_with_session_id() -> None:
    assert make(session_id="s-1").agent_context == {"session_id": "s-1"}


def test_91_constructors_without_run_id_are_for_a_person_and_fail_at_once() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'run_id'"):
        UserExecutionContext(user_id="alice-1", thread_id="t-1")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "keyword",
    "permissions correlation_id execution_id subscription_tier connection_id jwt_token "
    "database_session is_authenticated".split(),
)
def test_50_keywords_that_no_class_ever_had_fail_as_before(keyword: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'"):
        make(**{keyword: "x"})


# --- factories --------------------------------------------------------------------------------


def test_174_calls_of_from_request() -> None:
    session = Session()
    ctx = UserExecutionContext.from_request(
        **IDS, request_id="q-1", db_session=session, websocket_client_id="ws-1"
    )
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.db_session is session


def test_25_of_them_with_metadata_and_14_with_websocket_connection_id() -> None:
    ctx = UserExecutionContext.from_request(
        **IDS, metadata={"a": 1}, websocket_connection_id="ws-1"
    )
    assert (ctx.agent_context, ctx.websocket_client_id) == ({"a": 1}, "ws-1")


def test_15_of_them_with_positional_ids() -> None:
    ctx = UserExecutionContext.from_request("alice-1", "t-1", "r-1", "q-1", None, "ws-1", {"a": 1})
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.metadata == {"a": 1}


def test_2_calls_of_from_request_supervisor() -> None:
    ctx = UserExecutionContext.from_request_supervisor(
        **IDS, websocket_connection_id="ws-1", metadata={"a": 1}
    )
    assert (ctx.websocket_connection_id, ctx.metadata) == ("ws-1", {"a": 1})


def test_3_calls_of_from_fastapi_request() -> None:
    facts = {"type": "http", "method": "POST", "path": "/agent/chat", "headers": []}
    request = Request({**facts, "query_string": b"", "server": ("api.example", 80)})
    ctx = UserExecutionContext.from_fastapi_request(request, **IDS)
    assert type(ctx) is UserExecutionContext
    assert (ctx.metadata["method"], ctx.metadata["client_ip"]) == ("POST", "unknown")


# --- children ---------------------------------------------------------------------------------


def test_44_children_by_one_positional_argument() -> None:
    child = make().create_child_context("analyse")
    assert (child.operation_depth, child.metadata["operation_name"]) == (1, "analyse")


def test_12_children_with_a_positional_dict() -> None:
    assert (
        make().create_child_context("sub_operation", {"extra": "data"}).metadata["extra"] == "data"
    )


def test_18_children_with_additional_metadata_and_1_with_both_kinds() -> None:
    child = make().create_child_context(operation_name="analyse", additional_metadata={"a": 1})
    assert child.metadata["a"] == 1
    child = make().create_child_context(
        "analyse", additional_agent_context={"a": 1}, additional_metadata={"b": 2}
    )
    assert (child.metadata["a"], child.metadata["b"]) == (1, 2)


def test_18_children_with_canonical_additions() -> None:
    child = make().create_child_context(
        "analyse", additional_agent_context={"a": 1}, additional_audit_metadata={"b": 2}
    )
    assert (child.agent_context["a"], child.audit_metadata["b"]) == (1, 2)


def test_2_children_with_metadata() -> None:
    assert make().create_child_context("analyse", metadata={"a": 1}).metadata["a"] == 1


# --- attributes -------------------------------------------------------------------------------


def test_69_reads_of_websocket_connection_id() -> None:
    assert make(websocket_client_id="ws-1").websocket_connection_id == "ws-1"


def test_67_reads_of_websocket_client_id() -> None:
    assert make(websocket_connection_id="ws-1").websocket_client_id == "ws-1"


def test_7_looks_for_either_name() -> None:
    ctx = make(websocket_client_id="ws-1")
    for name in ("websocket_client_id", "websocket_connection_id"):
        assert hasattr(ctx, name)
        assert getattr(ctx, name, None) == "ws-1"


def test_113_gets_from_ctx_metadata() -> None:
    ctx = make(metadata={"agent": "triage"})
    assert ctx.metadata.get("agent") == "triage"
    assert ctx.metadata.get("none", "default") == "default"


def test_114_reads_of_ctx_metadata_by_key() -> None:
    ctx = make(agent_context={"a": 1}, audit_metadata={"b": 2})
    assert (ctx.metadata["a"], ctx.metadata["b"]) == (1, 2)
    with pytest.raises(KeyError):
        ctx.metadata["none"]


def test_60_questions_whether_a_key_is_in_ctx_metadata() -> None:
    ctx = make(metadata={"a": 1})
    assert "a" in ctx.metadata
    assert "b" not in ctx.metadata


def test_63_uses_of_ctx_metadata_whole_and_6_of_its_copy_items_and_keys() -> None:
    ctx = make(agent_context={"a": 1}, audit_metadata={"b": 2})
    assert ctx.metadata == dict(ctx.metadata) == {**ctx.metadata} == {"a": 1, "b": 2}
    assert json.loads(json.dumps(ctx.metadata)) == copy.deepcopy(ctx.metadata) == {"a": 1, "b": 2}
    mine = ctx.metadata.copy()
    mine["c"] = 3
    assert "c" not in ctx.metadata
    assert sorted(ctx.metadata.keys()) == ["a", "b"]
    assert sorted(ctx.metadata.items()) == [("a", 1), ("b", 2)]


async def test_57_writes_of_ctx_metadata_by_key_stick() -> None:
    ctx = make(audit_metadata={"why": "asked"})
    ctx.metadata["result"] = {"score": 1}
    ctx.metadata["result"]["score"] = 2
    ctx.metadata["why"] = "told"
    assert ctx.metadata["result"] == ctx.agent_context["result"] == {"score": 2}
    assert ctx.metadata["why"] == ctx.audit_metadata["why"] == "told"
    async with user_context(ctx):  # an agent's base class, which reads what is current
        agent: Any = current_context()
        agent.metadata["by_agent"] = True
        assert current_context().agent_context["by_agent"] is True


def test_6_updates_and_pops_of_ctx_metadata_stick() -> None:
    ctx = make(agent_context={"a": 1}, audit_metadata={"b": 2})
    ctx.metadata.update({"a": 5, "c": 3})
    assert ctx.metadata.pop("b") == 2
    assert (ctx.agent_context, ctx.audit_metadata) == ({"a": 5, "c": 3}, {})


def test_6_assignments_of_ctx_metadata() -> None:
    ctx, given = make(audit_metadata={"b": 2}), {"a": [1]}
    ctx.metadata = given
    ctx.metadata["a"].append(2)
    assert (ctx.agent_context, ctx.audit_metadata, given) == ({"a": [1, 2]}, {}, {"a": [1]})


def test_12_questions_whether_there_is_metadata() -> None:
    assert hasattr(make(), "metadata")
    assert not hasattr(ringfence.UserExecutionContext(**IDS), "metadata")


def test_99_reads_of_agent_context_and_40_of_audit_metadata() -> None:
    ctx = make(agent_context={"a": 1}, audit_metadata={"b": 2})
    assert (ctx.agent_context["a"], ctx.audit_metadata["b"]) == (1, 2)


def test_12_reads_of_session_id_work_and_2_writes_fail_at_once() -> None:
    ctx = make(session_id="s-1")
    assert ctx.session_id == "s-1"
    assert make().session_id is None
    with pytest.raises(AttributeError):
        ctx.session_id = "s-2"  # type: ignore[misc]
    ctx.agent_context["session_id"] = "s-2"
    assert ctx.session_id == "s-2"


@pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
def test_38_assignments_of_ids_are_refused(field: str) -> None:
    ctx = make()
    with pytest.raises(AttributeError):
        setattr(ctx, field, "bob-22")
    assert (ctx.user_id, ctx.thread_id, ctx.run_id) == ("alice-1", "t-1", "r-1")


def test_12_uses_of_object_setattr_reach_metadata_and_nothing_that_is_not_there() -> None:
    ctx = make()
    object.__setattr__(ctx, "metadata", {"a": 1})
    assert ctx.agent_context == {"a": 1}
    with pytest.raises(InvalidContextError):
        object.__setattr__(ctx, "metadata", {"operation_depth": 9})
    for name in ("db_session", "session_id", "websocket_connection_id", "cleaned"):
        with pytest.raises(AttributeError):
            object.__setattr__(ctx, name, "x")


def test_3_uses_of_dataclasses_replace_fail_at_once() -> None:
    with pytest.raises(TypeError):
        dataclasses.replace(make(), user_id="bob-22")  # type: ignore[type-var]


# --- functions and methods --------------------------------------------------------------------


def test_29_questions_whether_it_is_a_context() -> None:
    for ctx in (make(), make().create_child_context("tool"), make().with_db_session(Session())):
        assert isinstance(ctx, UserExecutionContext)
        assert isinstance(ctx, ringfence.UserExecutionContext)


async def test_55_calls_of_validate_user_context() -> None:
    ctx = make(db_session=Session(), metadata={"a": [1]})
    assert validate_user_context(ctx) is ctx
    with pytest.raises(TypeError):
        validate_user_context({"user_id": "alice-1"})
    async with user_context(validate_user_context(ctx)) as entered:
        assert validate_user_context(entered) is entered


def test_219_calls_of_four_methods() -> None:
    """`verify_isolation` 55, `get_correlation_id` 90, `with_db_session` 52, the last 22."""
    session, ctx = Session(), make(request_id="12345678-rest")
    assert ctx.verify_isolation() is True
    assert ctx.get_correlation_id() == "alice-1:t-1:r-1:12345678"
    assert ctx.with_db_session(session).db_session is session
    changed = ctx.with_websocket_connection("ws-1")
    assert (changed.websocket_client_id, changed.request_id) == ("ws-1", ctx.request_id)
    for wrong in (ctx.with_db_session, ctx.with_websocket_connection):
        with pytest.raises(InvalidContextError):
            wrong(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "clear",
    [clear_shared_objects, clear_shared_object_registry],
    ids=["9 by the old name", "22 by the new one"],
)
def test_6_registrations_of_shared_objects_and_31_of_their_ends(clear: Callable[[], None]) -> None:
    shared = [1]
    register_shared_object(shared)
    with pytest.raises(SharedObjectError):
        make(metadata={"deep": {"x": shared}})
    clear()
    assert make(metadata={"deep": {"x": shared}})


async def test_11_managed_contexts_16_audit_trails_and_2_conversions_that_are_gone() -> None:
    session = Session()
    async with managed_user_context(make(db_session=session)) as ctx:
        assert type(ctx) is UserExecutionContext
        assert ctx.get_audit_trail()["has_db_session"] is True
        with pytest.raises(AttributeError, match="to_execution_context"):
            ctx.to_execution_context()  # type: ignore[attr-defined]
    assert session.calls == ["close"]


def test_the_errors_are_as_wide_as_the_old_ones() -> None:
    """Two classes of one name, and `ValueError`, became one."""
    assert issubclass(InvalidContextError, ValueError)
    assert legacy.InvalidContextError is InvalidContextError
    assert legacy.ContextIsolationError is ContextIsolationError
