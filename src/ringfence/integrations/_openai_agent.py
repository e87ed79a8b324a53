"""UserAgent: an agent of openai-agents whose tools are guarded, and all that it reaches."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

from agents import Agent, FunctionTool, Handoff, RunContextWrapper, Tool

from ..errors import ConfigurationError
from ._openai_hooks import Observer
from ._openai_tools import agent_of, guarded

__all__ = ["UserAgent", "require_user_agents"]

T = TypeVar("T")


class UserAgent(Agent[T]):
    """
    An `Agent` whose tools run, each call, in a child context of whoever is current.

    Lives as long as you keep it, and serves any number of users at once. All that it hands off
    to, and all that are its tools, are `UserAgent`s too. Whoever runs it, its tools are guarded;
    `run` and `run_streamed` of this module tell the user of the run as well::

        clerk = UserAgent(name="clerk", tools=[search], handoffs=[billing])

        async with fence.user_context("u-17"):
            result = await run(clerk, "What is new?")
    """

    async def get_all_tools(self, run_context: RunContextWrapper[T]) -> list[Tool]:
        """Its tools, those of its MCP servers included, guarded."""
        require_user_agents(self)
        return [guarded(tool) for tool in await super().get_all_tools(run_context)]

    def as_tool(self, *args: Any, **options: Any) -> FunctionTool:
        """As `Agent.as_tool`; the user is told that it thinks."""
        given = inspect.signature(super().as_tool).bind(*args, **options)
        given.arguments["hooks"] = Observer(given.arguments.get("hooks"), require_user_agents)
        return super().as_tool(*given.args, **given.kwargs)


def require_user_agents(*agents: Agent[Any]) -> None:
    """
    Refuse plain agents among these, and all that they reach.

    Raises:
        ConfigurationError: the tools of one would run unguarded.
    """
    waiting, seen = list(agents), set[int]()
    while waiting:
        agent = waiting.pop()
        if id(agent) in seen:
            continue
        seen.add(id(agent))
        if not isinstance(agent, UserAgent):
            raise ConfigurationError(
                f"`{agent.name}` is no `UserAgent`: its tools would run unguarded.",
                "Make it one; it takes the same arguments as `Agent`.",
            )
        waiting.extend(_next(agent))


def _next(agent: Agent[Any]) -> Iterator[Agent[Any]]:
    """What it hands off to, as far as that is known before it does, and what its tools run."""
    for target in agent.handoffs:
        reference: Any = getattr(target, "_agent_ref", None)
        found = target if not isinstance(target, Handoff) else reference and reference()
        if isinstance(found, Agent):
            yield found
    for tool in agent.tools:
        found = agent_of(tool)
        if found is not None:
            yield found
