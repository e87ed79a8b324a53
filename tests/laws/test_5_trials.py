"""Law 5 by the thousand, and with a real client that lives in task groups."""

from __future__ import annotations

import asyncio

import pytest
from mcp import Client
from mcp.server import MCPServer

from ringfence import current_scope, user_context

from ..trials import finalisers

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_ten_thousand_trials_and_the_control_that_fails(anyio_backend: str) -> None:
    held = await finalisers.run(10_000, seed=1)
    control = await finalisers.run(500, seed=1, control=True)
    finalisers.show("ringfence", held)
    finalisers.show("control: AsyncExitStack", control)
    assert held.violations == 0, held.examples
    assert all(held.landed[phase] >= 500 for phase in finalisers.PHASES), held.landed
    assert control.incomplete > 0, "the trials can find nothing"


@pytest.mark.parametrize("times", [0, 1, 3, 20])
async def test_a_real_mcp_client(anyio_backend: str, times: int) -> None:
    server = MCPServer("tools")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    before = asyncio.all_tasks()
    ready = asyncio.Event()
    answers: list[object] = []

    async def request() -> None:
        async with user_context("alice-1"):
            client = await current_scope().enter(Client(server))
            result = await client.call_tool("add", {"a": 1, "b": 2})
            answers.append(result.structured_content)
            ready.set()
            if times:
                await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await ready.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    if times:
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
    assert answers == [{"result": 3}]
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
