"""`agent_run` and `tool_call`: a child context whose beginning and end the user is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs

from ..context import UserExecutionContext
from ..current import child_context, current_scope
from ..errors import ConfigurationError, EventLogError
from ..events import Started, emit, started
from ..events.started import untold
from ..generators import EXIT_STACK, GENERATOR_FLAGS, refuse_generators
from .limits import limit, refuse_too_deep

if TYPE_CHECKING:
    from ..scope import RequestScope

    _Ending = CoroutineType[Any, Any, bool | None]  # an `async def`, as both checkers see one

__all__ = ["Block", "Run", "agent_run", "thinking", "tool_call"]


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
    budget: Mapping[str, float] | None = None,
    depth: int | None = None,
    **data: Any,
) -> contextlib.AbstractAsyncContextManager[Run]:
    """
    A block in which an agent runs: a child context, and `agent_started` to its one end.

    Without a hub for events it is the child context alone::

        async with agent_run("triage", budget={"tokens": 10_000}) as run:
            run.data["tokens"] = 1200

    Args:
        name: of the agent, as users see it.
        timeout: seconds; the deadlines above hold too.
        thread_id, run_id: once they are known.
        budget: what it and all beneath it may `spend`; never more than is left above.
        depth: how many levels of agents and tools may be beneath it.
        data: what the first event says besides.

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ContextLimitError: deeper than `Settings.max_depth`.
        AgentLimitError: deeper than a run above allows.
    """
    return Block("agent", name, timeout, data, thread_id, run_id, budget, depth)


def tool_call(
    name: str, *, timeout: float | None = None, **data: Any
) -> contextlib.AbstractAsyncContextManager[Run]:
    """
    A block in which a tool runs: a child context, and `tool_executing` to `tool_completed`.

    Like `agent_run` in all else::

        async with tool_call("search", call_id="c-1"):
            ...
    """
    return Block("tool", name, timeout, data)


async def thinking(**data: Any) -> None:
    """Tell the user that the agent which runs here asks its model; nothing without a hub's log."""
    if _has_hub(current_scope()):
        try:
            await emit("agent_thinking", data)
        except EventLogError as error:
            untold("agent_thinking", error)


class Block:
    """
    A child scope and its two events; entered once. Lives from entering it to leaving it.

    Written out, and no generator with a decorator: that took half the time of a run.

    Args:
        on_open: is called with the scope once it is open, before anything is told.
    """

    __slots__ = (
        "_budget", "_data", "_depth", "_ids", "_name", "_on_open", "_scope", "_timeout", "_told",
        "_what",
    )  # fmt: skip

    def __init__(
        self,
        what: Literal["agent", "tool"],
        name: str,
        timeout: float | None,
        data: dict[str, Any],
        thread_id: str | None = None,
        run_id: str | None = None,
        budget: Mapping[str, float] | None = None,
        depth: int | None = None,
        on_open: Callable[[RequestScope], None] | None = None,
    ) -> None:
        self._what: Literal["agent", "tool"] = what
        self._name = name
        self._timeout = timeout
        self._data = data
        self._ids = thread_id, run_id
        self._budget = budget
        self._depth = depth
        self._on_open = on_open
        self._scope: Any = None
        self._told: Started | None = None

    async def __aenter__(self) -> Run:
        frame = sys._getframe(1)
        parent = current_scope()
        if frame.f_code.co_flags & GENERATOR_FLAGS or frame.f_code is EXIT_STACK:
            refuse_generators(frame, parent.settings.block_drivers)
        if self._scope is not None:
            raise ConfigurationError(
                "This block was entered already.", "Call `agent_run` or `tool_call` again."
            )
        refuse_too_deep(parent)
        thread_id, run_id = self._ids
        scope: Any = child_context(
            self._name, timeout=self._timeout, thread_id=thread_id, run_id=run_id
        )
        if self._budget is not None or self._depth is not None:
            limit(scope, parent, self._budget, self._depth)
        self._scope = scope
        context = await scope.__aenter__()
        scope._opened_code, scope._opened_instruction = frame.f_code, frame.f_lasti
        del frame  # a held frame keeps every local of its function alive
        if self._on_open is None and not _has_hub(scope):
            return Run(context)
        try:
            return Run(context, await self._begin(scope))
        except BaseException as error:
            await scope.__aexit__(type(error), error, error.__traceback__)
            raise

    async def _begin(self, scope: RequestScope) -> dict[str, Any]:
        if self._on_open is not None:
            self._on_open(scope)
        if not _has_hub(scope):
            return {}
        told = started(self._what, self._name, **self._data)
        await told.__aenter__()
        self._told = told
        return told.data

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> _Ending:
        if self._told is None:  # the scope's own coroutine: it names who awaits it
            return cast("_Ending", self._scope.__aexit__(exc_type, exc, traceback))
        return cast("_Ending", self._end(self._told, exc_type, exc, traceback))

    async def _end(self, told: Started, exc_type: Any, exc: Any, traceback: Any) -> bool | None:
        scope = self._scope
        try:
            await told.__aexit__(exc_type, exc, traceback)
        except BaseException as error:  # the scope hears how it really ended
            await scope.__aexit__(type(error), error, error.__traceback__)
            raise
        left: bool | None = await scope.__aexit__(exc_type, exc, traceback)
        return left


def _has_hub(scope: RequestScope) -> bool:
    recipes = scope._recipes
    return recipes is not None and recipes.events is not None
