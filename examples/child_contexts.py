"""
An agent and its tools as child scopes: one user, one tree, and nothing flows back.

A child has its own request id, data and resources. The user never changes down the tree, and
what a child does to its data is not seen by its parent or its siblings.

    python examples/child_contexts.py
"""

import anyio

from ringfence import child_context, current_context, current_scope, task_group, user_context


def show(note: str) -> None:
    ctx = current_context()
    indent = "   " * ctx.operation_depth
    print(f"{indent}{ctx.user_id} {ctx.request_id[:4]} depth {ctx.operation_depth}  {note}")


async def tool(name: str, seconds: float) -> None:
    async with child_context(name, agent_context={"budget": 1}) as child:
        current_scope().callback(print, f"      closed: {name}")
        child.agent_context["plan"].append(name)  # its own copy
        await anyio.sleep(seconds)
        show(f"{name} plan={child.agent_context['plan']}")


async def handle(user_id: str) -> None:
    async with user_context(user_id, agent_context={"plan": []}) as ctx:
        show("request")
        async with child_context("planner", thread_id="thread-7"):
            show(f"planner thread={current_context().thread_id}")
            async with task_group() as tasks:  # waits for every tool
                tasks.start_soon(tool, "search", 0.02)
                tasks.start_soon(tool, "summary", 0.01)
        show(f"request again, plan={ctx.agent_context['plan']}")


anyio.run(handle, "ann")
