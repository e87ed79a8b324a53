"""`agent_run` and `tool_call`: a child context whose beginning and end the user is told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import attrs

from ..context import UserExecutionContext
from ..current import child_context, current_scope
from ..errors import EventLogError
from ..events import emit, started
from ..events.started import untold

__all__ = ["Run", "agent_run", "thinking", "tool_call"]


@attrs.frozen(eq=False)
class Run:
    """
    One agent or tool that runs. Lives as long as its block.

    Attributes:
        context: the child context that it runs in.
        data: what the last event says besides; yours to fill.
    """

    context: UserExecutionContext
    data: dict[str, Any] = attrs.field(factory=dict)


def agent_run(
    name: str,
    *,
    timeout: float | None = None,
    thread_id: str | None = None,
    run_id: str | None = None,
    **data: Any,
) -> contextlib.AbstractAsyncContextManager[Run]:
    """
    A block in which an agent runs: a child context, and `agent_started` to its one end.

    Without a hub for events it is the child context alone::

        async with agent_run("triage") as run:
            run.data["tokens"] = 1200

    Args:
        name: of the agent, as users see it.
        timeout: seconds; the deadlines above hold too.
        thread_id, run_id: once they are known.
        data: what the first event says besides.

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ContextLimitError: deeper than `Settings.max_depth`.
    """
    return _run("agent", name, timeout, thread_id, run_id, data)


def tool_call(
    name: str, *, timeout: float | None = None, **data: Any
) -> contextlib.AbstractAsyncContextManager[Run]:
    """
    A block in which a tool runs: a child context, and `tool_executing` to `tool_completed`.

    Like `agent_run` in all else::

        async with tool_call("search", call_id="c-1"):
            ...
    """
    return _run("tool", name, timeout, None, None, data)


async def thinking(**data: Any) -> None:
    """Tell the user that the agent which runs here asks its model; nothing without a hub's log."""
    if _has_hub():
        try:
            await emit("agent_thinking", data)
        except EventLogError as error:
            untold("agent_thinking", error)


@contextlib.asynccontextmanager
async def _run(
    what: Literal["agent", "tool"],
    name: str,
    timeout: float | None,
    thread_id: str | None,
    run_id: str | None,
    data: dict[str, Any],
) -> AsyncIterator[Run]:
    async with child_context(name, timeout=timeout, thread_id=thread_id, run_id=run_id) as context:
        if not _has_hub():
            yield Run(context)
            return
        async with started(what, name, **data) as told:
            yield Run(context, told.data)


def _has_hub() -> bool:
    recipes = current_scope()._recipes
    return recipes is not None and recipes.events is not None
