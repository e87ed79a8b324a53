"""
The planner: runs the agent's tools at the same time, each in a child scope.

It stands for a model that decides which tools to call; this one always calls all three.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ringfence import UserExecutionContext, child_context, current_context, task_group

from .tools import TOOLS, Tool


@dataclass
class Operation:
    """One node of the tree that the answer carries."""

    operation: str
    request_id: str
    depth: int
    children: list[Operation] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, ctx: UserExecutionContext) -> Operation:
        return cls(name, ctx.request_id, ctx.operation_depth)


async def run(message: str) -> Operation:
    """Run all tools on `message`; returns when the last has ended."""
    plan = Operation.of("chat", current_context())
    async with task_group() as tasks:
        for name, tool in TOOLS.items():
            tasks.start_soon(_run_tool, name, tool, message, plan)
    return plan


async def _run_tool(name: str, tool: Tool, message: str, plan: Operation) -> None:
    # A session must not be used by two tasks at once; a child scope has one of its own.
    async with child_context(name) as child:
        plan.children.append(Operation.of(name, child))
        await tool(message)
