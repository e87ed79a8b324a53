"""What was wrong with the old classes does not come back in their words: thirteen groups of it."""

from __future__ import annotations

import contextvars
import copy
import datetime as dt
import gc
import json
import sys
import threading
import time
from typing import Any

import anyio
import attrs
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from starlette.requests import Request

from ringfence import (
    ContextClosedError,
    ContextIsolationError,
    ContextLimitError,
    InvalidContextError,
    ScopeCloseError,
    SessionIsolationError,
    SharedObjectError,
    child_context,
    clear_shared_object_registry,
    current_context,
    current_scope,
    isolation,
    register_shared_object,
    task_group,
    user_context,
)
from ringfence.integrations.jwt import BearerToken
from ringfence.legacy import (
    UserExecutionContext,
    WebSocketRegistry,
    managed_user_context,
    validate_user_context,
)

from ..integrations.asgi_driver import call, fenced, respond
from .words import Session, make, quietly

pytestmark = quietly


# --- 1. a check for shared objects that could never fire --------------------------------------


def test_1_a_shared_object_is_found_at_any_depth_and_as_the_session() -> None:
    shared = {"cache": []}
    register_shared_object(shared)
    for given in (
        {"metadata": {"x": shared}},
        {"metadata": {"deep": [{"x": (shared,)}]}},
        {"agent_context": {"x": shared}},
        {"db_session": shared},
    ):
        with pytest.raises(SharedObjectError):
            make(**given)
    ctx = make()
    ctx.metadata["deep"] = [{"x": shared}]
    with pytest.raises(SharedObjectError):
        ctx.verify_isolation()


def test_1_one_session_of_two_users_does_not_verify() -> None:
    session = Session()
    alice, bob = make(db_session=session), make(user_id="bob-22", db_session=session)
    assert alice.verify_isolation()
    with pytest.raises(SessionIsolationError):
        bob.verify_isolation()


def test_1_nor_does_one_object_in_the_data_of_two() -> None:
    shared = [1]
    alice, bob = make(), make(user_id="bob-22")
    alice.metadata["x"] = bob.metadata["x"] = shared
    assert alice.verify_isolation()
    with pytest.raises(ContextIsolationError):
        bob.verify_isolation()


# --- 2. ids of objects that were gone ---------------------------------------------------------


def test_2_an_object_whose_id_is_used_again_is_not_accused() -> None:
    accused = 0
    for _ in range(1000):
        alice = make(db_session=Session())
        assert alice.verify_isolation()
        del alice  # and its session: the next one has its id, mostly
        try:
            make(user_id="bob-22", db_session=Session()).verify_isolation()
        except ContextIsolationError:
            accused += 1
    assert accused == 0


def test_2_the_registry_does_not_grow() -> None:
    gc.collect()
    before = len(isolation.registry)
    for _ in range(100):
        make(db_session=Session(), metadata={"x": [1]}).verify_isolation()
    gc.collect()
    assert len(isolation.registry) == before


def test_2_what_is_registered_as_shared_keeps_its_identity() -> None:
    register_shared_object([1])  # nobody else holds it
    gc.collect()
    for _ in range(100):
        assert make(metadata={"x": [1]}).verify_isolation()
    clear_shared_object_registry()


# --- 3. an audit trail that stated what nobody had checked ------------------------------------


def test_3_no_constant_is_stated_and_the_callers_own_facts_stay() -> None:
    facts = {"isolation_verified": False, "created": "mine", "context_version": 7}
    ctx = make(audit_metadata=facts)
    assert ctx.audit_metadata == facts
    assert ctx.get_audit_trail()["audit_metadata"] == facts
    assert "isolation_verified" not in json.dumps(make().to_dict())
    assert "isolation_verified" not in json.dumps(make().get_audit_trail())


# --- 4. writes that were lost -----------------------------------------------------------------


def test_4_what_is_written_to_metadata_is_there() -> None:
    ctx = make()
    ctx.metadata["k"] = "v"
    ctx.metadata.setdefault("list", []).append(1)
    assert ctx.metadata == ctx.agent_context == {"k": "v", "list": [1]}


# --- 5. the caller's own dictionary, and keys that were sorted by substring -------------------


def test_5_the_callers_dictionary_is_left_as_it_was() -> None:
    given = {"operation_depth": 1, "parent_request_id": "q-0", "catalog": [1], "audit_log": 2}
    before = copy.deepcopy(given)
    ctx = UserExecutionContext.from_supervisor_style_request(
        "alice-1", "t-1", "r-1", metadata=given
    )
    make(metadata=given)
    ctx.metadata = given
    ctx.create_child_context("tool", metadata=given)
    assert given == before


@pytest.mark.parametrize("key", "catalog audit_log logger client_ip trace_id blog".split())
def test_5_no_key_goes_to_the_audit_side_for_what_it_contains(key: str) -> None:
    ctx = UserExecutionContext.from_request_supervisor("alice-1", "t-1", "r-1", metadata={key: 1})
    assert (ctx.agent_context, ctx.audit_metadata) == ({key: 1}, {})


# --- 6. children that shared their parent's session -------------------------------------------


