"""The context: the contract's constructor and methods, and the ways it was wrong before."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import inspect
import json
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from starlette.requests import Request

from ringfence import (
    ContextClosedError,
    ContextIsolationError,
    ContextLimitError,
    InvalidContextError,
    Ringfence,
    SessionIsolationError,
    Settings,
    SharedObjectError,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    current_scope,
    managed_user_context,
    register_shared_object,
    user_context,
    validate_user_context,
)

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
RESERVED = (
    "user_id thread_id run_id request_id created_at db_session websocket_client_id".split()
)  # fmt: skip


class Session:
    """Stands for an `AsyncSession`."""

    async def close(self) -> None:
        pass


def _make(**given: Any) -> UserExecutionContext:
    return UserExecutionContext(
        **{"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1", **given}
    )


# --- the constructor --------------------------------------------------------------------------


def test_the_old_positional_order_is_kept() -> None:
    session = Session()
    ctx = UserExecutionContext(
        "alice-1", "t-1", "r-1", "q-1", session, "ws-1", NOON, {"a": 1}, {"b": 2}, 3, "q-0"
    )
    assert (ctx.user_id, ctx.thread_id, ctx.run_id, ctx.request_id) == (
        "alice-1", "t-1", "r-1", "q-1",
    )  # fmt: skip
    assert ctx.db_session is session
    assert (ctx.websocket_client_id, ctx.created_at) == ("ws-1", NOON)
    assert (ctx.agent_context, ctx.audit_metadata) == ({"a": 1}, {"b": 2})
    assert (ctx.operation_depth, ctx.parent_request_id) == (3, "q-0")


def test_our_own_fields_come_after_and_are_keyword_only() -> None:
    parameters = list(inspect.signature(UserExecutionContext).parameters.values())
    assert [p.name for p in parameters] == (
        "user_id thread_id run_id request_id db_session websocket_client_id created_at "
        "agent_context audit_metadata operation_depth parent_request_id "
        "tenant_id expires_at client_request_id"
    ).split()
    assert {p.kind.name for p in parameters[:11]} == {"POSITIONAL_OR_KEYWORD"}
    assert {p.kind.name for p in parameters[11:]} == {"KEYWORD_ONLY"}
    with pytest.raises(TypeError, match="positional arguments"):
        UserExecutionContext(*["x"] * 12)  # type: ignore[misc]


def test_what_is_not_given() -> None:
    before = dt.datetime.now(dt.UTC)
    one, two = _make(), _make()
    assert one.request_id != two.request_id
    assert len(one.request_id) == 36
    assert one.db_session is one.websocket_client_id is one.parent_request_id is None
    assert one.tenant_id is one.expires_at is one.client_request_id is None
    assert (one.agent_context, one.audit_metadata, one.operation_depth) == ({}, {}, 0)
    assert one.agent_context is not two.agent_context
    assert not one.has_db_session
    assert before - dt.timedelta(seconds=1) <= one.created_at <= dt.datetime.now(dt.UTC)
    assert one.created_at.tzinfo is dt.UTC
    assert one.created_at is one.created_at


@pytest.mark.parametrize("missing", ["user_id", "thread_id", "run_id"])
def test_three_ids_are_required(missing: str) -> None:
    given = {"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1"}
    del given[missing]
    with pytest.raises(TypeError, match=missing):
        UserExecutionContext(**given)


def test_a_refused_construction_leaves_nothing_writable() -> None:
    bare = object.__new__(UserExecutionContext)
    with pytest.raises(InvalidContextError):
        bare.__init__("alice-1", "test", "r-1")  # type: ignore[misc]
    ctx = _make()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ctx.user_id = "bob-22"  # type: ignore[misc]
    assert type(ctx) is UserExecutionContext


def test_a_context_cannot_be_made_over() -> None:
    ctx = _make()
    with pytest.raises(InvalidContextError, match="was made already"):
        ctx.__init__("bob-22", "t-2", "r-2")  # type: ignore[misc]
    assert ctx.user_id == "alice-1"


# --- times and depths -------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["created_at", "expires_at"])
@pytest.mark.parametrize(
    "value",
    [dt.datetime(2030, 1, 1), "2030-01-01T00:00:00+00:00", 1_900_000_000, dt.date(2030, 1, 1)],
    ids=["naive", "text", "number", "date"],
)
def test_a_time_is_aware(field: str, value: Any) -> None:
    with pytest.raises(
        WrongTypeError, match=f"`{field}` must be a `datetime` with a time"
    ) as caught:
        _make(**{field: value})
    assert (caught.value.field, caught.value.rule) == (field, "type")


@pytest.mark.parametrize("field", ["created_at", "expires_at"])
def test_a_time_is_kept_in_utc(field: str) -> None:
    east = NOON.astimezone(dt.timezone(dt.timedelta(hours=5)))
    value = getattr(_make(**{field: east}), field)
    assert value == NOON
    assert value.tzinfo is dt.UTC


@pytest.mark.parametrize("field", ["created_at", "expires_at"])
@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=14))),
    ],
    ids=["first", "last"],
)
def test_a_time_beyond_all_time_is_refused(field: str, value: dt.datetime) -> None:
    with pytest.raises(InvalidContextError, match=f"`{field}` is out of range"):
        _make(**{field: value})


@pytest.mark.parametrize("depth", ["7", 1.0, True, None, b"1"])
def test_a_depth_is_a_whole_number(depth: Any) -> None:
    with pytest.raises(WrongTypeError, match="`operation_depth` must be an `int`"):
        _make(operation_depth=depth)


@pytest.mark.parametrize("depth", [-1, -1000, 11, 10**9])
def test_a_depth_is_within_its_limits(depth: int) -> None:
    with pytest.raises(
        ContextLimitError, match=f"`operation_depth` is {depth}; 0 to 10 are allowed"
    ):
        _make(operation_depth=depth)


def test_depth_ten_is_the_deepest() -> None:
    ctx = _make()
    for depth in range(1, 11):
        ctx = ctx.create_child_context(f"op-{depth}")
        assert ctx.operation_depth == depth
    with pytest.raises(ContextLimitError, match="depth 11; 10 is the deepest") as caught:
        ctx.create_child_context("deeper")
    assert isinstance(caught.value, InvalidContextError)
    with pytest.raises(ContextLimitError):
        _make(operation_depth=10).create_child_context("deeper")


async def test_the_depth_limit_is_the_fences() -> None:
    fence = Ringfence(settings=Settings(max_depth=1))
    async with fence.user_context("alice-1") as ctx:
        child = ctx.create_child_context("one")
        with pytest.raises(ContextLimitError, match="1 is the deepest"):
            child.create_child_context("two")


# --- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["agent_context", "audit_metadata"])
@pytest.mark.parametrize("data", [[], "text", 5, (("a", 1),), {"a"}, object, b"", False])
def test_data_are_a_dict(field: str, data: Any) -> None:
    with pytest.raises(WrongTypeError, match=f"`{field}` must be a `dict`, not `") as caught:
        _make(**{field: data})
    assert (caught.value.field, caught.value.rule) == (field, "type")


@pytest.mark.parametrize("field", ["agent_context", "audit_metadata"])
@pytest.mark.parametrize("key", RESERVED)
def test_no_key_may_be_a_fact(field: str, key: str) -> None:
    with pytest.raises(InvalidContextError, match=f"`{field}` holds the reserved key `{key}`"):
        _make(**{field: {"fine": 1, key: "x"}})
    with pytest.raises(InvalidContextError, match=f"reserved key `{key}`"):
        user_context("alice-1", **{field: {key: "x"}})
    with pytest.raises(InvalidContextError, match=f"reserved key `{key}`"):
        _make().create_child_context("tool", {key: 1})
    with pytest.raises(InvalidContextError, match=f"reserved key `{key}`"):
        _make().create_child_context("tool", None, {key: 1})


def test_all_reserved_keys_are_named() -> None:
    with pytest.raises(InvalidContextError, match="reserved key `run_id`, `user_id`"):
        _make(agent_context={"user_id": 1, "run_id": 2})


def test_a_reserved_word_deeper_down_is_no_key_of_ours() -> None:
    assert _make(agent_context={"message": {"user_id": "x"}}).agent_context["message"]


def test_a_dictionary_that_was_only_looked_at_is_not_shared_with_a_copy() -> None:
    ctx = _make()
    assert ctx.agent_context == ctx.audit_metadata == {}
    for duplicate in (copy.copy(ctx), ctx.with_db_session(Session())):
        duplicate.agent_context["x"] = 1
        duplicate.audit_metadata["x"] = 1
    assert ctx.agent_context == ctx.audit_metadata == {}


async def test_nor_with_the_scopes_that_it_opens() -> None:
    ctx = _make(agent_context={}, audit_metadata={})
    assert ctx.agent_context == {}
    async with user_context(ctx) as one, user_context(ctx) as two:
        one.agent_context["x"] = 1
        assert two.agent_context == ctx.agent_context == {}


def test_two_threads_that_touch_it_first_get_one_dictionary() -> None:
    both_inside = threading.Barrier(2)

    class Slow(UserExecutionContext):
        def _lineage(self, slot: str) -> dict[str, Any]:
            with contextlib.suppress(threading.BrokenBarrierError):
                both_inside.wait(timeout=0.05)
            return super()._lineage(slot)

    ctx, got = Slow("alice-1", "t-1", "r-1"), []
    threads = [threading.Thread(target=lambda: got.append(ctx.agent_context)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0] is got[1]


# --- from_request, from_fastapi_request -------------------------------------------------------


def test_from_request_has_the_old_signature() -> None:
    session = Session()
    ctx = UserExecutionContext.from_request(
        "alice-1", "t-1", "r-1", "q-1", session, "ws-1", {"a": 1}, {"b": 2}
    )
    assert (ctx.request_id, ctx.websocket_client_id) == ("q-1", "ws-1")
    assert ctx.db_session is session
    assert (ctx.agent_context, ctx.audit_metadata) == ({"a": 1}, {"b": 2})
    assert (
        list(inspect.signature(UserExecutionContext.from_request).parameters)
        == (
            "user_id thread_id run_id request_id db_session websocket_client_id agent_context "
            "audit_metadata"
        ).split()
    )
    assert UserExecutionContext.from_request("alice-1", "t-1", "r-1").operation_depth == 0


def _request(headers: dict[str, str], **scope: Any) -> Request:
    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    facts = {
        "type": "http", "method": "POST", "scheme": "https", "server": ("api.example", 443),
        "path": "/agent/chat", "query_string": b"token=SECRET", "client": ("203.0.113.9", 1),
        "headers": raw,
    }  # fmt: skip
    return Request({**facts, **scope})


def test_from_fastapi_request_has_the_old_signature() -> None:
    assert list(inspect.signature(UserExecutionContext.from_fastapi_request).parameters) == (
        "request user_id thread_id run_id db_session websocket_client_id".split()
    )


def test_a_request_is_recorded_in_the_audit_metadata_and_the_request_id_is_our_own() -> None:
    session = Session()
    request = _request({"user-agent": "curl/8", "x-request-id": "theirs", "traceparent": "00-1"})
    ctx = UserExecutionContext.from_fastapi_request(
        request, "alice-1", "t-1", "r-1", session, "ws-1"
    )
    assert ctx.audit_metadata == {
        "client_ip": "203.0.113.9", "user_agent": "curl/8", "method": "POST",
        "url": "https://api.example/agent/chat", "content_type": "unknown",
        "x_request_id": "theirs", "traceparent": "00-1",
    }  # fmt: skip
    assert ctx.agent_context == {}
    assert ctx.request_id != "theirs"
    assert ctx.client_request_id is None
    assert ctx.db_session is session
    assert ctx.websocket_client_id == "ws-1"


def test_no_secret_of_a_request_is_kept_and_nothing_is_long() -> None:
    request = _request({"user-agent": "u" * 10_000, "authorization": "SECRET", "cookie": "SECRET"})
    ctx = UserExecutionContext.from_fastapi_request(request, "alice-1", "t-1", "r-1")
    assert "SECRET" not in json.dumps(ctx.to_dict())
    assert max(map(len, ctx.audit_metadata.values())) == 512


# --- children ---------------------------------------------------------------------------------


def test_a_child_has_the_same_identity_and_its_own_request() -> None:
    session = Session()
    parent = _make(
        db_session=session, websocket_client_id="ws-1", tenant_id="acme", expires_at=NOON,
        client_request_id="c-1", agent_context={"a": [1]}, audit_metadata={"b": [2]},
    )  # fmt: skip
    child = parent.create_child_context("analyse", {"extra": 1}, {"why": "asked"})
    for field in "user_id thread_id run_id websocket_client_id tenant_id expires_at".split():
        assert getattr(child, field) == getattr(parent, field)
    assert child.client_request_id == "c-1"
    assert child.db_session is session
    assert child.request_id not in (parent.request_id, None)
    assert (child.operation_depth, child.parent_request_id) == (1, parent.request_id)
    assert child.created_at >= parent.created_at


def test_what_a_childs_data_say() -> None:
    parent = _make(agent_context={"a": [1]}, audit_metadata={"b": [2]})
    child = parent.create_child_context("analyse", {"extra": 1}, {"why": "asked"})
    assert child.agent_context == {
        "a": [1], "extra": 1,
        "parent_operation": "root", "operation_name": "analyse", "operation_depth": 1,
    }  # fmt: skip
    assert child.audit_metadata == {
        "b": [2], "why": "asked", "parent_request_id": parent.request_id,
        "operation_name": "analyse", "operation_depth": 1,
        "child_created_at": child.created_at.isoformat(),
    }  # fmt: skip
    grandchild = child.create_child_context("fetch")
    assert grandchild.agent_context["parent_operation"] == "analyse"
    assert grandchild.agent_context["operation_name"] == "fetch"
    assert grandchild.agent_context["extra"] == 1
    assert grandchild.audit_metadata["parent_request_id"] == child.request_id
    assert parent.agent_context == {"a": [1]}
    assert parent.audit_metadata == {"b": [2]}


def test_a_bare_childs_data_say_the_same() -> None:
    """They are made when somebody asks."""
    child = _make().create_child_context("analyse")
    assert set(child.agent_context) == {"parent_operation", "operation_name", "operation_depth"}
    assert set(child.audit_metadata) == {
        "parent_request_id", "operation_name", "operation_depth", "child_created_at",
    }  # fmt: skip


def test_additions_win_over_what_was_inherited_but_never_over_lineage() -> None:
    parent = _make(agent_context={"step": 1}, audit_metadata={"step": 1})
    forged = {
        "step": 2, "parent_operation": "forged", "operation_name": "forged",
        "operation_depth": -1000, "parent_request_id": "forged", "child_created_at": "forged",
    }  # fmt: skip
    child = parent.create_child_context("analyse", forged, forged)
    assert child.agent_context["step"] == child.audit_metadata["step"] == 2
    assert child.agent_context["operation_depth"] == 1
    assert child.agent_context["operation_name"] == "analyse"
    assert child.agent_context["parent_operation"] == "root"
    assert child.audit_metadata["parent_request_id"] == parent.request_id
    assert child.audit_metadata["operation_depth"] == 1
    assert child.audit_metadata["child_created_at"] == child.created_at.isoformat()
    assert child.create_child_context("next").operation_depth == 2


def test_a_childs_data_are_copies_in_both_directions() -> None:
    addition = {"list": [1]}
    parent = _make(agent_context={"deep": {"list": [1]}})
    child = parent.create_child_context("analyse", {"mine": addition})
    addition["list"].append(2)
    parent.agent_context["deep"]["list"].append(2)
    child.agent_context["deep"]["list"].append(3)
    assert child.agent_context["mine"] == {"list": [1]}
    assert child.agent_context["deep"] == {"list": [1, 3]}
    assert parent.agent_context == {"deep": {"list": [1, 2]}}


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u3000"])
def test_a_blank_operation_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidContextError, match="`operation_name` is blank") as caught:
        _make().create_child_context(name)
    assert (caught.value.field, caught.value.rule) == ("operation_name", "blank")


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"]])
def test_an_operation_name_is_text(name: Any) -> None:
    with pytest.raises(WrongTypeError, match="`operation_name` is no `str`"):
        _make().create_child_context(name)


@pytest.mark.parametrize("additions", [[], "x", 5])
def test_additions_are_dicts(additions: Any) -> None:
    with pytest.raises(WrongTypeError, match="`agent_context` must be a `dict`"):
        _make().create_child_context("tool", additions)
    with pytest.raises(WrongTypeError, match="`audit_metadata` must be a `dict`"):
        _make().create_child_context("tool", None, additions)


async def test_a_child_of_an_open_context_belongs_to_its_scope() -> None:
    async with user_context("alice-1", db_session=Session()) as ctx:
        child = ctx.create_child_context("tool")
        assert child.db_session is ctx.db_session
    with pytest.raises(ContextClosedError):
        _ = child.db_session


# --- subclasses -------------------------------------------------------------------------------


class Bare(UserExecutionContext):
    """As a team's own class with a method."""

    def shout(self) -> str:
        return self.user_id.upper()


