"""
The planner's work done by pydantic-ai, with an offline model: `--agent pydantic-ai`.

Two agents, made once per process, that serve all users. `RingfenceCapability` runs them and their
tools in child contexts, and tells the user. What tools know of one, `current_context()` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent, RunContext, ToolDefinition
from pydantic_ai.capabilities import AbstractCapability, WrapRunHandler, WrapToolExecuteHandler
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.run import AgentRunResult

from ringfence import UserExecutionContext, current_context
from ringfence.integrations.pydantic_ai import RingfenceCapability

from .operations import Operation
from .planner import READER
from .tools import TOOLS, summed_up


@dataclass
class Task:
    """What one run is given: whose it is, said explicitly, and beneath what it runs."""

    context: UserExecutionContext
    above: Operation

    @property
    def user_id(self) -> str:
        return self.context.user_id


class Drawing(AbstractCapability[Task]):
    """Draws the tree that the answer carries. It keeps nothing of a run but in the run's task."""

    async def wrap_run(
        self, ctx: RunContext[Task], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        ctx.deps.above = ctx.deps.above.add((ctx.agent and ctx.agent.name) or "agent")
        return await handler()

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Task],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: WrapToolExecuteHandler,
    ) -> Any:
        ctx.deps.above.add(call.tool_name)
        return await handler(args)


def decide(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stands for a model: it calls every tool at once, and answers with what they found."""
    parts = [part for message in messages for part in message.parts]
    found = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    if "ask_reader" in found:
        found["find_longest"] = found["ask_reader"]
    if found:
        text = summed_up(found) if "quote" in found else found["find_longest"]
        return ModelResponse([TextPart(text)])
    (said,) = (part.content for part in parts if isinstance(part, UserPromptPart))
    return ModelResponse([ToolCallPart(t.name, {"message": said}) for t in info.function_tools])


def agent(name: str) -> Agent[Task, str]:
    capabilities = [RingfenceCapability(), Drawing()]
    return Agent(FunctionModel(decide), deps_type=Task, name=name, capabilities=capabilities)


assistant, reader = agent("assistant"), agent(READER)
for name in ("count_words", "quote"):
    assistant.tool_plain(TOOLS[name])
reader.tool_plain(TOOLS["find_longest"])


@assistant.tool
async def ask_reader(run: RunContext[Task], message: str) -> str:
    """Let the reader find the longest word."""
    here = current_context()
    (above,) = (each for each in run.deps.above.children if each.request_id == here.request_id)
    return (await reader.run(message, deps=Task(here, above))).output


async def work(message: str, plan: Operation) -> str:
    """Run all tools on `message`, and answer when the last has ended."""
    return (await assistant.run(message, deps=Task(current_context(), plan))).output