async def test_6_closing_a_managed_child_leaves_the_parents_session_open() -> None:
    session = Session()
    async with managed_user_context(make(db_session=session)) as ctx:
        async with managed_user_context(ctx.create_child_context("tool", metadata={"a": 1})):
            pass
        assert session.calls == []
    assert session.calls == ["close"]


async def test_6_tools_at_once_have_data_of_their_own() -> None:
    async def tool(number: int) -> None:
        async with child_context("tool"):
            ctx: Any = current_context()
            ctx.metadata["list"].append(number)
            await anyio.lowlevel.checkpoint()
            assert ctx.metadata["list"] == [0, number]

    async with user_context(make(metadata={"list": [0]})) as ctx:
        async with task_group() as tasks:
            for number in range(1, 6):
                tasks.start_soon(tool, number)
        assert ctx.agent_context["list"] == [0]


# --- 7. placeholders that passed --------------------------------------------------------------

DISGUISES = [
    "placeholder ", " placeholder", "plac\u0435holder", "place\u200bholder", "\uff54\uff45st",
    "placeholder-1", "test.user", "todo", "TEST_user", "demo:1", "none\n", "\ufeffnone",
]  # fmt: skip


@pytest.mark.parametrize("value", DISGUISES, ids=ascii)
@pytest.mark.parametrize("environment", ["", "testing", "development"])
def test_7_a_placeholder_in_disguise_is_refused_everywhere(
    value: str, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    for field in ("user_id", "thread_id", "run_id", "request_id", "websocket_connection_id"):
        with pytest.raises(InvalidContextError):
            make(**{field: value})
    with pytest.raises(InvalidContextError):
        make(metadata={"parent_request_id": value})


# --- 8. fields that nobody validated ----------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"operation_depth": -1000},
        {"metadata": {"operation_depth": -1000}},
        {"metadata": {"operation_depth": "7"}},
        {"metadata": {"parent_request_id": "\n"}},
        {"websocket_connection_id": ""},
        {"websocket_connection_id": 5},
        {"created_at": dt.datetime(2030, 1, 1)},
        {"created_at": "2030-01-01"},
    ],
    ids=str,
)
def test_8_each_field_is_validated_in_either_vocabulary(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidContextError):
        make(**given)


def test_8_the_limit_of_depth_cannot_be_defeated() -> None:
    ctx = make(metadata={"operation_depth": 10})
    for forged in (-1000, "7", 0):
        with pytest.raises(ContextLimitError):
            ctx.create_supervisor_style_child_context("deeper", {"operation_depth": forged})


def test_8_additions_do_not_overwrite_a_childs_lineage() -> None:
    parent = make()
    forged = {"operation_depth": 0, "parent_request_id": "q-9"}
    for child in (
        parent.create_child_context("tool", forged, forged),
        parent.create_child_context("tool", metadata=forged),
        parent.create_supervisor_style_child_context("tool", forged),
    ):
        assert child.metadata["operation_depth"] == 1
        assert child.metadata["parent_request_id"] == parent.request_id


# --- 9. clean-up that failed in silence -------------------------------------------------------


class Stubborn(Session):
    async def close(self) -> None:
        raise OSError("cannot close")


async def test_9_an_error_of_clean_up_is_raised() -> None:
    with pytest.raises(ScopeCloseError) as caught:
        async with managed_user_context(make(db_session=Stubborn())):
            pass
    assert [type(error) for error in caught.value.exceptions] == [OSError]


async def test_9_a_failed_body_is_rolled_back_and_its_error_stays_the_one_raised() -> None:
    session = Session()
    with pytest.raises(LookupError):
        async with managed_user_context(make(db_session=session)):
            raise LookupError
    assert session.calls == ["rollback", "close"]


async def test_9_a_plain_close_is_called_too() -> None:
    class Plain:
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    session = Plain()
    async with managed_user_context(make(db_session=session)):
        pass
    assert session.is_closed


async def test_9_a_cancelled_request_is_cleaned_up_to_the_end() -> None:
    session, cleaned = Session(), []

    async def clean() -> None:
        await anyio.sleep(0.01)
        cleaned.append(1)

    with anyio.move_on_after(0.01):
        async with managed_user_context(make(db_session=session)):
            current_scope().callback(clean)
            current_scope().callback(clean)
            await anyio.sleep_forever()
    assert (cleaned, session.calls) == ([1, 1], ["rollback", "close"])


# --- 10. a finished request that was used again -----------------------------------------------


async def test_10_an_ended_request_is_refused() -> None:
    async with user_context(make(db_session=Session())) as ctx:
        held = contextvars.copy_context()
    for use in (current_context, current_scope, lambda: ctx.db_session):
        with pytest.raises(ContextClosedError):
            held.run(use)
    ctx.metadata["note"] = "facts stay readable"  # they are data
    assert ctx.metadata["note"]


# --- 11. identity by field --------------------------------------------------------------------


