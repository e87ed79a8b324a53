"""Hooks of openai-agents that tell the user, beside those of the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.lifecycle import RunHooksBase

from ..agents import thinking
from ..current import current_scope
from ..events import emit

__all__ = ["Meter", "Observer"]


class Observer(RunHooksBase[Any, Any]):
    """
    Tells the user what the agents of a run do, and passes all on to the application's own hooks.

    Lives as long as a run, or as an agent that is a tool. It opens nothing: hooks run in tasks of
    their own, and those of an end are not called on every ending.
    """

    def __init__(self, theirs: Any, require: Callable[[Any], None]) -> None:
        if theirs is not None and not isinstance(theirs, RunHooksBase):
            raise TypeError(f"Hooks of a run are `RunHooks`, not `{type(theirs).__name__}`.")
        self._theirs: Any = RunHooksBase() if theirs is None else theirs
        self._require = require

    async def on_llm_start(
        self, context: Any, agent: Any, system_prompt: Any, input_items: Any
    ) -> None:
        """Before each request to a model: a plain agent gets no further."""
        self._require(agent)
        await thinking(agent=agent.name)
        await self._theirs.on_llm_start(context, agent, system_prompt, input_items)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """When another agent takes over."""
        self._require(to_agent)
        await _tell("agent_handoff", {"from": from_agent.name, "to": to_agent.name})
        await self._theirs.on_handoff(context=context, from_agent=from_agent, to_agent=to_agent)

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        """As the application's."""
        await self._theirs.on_llm_end(context, agent, response)

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """As the application's."""
        await self._theirs.on_agent_start(context, agent)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """As the application's."""
        await self._theirs.on_agent_end(context, agent, output)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """As the application's."""
        await self._theirs.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        """As the application's."""
        await self._theirs.on_tool_end(context, agent, tool, result)


async def _tell(kind: str, data: dict[str, Any]) -> None:
    recipes = current_scope()._recipes
    if recipes is not None and recipes.events is not None:
        await emit(kind, data)


class Meter(Observer):
    """An observer of one run that keeps what the run uses."""

    _usage: Any = None
    _before = (0, 0, 0)

    async def on_llm_start(
        self, context: Any, agent: Any, system_prompt: Any, input_items: Any
    ) -> None:
        """The usage is one object all along, and counts on where a run is taken up again."""
        if self._usage is None:
            self._usage = context.usage
            self._before = _numbers(context.usage)
        await super().on_llm_start(context, agent, system_prompt, input_items)

    def used(self) -> dict[str, int]:
        """Requests and tokens until now, as the end of a run tells them."""
        if self._usage is None:
            return {}
        requests, given, got = map(int.__sub__, _numbers(self._usage), self._before)
        return {"requests": requests, "input_tokens": given, "output_tokens": got}


def _numbers(usage: Any) -> tuple[int, int, int]:
    return usage.requests, usage.input_tokens, usage.output_tokens
