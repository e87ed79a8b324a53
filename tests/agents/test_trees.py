"""Random trees of agents and tools: whatever happens to them, each beginning has its one end."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from ringfence import Ringfence, RingfenceError, child_context, current_context, task_group
from ringfence.agents import AgentRegistry, agent_run, spend, tool, tool_call
from ringfence.events import EventHub, MemoryLog

from .hearing import ENDS, hearing, hub_of, outcomes


class SlowLog(MemoryLog):
    """As one on another machine: between the call and its effect others run."""

    async def append(self, *args: Any) -> Any:
        await anyio.sleep(0.001)
        found = await super().append(*args)
        await anyio.sleep(0.001)
        return found


class Planted(Exception):
    pass


class Tree:
    """One tree; its shape and what happens to it are drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 0
        self.registry = AgentRegistry(max_running_per_user=12, queue_timeout=0.01)
        self.registry.register("node", self.node)
        self.tool = tool(name="plain")(self.plain)

    async def node(self, level: int) -> None:
        for _ in range(self.rng.randrange(3)):
            await self.step(level)
        await self.happens(level)

    def plain(self) -> None:
        if self.rng.random() < 0.3:
            raise Planted

    async def step(self, level: int) -> None:
        how = self.rng.choice(["parallel", "one", "kept", "lost", "sleep"])
        if how == "parallel":
            async with task_group() as tasks:
                for _ in range(self.rng.randrange(1, 4)):
                    tasks.start_soon(self.run, level + 1)
        elif how == "kept":
            await self.kept(level + 1)
        elif how == "lost":
            async with anyio.create_task_group() as tasks:
                async with child_context("short"):
                    tasks.start_soon(self.run, level + 1)
                    await anyio.sleep(self.rng.random() / 200)
        elif how == "one":
            await self.run(level + 1)
        else:
            await anyio.sleep(self.rng.random() / 300)

    async def kept(self, level: int) -> None:
        try:
            await self.run(level)
        except (Planted, TimeoutError, RingfenceError, ExceptionGroup):
            pass

    async def run(self, level: int) -> None:
        self.number += 1
        timeout = self.rng.choice([None, None, None, 0.003, 0.01])
        how = self.rng.choice(["registry", "agent", "tool", "plain"])
        if how == "registry":
            budget = self.rng.choice([None, {"tokens": 3}])
            await self.registry.run("node", level, timeout=timeout, budget=budget)
        elif how == "agent":
            deep = self.rng.choice([None, None, 1])
            async with agent_run(f"agent-{self.number}", timeout=timeout, depth=deep):
                await self.node(level)
        elif how == "tool":
            async with tool_call(f"tool-{self.number}", timeout=timeout):
                await self.node(level)
        else:
            await self.tool()

    async def happens(self, level: int) -> None:
        what = self.rng.random()
        if what < 0.1:
            raise Planted
        if what < 0.2:
            spend(tokens=2)
        elif what < 0.3 and self.registry.running():
            self.registry.cancel(self.rng.choice(self.registry.running()).request_id)
        elif what < 0.4:
            await anyio.sleep(0.02)
        elif what < 0.5:
            with anyio.move_on_after(self.rng.random() / 300):
                await self.run(level + 1)


async def grow(seed: int) -> tuple[list[Any], Tree]:
    tree = Tree(seed)
    fence = Ringfence(events=EventHub(SlowLog()))
    async with hearing(hub_of(fence)) as found:
        try:
            with anyio.move_on_after(tree.rng.choice([0.01, 0.05, 5])):
                async with fence.user_context("ann"):
                    for _ in range(6):
                        await tree.kept(0)
        except (Planted, TimeoutError, RingfenceError, ExceptionGroup):
            pass
    return found, tree


def check(found: list[Any]) -> None:
    """Each that began ended once; and each tells of a scope of its own."""
    outcomes(found)
    starts = [d for d in found if d["kind"] in ENDS]
    assert len({d["request_id"] for d in starts}) == len(starts)


@pytest.mark.parametrize("group", range(4))
async def test_each_beginning_has_its_one_end(group: int) -> None:
    ends: dict[str, int] = {}
    for seed in range(group * 15, group * 15 + 15):
        with anyio.fail_after(20):
            found, tree = await grow(seed)
        check(found)
        for document in found:
            outcome = document["data"].get("outcome", "begun")
            ends[outcome] = ends.get(outcome, 0) + 1
        assert tree.registry.load() == {}, seed
        assert tree.registry._places._taken == {}, seed
        assert tree.registry._connected == {}, seed
    assert ends["begun"] > 50
    assert len(ends) >= 4, ends  # else little has happened


def test_the_check_finds_what_it_should() -> None:
    def event(kind: str, sequence: int, **data: Any) -> dict[str, Any]:
        return {
            "kind": kind, "id": f"e-{sequence}", "sequence": sequence, "request_id": "r-1",
            "data": {"name": "a", **data},
        }  # fmt: skip

    begun = event("agent_started", 1)
    ended = event("agent_completed", 2, start_id="e-1", outcome="completed")
    check([begun, ended])
    for wrong in ([begun], [begun, ended, event("agent_failed", 3, start_id="e-1", outcome="x")]):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(AssertionError):
        check([begun, {**ended, "kind": "tool_completed"}])


async def test_the_current_context_is_the_ones_above_afterwards() -> None:
    fence = Ringfence(events=EventHub())
    async with fence.user_context("ann") as ctx:
        for seed in range(10):
            tree = Tree(seed)
            try:
                await tree.step(0)
            except (Planted, TimeoutError, RingfenceError, ExceptionGroup):
                pass
            assert current_context() is ctx
