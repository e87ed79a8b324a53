"""The crowd itself: that it finds what it is to find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ringfence import Ringfence, current_context
from ringfence.agents import agent_run, thinking, tool_call
from ringfence.events import emit

from .crowd import Crowd, crowd_fence

KINDS = "agent_started agent_thinking tool_executing tool_completed agent_completed".split()
pytestmark = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


@pytest.fixture
async def fence(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[Ringfence]:
    async with crowd_fence(tmp_path) as fence:
        yield fence


async def test_what_is_right_has_no_fault(fence: Ringfence) -> None:
    crowd = Crowd.of(20)

    async def drive() -> None:
        context = current_context()
        async with agent_run("triage"):
            await thinking()
            async with tool_call("search"):
                await crowd.look_up("search", context)

    await crowd.run(fence, drive)
    assert crowd.faults(["search"], KINDS) == []


async def test_an_identity_that_two_share(fence: Ringfence) -> None:
    crowd = Crowd.of(2)

    async def drive() -> None:
        async with agent_run("triage"), tool_call("search"):
            await crowd.look_up("search", crowd.users[0])

    await crowd.run(fence, drive)
    assert crowd.faults(["search"]) == ["search: told user-00, ran as user-01"]


async def test_a_session_that_two_share(fence: Ringfence) -> None:
    crowd = Crowd.of(2)

    async def drive() -> None:
        async with agent_run("triage"), tool_call("search"):
            crowd.note("search", current_context())
            crowd.note("search", current_context())

    await crowd.run(fence, drive)
    assert crowd.faults(["search"] * 2) == ["4 calls shared a session"]


async def test_a_tool_that_was_not_called_or_not_told_of(fence: Ringfence) -> None:
    crowd = Crowd.of(2)

    async def drive() -> None:
        if current_context().user_id == "user-00":
            crowd.note("search", current_context())

    await crowd.run(fence, drive)
    assert crowd.faults(["search"]) == [
        "user-01: Counter() calls",
        "user-00: was not told of search",
    ]


async def test_ends_that_are_missing_and_events_beneath_nothing(fence: Ringfence) -> None:
    crowd = Crowd.of(1)

    async def drive() -> None:
        async with agent_run("triage"):
            await emit("tool_completed", {"start_id": "0-0"})
            await emit("tool_executing", {})

    await crowd.run(fence, drive)
    assert sorted(crowd.faults([])) == [
        "user-00: 0 ends of 1 tool_executing",
        "user-00: 1 ends of 0 tool_executing",
    ]
    told = crowd.told["user-00"]
    assert crowd.faults([], ["agent_started"])[-1].startswith("user-00: told {")
    told[-2:] = []
    told[0]["depth"], told[0]["thread_id"] = 2, "another"
    assert set(crowd.faults([])) >= {
        "user-00: heard of another",
        "user-00: agent_started of triage beneath nothing that is known",
    }


async def test_what_is_raised_is_a_fault(fence: Ringfence) -> None:
    crowd = Crowd.of(1)

    async def drive() -> None:
        raise LookupError("no such agent")

    await crowd.run(fence, drive)
    assert crowd.faults([]) == ["user-00: raised LookupError('no such agent')"]
