"""
The planner: runs two tools and another agent at the same time, each in a child scope.

It stands for a model that decides what to call; this one always calls all of them.
"""

from __future__ import annotations

from ringfence import task_group
from ringfence.agents import agent_run, thinking

from .operations import Operation
from .tools import call, summed_up

READER = "reader"


async def work(message: str, plan: Operation) -> str:
    """Run all tools on `message`, and answer when the last has ended."""
    found: dict[str, str] = {}

    async def run_tool(name: str, above: Operation) -> None:
        found[name] = await call(name, message, above)

    async def read() -> None:
        async with agent_run(READER):
            await run_tool("find_longest", plan.add(READER))

    await thinking()
    async with task_group() as tasks:
        tasks.start_soon(run_tool, "count_words", plan)
        tasks.start_soon(run_tool, "quote", plan)
        tasks.start_soon(read)
    return summed_up(found)