def test_11_contexts_are_hashable_and_equal_for_reasons() -> None:
    ctx, session = make(request_id="q-1", metadata={"a": [1]}), Session()
    assert {ctx: 1}[copy.copy(ctx)] == 1
    assert copy.copy(ctx) == ctx
    assert ctx.with_db_session(session) != ctx
    assert ctx.with_db_session(session) != ctx.with_db_session(Session())


def test_11_nobody_swaps_a_user_in_one_line() -> None:
    ctx = make()
    with pytest.raises(TypeError):
        attrs.evolve(ctx, user_id="bob-22")
    if sys.version_info >= (3, 13):
        with pytest.raises(TypeError):
            copy.replace(ctx, user_id="bob-22")
    with pytest.raises(InvalidContextError, match="was made already"):
        ctx.__init__("bob-22", "t-1", "r-1")  # type: ignore[misc]
    assert ctx.user_id == "alice-1"


def test_11_a_subclass_has_children_of_its_own_class() -> None:
    class Ours(UserExecutionContext):
        __slots__ = ()

    assert type(make().create_child_context("tool")) is UserExecutionContext
    ctx = Ours("alice-1", "t-1", "r-1")
    assert type(ctx.create_supervisor_style_child_context("tool", {"a": 1})) is Ours


# --- 12. live objects, and secrets ------------------------------------------------------------


def test_12_a_live_object_is_named_by_its_key() -> None:
    for make_it in (
        lambda data: make(metadata=data),
        lambda data: setattr(make(), "metadata", data),
        lambda data: make().create_child_context("tool", metadata=data),
    ):
        with pytest.raises(InvalidContextError, match=r"`metadata\['tools'\]` holds a `lock`"):
            make_it({"tools": [1, threading.Lock()]})


def test_12_secrets_are_in_no_dictionary_that_leaves() -> None:
    ctx = make(agent_context={"api_key": "SECRET"}, audit_metadata={"deep": {"password": "SECRET"}})
    ctx.metadata["access_token"] = "SECRET"
    for left in (ctx.to_dict(), ctx.get_audit_trail(), repr(ctx)):
        assert "SECRET" not in json.dumps(left)


def test_12_a_long_header_and_a_secret_in_the_address_are_not_kept() -> None:
    facts = {
        "type": "http", "method": "POST", "scheme": "https", "server": ("api.example", 443),
        "path": "/agent/chat", "query_string": b"token=SECRET",
        "headers": [(b"user-agent", b"u" * 10_000)],
    }  # fmt: skip
    ctx = UserExecutionContext.from_fastapi_request(Request(facts), "alice-1", "t-1", "r-1")
    assert "SECRET" not in json.dumps(ctx.to_dict())
    assert len(ctx.metadata["user_agent"]) == 512


# --- 13. what later versions did --------------------------------------------------------------


async def test_13_a_session_is_never_copied() -> None:
    class Uncopied(Session):
        def __deepcopy__(self, memo: object) -> Any:
            raise AssertionError("copied")

        __copy__ = __reduce_ex__ = __deepcopy__  # type: ignore[assignment]

    session = Uncopied()
    async with managed_user_context(make(db_session=session)) as ctx:
        for same in (ctx, copy.copy(ctx), ctx.create_child_context("tool", metadata={"a": 1})):
            assert same._session is session
    assert session.calls == ["close"]


def test_13_a_construction_does_not_look_through_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked() -> None:
        raise AssertionError("looked through the heap")

    monkeypatch.setattr(gc, "get_objects", looked)
    validate_user_context(make(metadata={"a": [1]}, db_session=Session()))


async def test_13_a_socket_that_fails_locks_nobody_out() -> None:
    class Reentrant:
        """While it fails, it asks the registry again."""

        async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
            await registry.set_websocket_manager(spare, current_context())
            raise ConnectionError

    class Spare:
        sent = 0

        async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
            self.sent += 1

    registry, spare = WebSocketRegistry(), Spare()
    with anyio.fail_after(5):
        async with user_context(make()) as ctx:
            await registry.set_websocket_manager(Reentrant(), ctx)
            with pytest.raises(ConnectionError):
                await registry.emit("agent_started", {})
            await registry.emit("agent_started", {})
    assert spare.sent == 1


async def test_13_a_query_string_is_no_identity() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        ctx = current_context()
        await respond(send, body=ctx.user_id.encode())

    key = OctKey.generate_key(256)
    token = jwt.encode({"alg": "HS256"}, {"sub": "alice-1", "exp": time.time() + 60}, key)
    guarded = fenced(app, identify=BearerToken(key))
    for query in ("user_id=alice-1", f"token={token}", f"access_token={token}"):
        assert (await call(guarded, query_string=query.encode())).status == 401
    answer = await call(guarded, headers=[("authorization", f"Bearer {token}")])
    assert (answer.status, answer.body) == (200, b"alice-1")


async def test_13_asking_for_what_is_not_there_keeps_nothing() -> None:
    registry = WebSocketRegistry()
    async with user_context(make()) as ctx:
        for number in range(100):
            ctx.metadata.get(f"key-{number}")
            with pytest.raises(LookupError):
                registry.context_of(f"q-{number}")
        assert ctx.metadata == {}
        assert registry._connected == {}