class WithDict(UserExecutionContext):
    def __init__(self, team: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "team", team)


class WithSlots(UserExecutionContext):
    __slots__ = ("team", "unfilled")

    def __init__(self, team: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "team", team)


class OneSlot(UserExecutionContext):
    __slots__ = "team"

    def __init__(self, team: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "team", team)


class Private(UserExecutionContext):
    __slots__ = ("__team",)

    def __init__(self, team: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_Private__team", team)

    @property
    def team(self) -> str:
        return str(self.__team)


class Grand(WithSlots):
    __slots__ = ("more",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("red", *args, **kwargs)
        object.__setattr__(self, "more", 1)


IDS = ("alice-1", "t-1", "r-1")
SUBCLASSED: dict[str, Callable[[], Any]] = {
    "dict": lambda: WithDict("red", *IDS),
    "slots": lambda: WithSlots("red", *IDS),
    "one slot": lambda: OneSlot("red", *IDS),
    "private": lambda: Private("red", *IDS),
    "grandchild": lambda: Grand(*IDS),
}
MAKERS: list[Callable[[], Any]] = list(SUBCLASSED.values())


@pytest.mark.parametrize("make", [lambda: Bare(*IDS), *MAKERS], ids=["bare", *SUBCLASSED])
def test_a_subclasss_others_are_of_that_subclass_and_frozen(make: Callable[[], Any]) -> None:
    ctx = make()
    others = [
        ctx.create_child_context("tool", {"x": 1}),
        ctx.create_child_context("tool").create_child_context("deeper"),
        copy.copy(ctx),
        copy.deepcopy(ctx),
        ctx.with_db_session(Session()),
        ctx.with_websocket_connection("ws-1"),
    ]
    for other in others:
        assert type(other) is type(ctx)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            other.user_id = "bob-22"
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            other.team = "blue"
        assert other.verify_isolation()


@pytest.mark.parametrize("make", MAKERS, ids=list(SUBCLASSED))
async def test_what_a_subclass_adds_goes_with_it(make: Callable[[], Any]) -> None:
    ctx = make()
    async with user_context(ctx) as bound:
        async with child_context("tool") as child:
            for other in (
                ctx.create_child_context("tool"), copy.copy(ctx), bound, child,
                ctx.with_db_session(Session()), bound.create_child_context("tool"),
            ):  # fmt: skip
                assert other.team == "red"
                assert type(other) is type(ctx)
                if isinstance(ctx, Grand):
                    assert other.more == 1
    if isinstance(ctx, WithSlots):
        assert not hasattr(copy.copy(ctx), "unfilled")


def test_a_subclass_has_the_class_methods_too() -> None:
    assert type(Bare.from_request(*IDS)) is Bare
    assert Bare.from_request(*IDS).shout() == "ALICE-1"
    assert type(Bare.from_fastapi_request(_request({}), *IDS)) is Bare


# --- changed copies ---------------------------------------------------------------------------


def test_with_db_session_changes_the_session_only() -> None:
    ctx, session = _make(agent_context={"a": [1]}), Session()
    changed = ctx.with_db_session(session)
    assert changed.db_session is session
    assert changed.has_db_session
    assert ctx.db_session is None
    assert changed.request_id == ctx.request_id
    assert changed.agent_context == ctx.agent_context
    assert changed.agent_context["a"] is not ctx.agent_context["a"]
    assert changed != ctx
    assert changed.with_db_session(session) == changed


def test_with_websocket_connection_changes_the_connection_only() -> None:
    ctx = _make(websocket_client_id="ws-1", db_session=Session())
    changed = ctx.with_websocket_connection("ws-2")
    assert (changed.websocket_client_id, ctx.websocket_client_id) == ("ws-2", "ws-1")
    assert changed.request_id == ctx.request_id
    assert changed.db_session is ctx.db_session


def test_no_session_and_no_connection_are_refused() -> None:
    with pytest.raises(InvalidContextError, match="`db_session` is None"):
        _make().with_db_session(None)
    for value in (None, "", " ", "test", 5):
        with pytest.raises(InvalidContextError, match="`websocket_client_id`"):
            _make().with_websocket_connection(value)  # type: ignore[arg-type]


def test_a_childs_own_session_is_not_its_parents() -> None:
    parent = _make(db_session=Session())
    child = parent.create_child_context("tool")
    assert child.has_inherited_session
    assert not parent.has_inherited_session
    assert not child.with_db_session(Session()).has_inherited_session


# --- what it says of itself -------------------------------------------------------------------


def test_to_dict_has_every_fact_and_no_session() -> None:
    ctx = _make(
        request_id="q-1", db_session=Session(), websocket_client_id="ws-1", created_at=NOON,
        agent_context={"a": (1,)}, audit_metadata={"b": {2}}, operation_depth=1,
        parent_request_id="q-0", tenant_id="acme", expires_at=NOON, client_request_id="c-1",
    )  # fmt: skip
    assert ctx.to_dict() == {
        "user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1", "request_id": "q-1",
        "websocket_client_id": "ws-1", "created_at": NOON.isoformat(), "agent_context": {"a": [1]},
        "audit_metadata": {"b": [2]}, "operation_depth": 1, "parent_request_id": "q-0",
        "has_db_session": True, "tenant_id": "acme", "expires_at": NOON.isoformat(),
        "client_request_id": "c-1",
    }  # fmt: skip
    json.dumps(ctx.to_dict())
    assert _make().to_dict()["has_db_session"] is False
    assert _make().to_dict()["expires_at"] is None


def test_to_dict_is_a_copy() -> None:
    ctx = _make(agent_context={"a": [1]})
    ctx.to_dict()["agent_context"]["a"].append(2)
    assert ctx.agent_context == {"a": [1]}


def test_the_correlation_id_is_four_times_eight_characters() -> None:
    ctx = _make(user_id="u" * 20, thread_id="t-1", run_id="r" * 8, request_id="q" * 9)
    assert ctx.get_correlation_id() == f"{'u' * 8}:t-1:{'r' * 8}:{'q' * 8}"


def test_the_audit_trail() -> None:
    created = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=60)
    ctx = _make(
        request_id="q-1", created_at=created, audit_metadata={"why": (1,), "token": "SECRET"},
        websocket_client_id="ws-1", db_session=Session(),
    )  # fmt: skip
    trail = ctx.get_audit_trail()
    age = trail.pop("context_age_seconds")
    assert 60 <= age < 90
    assert trail == {
        "user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1", "request_id": "q-1",
        "correlation_id": "alice-1:t-1:r-1:q-1", "operation_depth": 0, "parent_request_id": None,
        "has_db_session": True, "has_websocket": True,
        "audit_metadata": {"why": [1], "token": "[redacted]"},
    }  # fmt: skip
    bare = _make().get_audit_trail()
    assert (bare["has_db_session"], bare["has_websocket"]) == (False, False)
    json.dumps(trail)


def test_the_audit_facts_of_the_caller_are_not_overwritten() -> None:
    facts = {"isolation_verified": False, "created": "mine", "operation_name": "mine"}
    ctx = _make(audit_metadata=facts)
    ctx.verify_isolation()
    assert ctx.audit_metadata == facts


def test_the_repr_names_requests_and_no_user_and_no_data() -> None:
    ctx = _make(request_id="q-1", db_session=Session(), agent_context={"k": "SECRET"})
    text = repr(ctx)
    assert text == (
        "UserExecutionContext(request_id='q-1', thread_id='t-1', run_id='r-1', operation_depth=0)"
    )
    assert repr(Bare(*IDS)).startswith("Bare(request_id=")


# --- equality and hash ------------------------------------------------------------------------


def test_equal_if_all_facts_and_data_are_and_the_session_is_the_same() -> None:
    session = Session()
    given: dict[str, Any] = {
        "request_id": "q-1", "created_at": NOON, "db_session": session, "agent_context": {"a": [1]},
        "audit_metadata": {"b": 1}, "websocket_client_id": "ws-1", "operation_depth": 1,
        "parent_request_id": "q-0", "tenant_id": "acme", "expires_at": NOON,
        "client_request_id": "c-1",
    }  # fmt: skip
    ctx = _make(**given)
    assert ctx == _make(**given)
    assert hash(ctx) == hash(_make(**given))
    others: dict[str, Any] = {
        "user_id": "bob-22", "thread_id": "t-2", "run_id": "r-2", "request_id": "q-2",
        "created_at": NOON + dt.timedelta(1), "db_session": Session(), "agent_context": {"a": [2]},
        "audit_metadata": {}, "websocket_client_id": None, "operation_depth": 2,
        "parent_request_id": None, "tenant_id": "other", "expires_at": None,
        "client_request_id": None,
    }  # fmt: skip
    for field, value in others.items():
        assert ctx != _make(**{**given, field: value}), field


def test_it_is_hashable_and_a_key_stays_a_key_when_its_data_change() -> None:
    ctx = _make(agent_context={"a": 1})
    seen = {ctx}
    ctx.agent_context["a"] = 2
    assert ctx in seen
    assert len({ctx, copy.copy(ctx), _make()}) == 2


def test_it_equals_nothing_else() -> None:
    ctx = _make()
    assert ctx != ctx.to_dict()
    assert ctx != None  # noqa: E711
    assert (ctx == 5) is False
    assert _make() != _make()


# --- validate_user_context --------------------------------------------------------------------


def test_a_valid_context_is_returned() -> None:
    ctx, sub = _make(), Bare(*IDS)
    assert validate_user_context(ctx) is ctx
    assert validate_user_context(sub) is sub


@pytest.mark.parametrize("value", [None, {}, "alice-1", Session(), UserExecutionContext])
def test_another_type_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="Expected a `UserExecutionContext`, not a `"):
        validate_user_context(value)


