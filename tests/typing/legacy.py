"""Checked by `tests/test_typing.py` like `api.py`: the legacy vocabulary."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type

import ringfence
from ringfence import user_context
from ringfence.legacy import (
    ContextIsolationError,
    InvalidContextError,
    UserExecutionContext,
    WebSocketRegistry,
    clear_shared_object_registry,
    clear_shared_objects,
    managed_user_context,
    register_shared_object,
    validate_user_context,
)
from ringfence.protocols import EventSink, WebSocketManager


def makers(session: Any, metadata: dict[str, object]) -> None:
    canonical: ringfence.UserExecutionContext = UserExecutionContext("u-17", "t-1", "r-1")
    assert_type(canonical.to_dict(), dict[str, Any])
    UserExecutionContext("u-17", "t-1", "r-1", "q-1", session, "ws-1")
    UserExecutionContext("u-17", "t-1", "r-1", session)
    UserExecutionContext(
        user_id="u-17", thread_id="t-1", run_id="r-1", metadata=metadata, session_id="s-1",
        websocket_connection_id="ws-1", tenant_id="acme",
    )  # fmt: skip
    UserExecutionContext("u-17", "t-1")  # type: ignore[call-arg]
    UserExecutionContext("u-17", "t-1", "r-1", permissions=[])  # type: ignore[call-arg]
    UserExecutionContext("u-17", "t-1", "r-1", metadata=5)  # type: ignore[arg-type]
    one = UserExecutionContext.from_request("u-17", "t-1", "r-1", "q-1", metadata=metadata)
    assert_type(one, UserExecutionContext)
    UserExecutionContext.from_request("u-17", "t-1", "r-1", operation_depth=1)  # type: ignore[call-arg]
    two = UserExecutionContext.from_request_supervisor("u-17", "t-1", "r-1", metadata=metadata)
    assert_type(two, UserExecutionContext)
    three = UserExecutionContext.from_supervisor_style_request("u-17", "t-1", "r-1")
    assert_type(three, UserExecutionContext)


def wants_a_dict(data: dict[str, Any]) -> None: ...


def names(ctx: UserExecutionContext) -> None:
    ctx.metadata["k"] = "v"
    ctx.metadata = {"k": "v"}
    ctx.metadata |= {"k": "v"}
    ctx.metadata.update(k="v")
    assert_type(ctx.metadata["k"], Any)
    assert_type(ctx.metadata.copy(), dict[str, Any])
    wants_a_dict(ctx.metadata)
    assert_type(ctx.websocket_connection_id, str | None)
    assert_type(ctx.session_id, Any)
    ctx.session_id = "s-1"  # type: ignore[misc]
    ctx.metadata = 5  # type: ignore[assignment]


def others(ctx: UserExecutionContext) -> None:
    assert_type(ctx.create_child_context("tool", {"a": 1}), UserExecutionContext)
    assert_type(ctx.create_child_context("tool", additional_metadata={}), UserExecutionContext)
    assert_type(ctx.create_child_context("tool", metadata={}), UserExecutionContext)
    assert_type(ctx.create_supervisor_style_child_context("tool", {}), UserExecutionContext)
    assert_type(ctx.create_child_context_supervisor("tool"), UserExecutionContext)
    assert_type(ctx.with_websocket_connection_supervisor("ws-1"), UserExecutionContext)
    assert_type(ctx.with_db_session(object()), UserExecutionContext)
    ctx.create_child_context("tool", extra={})  # type: ignore[call-arg]


def functions(ctx: UserExecutionContext) -> None:
    register_shared_object(object())
    clear_shared_objects()
    clear_shared_object_registry()
    assert_type(validate_user_context(ctx), UserExecutionContext)
    assert_type(validate_user_context(object()), ringfence.UserExecutionContext)
    assert_type(managed_user_context(ctx), AbstractAsyncContextManager[UserExecutionContext])
    try:
        pass
    except (InvalidContextError, ContextIsolationError) as error:
        assert_type(error.code, str)


async def sockets(manager: WebSocketManager, ctx: UserExecutionContext) -> None:
    registry = WebSocketRegistry()
    sink: EventSink = registry
    async with user_context(ctx):
        await registry.set_websocket_manager(manager, ctx)
        await sink.emit("agent_started", {})
    assert_type(registry.context_of("q-1"), ringfence.UserExecutionContext)
    await registry.set_websocket_manager(object(), ctx)  # type: ignore[arg-type]
