"""A model without a network that calls the tools that it is asked to, and graphs of it."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class Scripted(BaseChatModel):
    """
    Calls the tools that the last human message names, as JSON, at once; then says it is done.

    It keeps nothing, so that one serves all users at once.
    """

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        last = messages[-1]
        message = AIMessage("done")
        if isinstance(last, HumanMessage):
            calls = json.loads(str(last.content))
            message = AIMessage(
                "",
                tool_calls=[
                    {"name": name, "args": args, "id": f"call-{number}", "type": "tool_call"}
                    for number, (name, args) in enumerate(calls)
                ],
            )
        return ChatResult(generations=[ChatGeneration(message=message)])


def asking(*calls: Any) -> dict[str, Any]:
    """What to give an agent so that it calls these tools, by name or as `(name, arguments)`."""
    named = [(call, {}) if isinstance(call, str) else call for call in calls]
    return {"messages": [HumanMessage(json.dumps(named))]}
