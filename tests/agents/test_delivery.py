"""`set_websocket_manager` of the registry: a run's events, to its own user's manager."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextMismatchError,
    NoContextError,
    OwnershipError,
    Ringfence,
    Settings,
    WrongTypeError,
    counters,
    user_context,
)
from ringfence.agents import AgentRegistry, tool
from ringfence.events import EventHub, emit

from .hearing import hearing, outcomes


class Socket:
    """A manager in memory."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        self.sent.append((user_id, message))
        await anyio.lowlevel.checkpoint()

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for _, message in self.sent]


@tool
async def search() -> None:
    await emit("found", {"api_key": "SECRET"})


def with_agents(hub: EventHub | None = None, **options: Any) -> tuple[AgentRegistry, Ringfence]:
    registry = AgentRegistry(events=hub, **options)

    @registry.agent("triage")
    async def triage() -> str:
        await search()
        return "done"

    return registry, Ringfence(events=registry)


OF_A_RUN = ["agent_started", "tool_executing", "found", "tool_completed", "agent_completed"]


@pytest.mark.parametrize("has_hub", [False, True])
async def test_a_run_reaches_the_manager_of_its_own_user(has_hub: bool) -> None:
    registry, fence = with_agents(EventHub() if has_hub else None)
    sockets = {user: Socket() for user in ("ann", "bob", "eve")}

    async def serve(user: str) -> None:
        async with fence.user_context(user) as ctx:
            await registry.set_websocket_manager(sockets[user], ctx)
            assert registry.context_of(ctx.request_id) is ctx
            for _ in range(3):
                assert await registry.run("triage") == "done"

    async with anyio.create_task_group() as tasks:
        for user in sockets:
            tasks.start_soon(serve, user)
    for user, socket in sockets.items():
        assert socket.kinds == OF_A_RUN * 3
        assert {to for to, _ in socket.sent} == {user}
        assert "SECRET" not in repr(socket.sent)
    assert registry._connected == {}


async def test_the_hub_hears_it_too_and_under_the_same_id() -> None:
    hub = EventHub()
    registry, fence = with_agents(hub)
    socket = Socket()
    async with hearing(hub) as found, fence.user_context("ann") as ctx:
        await registry.set_websocket_manager(socket, ctx)
        await registry.run("triage")
    assert [d["kind"] for d in found] == OF_A_RUN
    assert [d["id"] for d in found] == [message["id"] for _, message in socket.sent]


async def test_without_a_manager_the_hub_alone_hears_it() -> None:
    hub = EventHub()
    registry, fence = with_agents(hub)
    async with hearing(hub) as found, fence.user_context("ann"):
        await registry.run("triage")
    assert len(outcomes([d for d in found if d["kind"] != "found"])) == 2
    assert counters.value("agents.event_undelivered") == 0
    registry, fence = with_agents()
    async with fence.user_context("ann"):
        assert await registry.run("triage") == "done"
    assert counters.value("agents.event_undelivered") == len(OF_A_RUN)


async def test_another_users_manager_or_context_is_refused() -> None:
    registry, fence = with_agents()
    anns = Socket()
    async with fence.user_context("ann", tenant_id="t-1") as ann:
        await registry.set_websocket_manager(anns, ann)
        for other in (("bob", "t-1"), ("ann", "t-2"), ("ann", None)):
            async with fence.user_context(other[0], tenant_id=other[1]) as ctx:
                with pytest.raises(ContextMismatchError):
                    await registry.set_websocket_manager(Socket(), ann)
                with pytest.raises(OwnershipError):
                    await registry.set_websocket_manager(anns, ctx)
                with pytest.raises(OwnershipError):
                    registry.context_of(ann.request_id)
                await registry.run("triage")
    assert anns.sent == []


async def test_events_that_go_elsewhere_are_said_to() -> None:
    """Else a manager would be set, and hear nothing."""
    registry, _ = with_agents()
    for fence in (None, Ringfence(), Ringfence(events=EventHub())):
        async with user_context("ann", fence=fence) as ctx:
            with pytest.raises(ConfigurationError, match=r"Ringfence\(events=registry\)"):
                await registry.set_websocket_manager(Socket(), ctx)
    with pytest.raises(NoContextError):
        await registry.set_websocket_manager(Socket(), ctx)


async def test_what_is_no_manager() -> None:
    registry, fence = with_agents()
    async with fence.user_context("ann") as ctx:
        with pytest.raises(WrongTypeError):
            await registry.set_websocket_manager(object(), ctx)  # type: ignore[arg-type]


class Broken(Socket):
    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        await super().send_to_user(user_id, message)
        raise ConnectionError("gone")


class Stuck(Socket):
    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        await super().send_to_user(user_id, message)
        await anyio.sleep(30)


@pytest.mark.parametrize("kind", [Broken, Stuck])
@pytest.mark.parametrize("has_hub", [False, True])
async def test_a_manager_that_fails_is_given_up_and_the_run_goes_on(
    kind: type[Socket], has_hub: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hub = EventHub()
    registry, fence = with_agents(hub if has_hub else None, send_timeout=0.5)
    socket = kind()
    with caplog.at_level(logging.ERROR, "ringfence.agents"), anyio.fail_after(20):
        async with hearing(hub) as found, fence.user_context("ann") as ctx:
            await registry.set_websocket_manager(socket, ctx)
            assert await registry.run("triage") == "done"
            assert registry._connected == {}
            again = Socket()  # the page was opened again
            await registry.set_websocket_manager(again, ctx)
            await registry.run("triage")
    assert socket.kinds == ["agent_started"]
    assert again.kinds == OF_A_RUN
    assert counters.value("agents.manager_given_up") == 1
    assert "is given up" in caplog.text
    assert "ann" not in caplog.text
    assert len(found) == (10 if has_hub else 0)


async def test_a_stuck_manager_holds_up_nobody_else() -> None:
    registry, _ = with_agents(send_timeout=10)
    fence = Ringfence(events=registry, settings=Settings(finaliser_timeout=4))
    fast, stuck = Socket(), Stuck()

    async def slow() -> None:
        async with fence.user_context("ann") as ctx:
            await registry.set_websocket_manager(stuck, ctx)
            assert await registry.run("triage") == "done"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow)
        async with fence.user_context("bob") as ctx:
            await registry.set_websocket_manager(fast, ctx)
            await registry.run("triage")
        assert stuck.kinds == ["agent_started"]
        assert counters.value("agents.manager_given_up") == 0
    assert counters.value("agents.manager_given_up") == 1
    assert fast.kinds == OF_A_RUN
    assert stuck.kinds == ["agent_started"]


async def test_the_fence_stops_and_closes_the_hub_behind_it() -> None:
    closed: list[str] = []

    class Hub(EventHub):
        def stop(self) -> None:
            closed.append("stop")

        async def aclose(self) -> None:
            closed.append("aclose")

    for hub in (Hub(), None):
        _, fence = with_agents(hub)
        async with fence:
            pass
    assert closed == ["stop", "aclose"]