def test_it_looks_like_one_but_is_none() -> None:
    class Duck:
        user_id, thread_id, run_id, request_id = "alice-1", "t-1", "r-1", "q-1"

        def verify_isolation(self) -> bool:
            return True

    with pytest.raises(WrongTypeError, match="not a `Duck`"):
        validate_user_context(Duck())


def test_isolation_is_verified() -> None:
    shared = [1]
    register_shared_object(shared)
    ctx = _make()
    ctx.agent_context["x"] = shared
    with pytest.raises(ContextIsolationError):
        validate_user_context(ctx)
    with pytest.raises(SharedObjectError):
        _make(agent_context={"x": shared})


async def test_one_session_for_two_users_is_found() -> None:
    session = Session()
    async with user_context("alice-1", db_session=session) as alice:
        assert alice.verify_isolation()
        with pytest.raises(SessionIsolationError, match=alice.request_id):
            _make(db_session=session).verify_isolation()
        async with child_context("tool") as child:
            assert child.verify_isolation()
            assert current_scope().root.context is alice


@pytest.mark.parametrize("enter", [user_context, managed_user_context])
async def test_a_context_that_was_verified_may_be_entered_with_its_session(
    enter: Callable[[UserExecutionContext], Any],
) -> None:
    ctx = _make(db_session=Session())
    assert validate_user_context(ctx) is ctx
    for _ in range(2):
        assert ctx.verify_isolation()
        async with enter(ctx) as entered:
            assert entered.verify_isolation()
            assert ctx.verify_isolation()
            assert ctx.create_child_context("tool").verify_isolation()
            with pytest.raises(SessionIsolationError):
                _make(db_session=ctx.db_session).verify_isolation()
    assert ctx.verify_isolation()
    assert len(ctx._claimant().claimed) == 1  # not one more each time


@pytest.mark.parametrize("enter", [user_context, managed_user_context])
async def test_but_not_twice_at_once(enter: Callable[[UserExecutionContext], Any]) -> None:
    ctx = _make(db_session=Session())
    assert ctx.verify_isolation()
    async with enter(ctx):
        with pytest.raises(SessionIsolationError):
            async with user_context(ctx):
                pass
        assert ctx.verify_isolation()
