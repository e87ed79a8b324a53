"""`set_websocket_manager`: a request's events reach its own user, and nobody else."""

from __future__ import annotations

import copy
import gc
from typing import Any

import anyio
import pytest

from ringfence import (
    ContextClosedError,
    ContextMismatchError,
    Identity,
    NoContextError,
    OwnershipError,
    WrongTypeError,
    child_context,
    counters,
    current_context,
    nobody,
    user_context,
)
from ringfence.agents import websocket as module
from ringfence.legacy import UserExecutionContext, WebSocketRegistry
from ringfence.protocols import EventSink, WebSocketManager

from .words import make, quietly

pytestmark = quietly


class Socket:
    """A manager in memory."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append((user_id, message))

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for _, message in self.sent]


class Broken(Socket):
    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        raise ConnectionError("gone")


async def test_events_reach_the_user_of_the_request() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    assert isinstance(socket, WebSocketManager)
    sink: EventSink = registry
    async with user_context(make(request_id="q-1")) as ctx:
        await registry.set_websocket_manager(socket, ctx)
        sent = await sink.emit("agent_started", {"agent": "triage", "api_key": "SECRET"})
    assert socket.sent == [
        (
            "alice-1",
            {
                "id": sent, "type": "agent_started",
                "request_id": "q-1", "thread_id": "t-1", "run_id": "r-1",
                "data": {"agent": "triage", "api_key": "[redacted]"},
            },
        )
    ]  # fmt: skip


async def test_so_do_those_of_its_children() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as ctx:
        await registry.set_websocket_manager(socket, ctx)
        async with child_context("agent") as agent, child_context("tool") as tool:
            await registry.emit("tool_executing", {})
            assert socket.sent[0][1]["request_id"] == tool.request_id
            nearer = Socket()
            await registry.set_websocket_manager(nearer, agent)
            await registry.emit("tool_completed", {})
        await registry.emit("agent_completed", {})
    assert (socket.kinds, nearer.kinds) == (
        ["tool_executing", "agent_completed"],
        ["tool_completed"],
    )


async def test_a_context_made_by_hand_serves_the_scope_it_is_given_in() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    made = make()
    async with user_context("alice-1"):
        await registry.set_websocket_manager(socket, made)
        assert registry.context_of(made.request_id) is made
        async with child_context("tool"):
            await registry.emit("agent_started", {})
    assert socket.kinds == ["agent_started"]
    async with user_context("alice-1"):
        with pytest.raises(NoContextError):
            registry.context_of(made.request_id)


async def test_users_at_once_each_get_their_own() -> None:
    registry = WebSocketRegistry()
    sockets = {f"user-{n}": Socket() for n in range(20)}

    async def serve(user: str) -> None:
        async with user_context(make(user_id=user)) as ctx:
            await registry.set_websocket_manager(sockets[user], ctx)
            for step in range(5):
                async with child_context("tool"):
                    await registry.emit(user, {"step": step})

    async with anyio.create_task_group() as tasks:
        for user in sockets:
            tasks.start_soon(serve, user)
    for user, socket in sockets.items():
        assert {to for to, _ in socket.sent} == set(socket.kinds) == {user}
        assert len(socket.sent) == 5
    assert registry._connected == {}


async def test_it_is_kept_while_the_scope_is_open_and_no_longer() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as ctx:
        async with child_context("agent") as child:
            await registry.set_websocket_manager(socket, child)
            assert registry.context_of(child.request_id) is child
        with pytest.raises(NoContextError, match="No context is kept"):
            registry.context_of(child.request_id)
        with pytest.raises(ContextClosedError):
            await registry.set_websocket_manager(socket, child)
        await registry.set_websocket_manager(socket, ctx)
    assert registry._connected == {}
    assert socket.sent == []


async def test_an_ended_request_is_not_served_any_more() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as ctx:
        await registry.set_websocket_manager(socket, ctx)
    async with user_context(make()):
        with pytest.raises(ContextClosedError):
            await registry.set_websocket_manager(socket, ctx)


async def test_a_new_manager_replaces_the_old_one() -> None:
    registry, first, second = WebSocketRegistry(), Socket(), Socket()
    async with user_context(make()) as ctx:
        async with child_context("tool"):
            await registry.set_websocket_manager(first, ctx)
        await registry.set_websocket_manager(second, ctx)
        await registry.emit("agent_started", {})
    assert (first.sent, second.kinds) == ([], ["agent_started"])


async def test_the_end_of_what_was_replaced_ends_nothing_else() -> None:
    registry, first, second = WebSocketRegistry(), Socket(), Socket()
    async with user_context(make()) as ctx:
        async with child_context("tool"):
            await registry.set_websocket_manager(first, copy.copy(ctx))  # until the tool ends
            await registry.set_websocket_manager(second, ctx)
        await registry.emit("agent_completed", {})
    assert (first.sent, second.kinds) == ([], ["agent_completed"])


async def test_without_a_manager_an_event_is_counted() -> None:
    async with user_context(make()):
        await WebSocketRegistry().emit("agent_started", {})
    assert counters.value("legacy.event_undelivered") == 1


async def test_a_socket_that_fails_is_heard_of_and_blocks_nobody() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as ctx:
        await registry.set_websocket_manager(Broken(), ctx)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await registry.emit("agent_started", {})
        await registry.set_websocket_manager(socket, ctx)
        await registry.emit("agent_started", {})
    assert socket.kinds == ["agent_started"]


# --- whose a context is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{"user_id": "bob-22"}, {"tenant_id": "acme"}], ids=["user", "tenant"]
)
async def test_a_context_of_another_user_is_refused(other: dict[str, str]) -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as ctx:
        with pytest.raises(ContextMismatchError) as caught:
            await registry.set_websocket_manager(socket, make(**other))
        assert not {"alice-1", "bob-22", "acme"} & set(str(caught.value).split("`"))
        async with user_context(make(**other)) as theirs:
            with pytest.raises(ContextMismatchError):
                await registry.set_websocket_manager(socket, ctx)
            await registry.set_websocket_manager(Socket(), theirs)
        await registry.set_websocket_manager(socket, ctx)  # nothing of the attempts is left


async def test_so_is_one_of_another_request_of_the_same_user() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(make()) as first:
        await registry.set_websocket_manager(socket, first)
        async with user_context(make()):
            with pytest.raises(OwnershipError):
                await registry.set_websocket_manager(socket, first)
            with pytest.raises(OwnershipError):
                registry.context_of(first.request_id)
            await registry.emit("agent_started", {})
    assert socket.sent == []


async def test_an_id_that_was_chosen_takes_over_nobody_s_events() -> None:
    registry, alices, bobs = WebSocketRegistry(), Socket(), Socket()
    async with user_context(make(request_id="q-1")) as alice:
        await registry.set_websocket_manager(alices, alice)
        async with user_context(make(user_id="bob-22")):
            with pytest.raises(OwnershipError):
                await registry.set_websocket_manager(bobs, make(user_id="bob-22", request_id="q-1"))
        async with user_context(make(user_id="bob-22", request_id="q-1")):
            with pytest.raises(OwnershipError):
                await registry.set_websocket_manager(bobs, make(user_id="bob-22"))
            await registry.emit("agent_started", {})  # to nobody
        await registry.emit("agent_completed", {})
    assert ([to for to, _ in alices.sent], bobs.sent) == (["alice-1"], [])
    assert alices.kinds == ["agent_completed"]


async def test_it_wants_an_open_scope_with_a_user() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    with pytest.raises(NoContextError):
        await registry.set_websocket_manager(socket, make())
    async with nobody():
        with pytest.raises(NoContextError):
            await registry.set_websocket_manager(socket, make())
    async with user_context(make()) as ctx:
        with pytest.raises(WrongTypeError, match="no WebSocket manager"):
            await registry.set_websocket_manager(object(), ctx)  # type: ignore[arg-type]
        with pytest.raises(WrongTypeError, match="Expected a `UserExecutionContext`"):
            await registry.set_websocket_manager(socket, ctx.to_dict())  # type: ignore[arg-type]


async def test_a_canonical_context_serves_as_well() -> None:
    registry, socket = WebSocketRegistry(), Socket()
    async with user_context(Identity("alice-1", "acme")):
        await registry.set_websocket_manager(socket, current_context())
        await registry.emit("agent_started", {})
    assert [to for to, _ in socket.sent] == ["alice-1"]


# --- whose a manager is -----------------------------------------------------------------------


class MadeFor(Socket):
    """A manager that knows for whom it was made."""

    def __init__(self, context: UserExecutionContext) -> None:
        super().__init__()
        self.user_context = context


class OfUser(Socket):
    def __init__(self, user_id: str, tenant_id: str | None = None) -> None:
        super().__init__()
        self.user_id = user_id
        self.tenant_id = tenant_id


@pytest.mark.parametrize(
    "manager",
    [
        lambda: MadeFor(make(user_id="bob-22")),
        lambda: MadeFor(make(tenant_id="acme")),
        lambda: OfUser("bob-22"),
        lambda: OfUser("alice-1", "acme"),
    ],
    ids=["context", "tenant", "user", "user's tenant"],
)
async def test_a_manager_made_for_another_user_is_refused(manager: Any) -> None:
    async with user_context(make()) as ctx:
        with pytest.raises(OwnershipError, match="serves another user") as caught:
            await WebSocketRegistry().set_websocket_manager(manager(), ctx)
        assert "bob" not in str(caught.value)
        await WebSocketRegistry().set_websocket_manager(MadeFor(make()), ctx)
        await WebSocketRegistry().set_websocket_manager(OfUser("alice-1"), ctx)


async def test_so_is_one_that_served_another_user_however_long_ago() -> None:
    socket = Socket()
    async with user_context(make()) as ctx:
        await WebSocketRegistry().set_websocket_manager(socket, ctx)
    async with user_context(make(user_id="bob-22")) as ctx:
        with pytest.raises(OwnershipError):
            await WebSocketRegistry().set_websocket_manager(socket, ctx)
    async with user_context(make()) as ctx:  # the same user's next request
        await WebSocketRegistry().set_websocket_manager(socket, ctx)


class AlwaysEqual(Socket):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


async def test_managers_are_told_apart_by_identity() -> None:
    one, two = AlwaysEqual(), AlwaysEqual()
    for user, socket in (("alice-1", one), ("bob-22", two)):
        async with user_context(make(user_id=user)) as ctx:
            await WebSocketRegistry().set_websocket_manager(socket, ctx)


async def test_a_manager_that_is_gone_is_forgotten() -> None:
    gc.collect()
    before = len(module._made_for)
    for number in range(200):  # ids are used again: an innocent must not be accused
        async with user_context(make(user_id=f"user-{number}")) as ctx:
            await WebSocketRegistry().set_websocket_manager(Socket(), ctx)
    gc.collect()
    assert len(module._made_for) == before


async def test_a_manager_that_cannot_be_told_apart_is_refused() -> None:
    class Slotted:
        __slots__ = ()

        async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
            """Never called."""

    async with user_context(make()) as ctx:
        with pytest.raises(WrongTypeError, match="__weakref__"):
            await WebSocketRegistry().set_websocket_manager(Slotted(), ctx)
