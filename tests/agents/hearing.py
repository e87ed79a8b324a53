"""What a user's connections hear of runs, and whether every beginning has its one end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio

from ringfence import Ringfence, user_context
from ringfence.events import Event, EventHub

ENDS = {
    "agent_started": ("agent_completed", "agent_failed"),
    "tool_executing": ("tool_completed",),
}


def hub_of(fence: Ringfence) -> EventHub:
    assert isinstance(fence.events, EventHub)
    return fence.events


@contextlib.asynccontextmanager
async def hearing(
    hub: EventHub, user: str = "ann", tenant: str | None = None
) -> AsyncIterator[list[dict[str, Any]]]:
    """A list that holds, after the block, the documents of everything that the user heard."""
    found: list[dict[str, Any]] = []
    async with user_context(user, tenant_id=tenant):
        before = (await hub.subscribe().__aenter__()).position
    yield found
    async with user_context(user, tenant_id=tenant), hub.subscribe(before) as events:
        await hub.emit("over")
        with anyio.fail_after(5):
            async for event in events:
                assert isinstance(event, Event), event
                if event.kind == "over":
                    break
                found.append(dict(event.document))


def told(found: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    """Kind, name and outcome of each."""
    return [(d["kind"], d["data"]["name"], d["data"].get("outcome")) for d in found]


def outcomes(found: list[dict[str, Any]]) -> dict[str, str]:
    """How each agent or tool ended, by its name; fails unless each that began ended once."""
    began = {d["id"]: d for d in found if d["kind"] in ENDS}
    ended: dict[str, str] = {}
    seen: set[str] = set()
    for document in found:
        if document["kind"] in ENDS:
            continue
        start_id = document["data"]["start_id"]
        start = began[start_id]
        assert start_id not in seen, f"a second end of {start['data']['name']}"
        assert document["kind"] in ENDS[start["kind"]]
        assert document["request_id"] == start["request_id"]
        assert document["sequence"] > start["sequence"]
        seen.add(start_id)
        ended[start["data"]["name"]] = document["data"]["outcome"]
    assert seen == set(began), "no end of " + ", ".join(
        began[left]["data"]["name"] for left in set(began) - seen
    )
    return ended
