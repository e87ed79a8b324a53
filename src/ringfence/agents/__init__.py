"""
Agents and their tools as child contexts: whatever drives them, each run ends once and is told.

`agent_run` and `tool_call` are the blocks that everything else is made of.
"""

from .explicit import check_explicit
from .runs import Run, agent_run, thinking, tool_call

__all__ = ["Run", "agent_run", "check_explicit", "thinking", "tool_call"]
