"""
The planner's work done by pydantic-ai, with an offline model: `--agent pydantic-ai`.

Two agents, made once per process, that serve all users. What they are given of a user comes with
each run, and what their tools know of one is what `current_context()` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from ringfence import UserExecutionContext, current_context
from ringfence.agents import agent_run, check_explicit, thinking

from .operations import Operation
from .planner import READER
from .tools import call, summed_up


@dataclass(frozen=True)
class Task:
    """What a run is given: whose it is, said explicitly, and beneath what it runs."""

    context: UserExecutionContext
    above: Operation

    @property
    def user_id(self) -> str:
        return self.context.user_id


def decide(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stands for a model: it calls every tool at once, and answers with what they found."""
    parts = [part for message in messages for part in message.parts]
    found = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    if found:
        text = summed_up(found) if "count_words" in found else found["find_longest"]
        return ModelResponse([TextPart(text)])
    (said,) = (part.content for part in parts if isinstance(part, UserPromptPart))
    return ModelResponse([ToolCallPart(t.name, {"message": said}) for t in info.function_tools])


planner = Agent(FunctionModel(decide), deps_type=Task, name="planner")
reader = Agent(FunctionModel(decide), deps_type=Task, name=READER)


@planner.tool
async def count_words(run: RunContext[Task], message: str) -> str:
    """Count the words of a message."""
    return await use("count_words", run, message)


@planner.tool
async def quote(run: RunContext[Task], message: str) -> str:
    """Repeat a message."""
    return await use("quote", run, message)


@planner.tool(name="find_longest")
async def ask_reader(run: RunContext[Task], message: str) -> str:
    """Let the reader find the longest word."""
    async with agent_run(READER):
        task = Task(current_context(), run.deps.above.add(READER))
        return (await reader.run(message, deps=task)).output


@reader.tool
async def find_longest(run: RunContext[Task], message: str) -> str:
    """Find the longest word of a message."""
    return await use("find_longest", run, message)


async def use(name: str, run: RunContext[Task], message: str) -> str:
    check_explicit(run.deps)
    return await call(name, message, run.deps.above)


async def work(message: str, plan: Operation) -> str:
    """Run all tools on `message`, and answer when the last has ended."""
    await thinking()
    return (await planner.run(message, deps=Task(current_context(), plan))).output
