"""
Agents and their tools as child contexts: whatever drives them, each run ends once and is told.

`agent_run` and `tool_call` are the blocks that everything else is made of; an `AgentRegistry` runs
agents by name within limits, and `tool` makes a tool of a function.
"""

from .explicit import check_explicit
from .limits import Left, left, spend
from .records import RunRecord
from .registry import AgentRegistry
from .runs import Run, agent_run, thinking, tool_call
from .tools import tool
from .websocket import WebSocketRegistry

__all__ = [
    "AgentRegistry",
    "Left",
    "Run",
    "RunRecord",
    "WebSocketRegistry",
    "agent_run",
    "check_explicit",
    "left",
    "spend",
    "thinking",
    "tool",
    "tool_call",
]
