"""pydantic-ai: runs and tools as child contexts, told to the user, with sessions of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

try:
    from pydantic_ai import RunContext, ToolDefinition
    from pydantic_ai.capabilities import (
        AbstractCapability,
        CapabilityOrdering,
        WrapModelRequestHandler,
        WrapRunHandler,
        WrapToolExecuteHandler,
    )
    from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, SkipToolExecution
    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.toolsets import AbstractToolset
    from pydantic_ai.usage import RunUsage
except ImportError as missing:
    raise ImportError(
        'This needs pydantic-ai. Install it with `pip install "ringfence[pydantic-ai]"`.'
    ) from missing

from ..agents import Run, agent_run, check_explicit, thinking, tool_call
from ..current import current_scope
from ..errors import ConfigurationError, ContextClosedError
from ..generators import GENERATOR_FLAGS, refuse_generators
from ..scope import RequestScope
from ._tools_at_work import outlasting_tools

__all__ = ["RingfenceCapability"]

_DEFERRALS = (ApprovalRequired, CallDeferred)
"""How a tool says that it is somebody else's turn, which is no failure."""


@dataclasses.dataclass
class RingfenceCapability(AbstractCapability[Any]):
    """
    Runs an agent, and each of its tools, in a child context of whoever is current.

    Lives as long as the agent that it is given to, and serves any number of users at once; for
    each run pydantic-ai takes a copy. Dependencies that have a `user_id` must be of the current
    user, at the beginning of a run and at each tool::

        agent = Agent(model, deps_type=UserExecutionContext, capabilities=[RingfenceCapability()])

        async with fence.user_context("u-17") as ctx:
            await agent.run("What is new?", deps=ctx)

    Agents that a tool runs need one of their own: nothing of it is handed on.

    Raises:
        ConfigurationError: it cannot wait to be loaded by the model.
    """

    id: str | None = "ringfence"
    _scope: RequestScope | None = dataclasses.field(
        default=None, init=False, repr=False, compare=False
    )
    _tools: set[asyncio.Task[Any]] = dataclasses.field(
        default_factory=set, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Refuse what would leave tools unguarded."""
        if self.defer_loading:
            raise ConfigurationError(
                "Runs cannot be guarded only once the model has asked for it.",
                "Leave `defer_loading` out.",
            )

    def get_ordering(self) -> CapabilityOrdering:
        """Around all others, so that what they do happens inside the child contexts."""
        return CapabilityOrdering(position="outermost")

    async def for_run(self, ctx: RunContext[Any]) -> RingfenceCapability:
        """A copy, for it remembers whose run it is."""
        return dataclasses.replace(self)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> None:
        """No other tools; but it is called where the run is begun, and so tells by whom."""
        _refuse_generators(sys._getframe(1))

    async def wrap_run(
        self, ctx: RunContext[Any], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        """Run the agent in a child context, from `agent_started` to its one end."""
        check_explicit(ctx.deps)
        before = dataclasses.replace(ctx.usage)
        async with (
            agent_run(_name(ctx)) as run,
            outlasting_tools(self._cancel_tools) as self._scope,
        ):
            try:
                return await handler()
            finally:
                _count(run, before, ctx.usage)

    async def wrap_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        handler: WrapModelRequestHandler,
    ) -> ModelResponse:
        """Tell the user that the agent thinks, if it is still theirs."""
        self._require_own(ctx)
        await thinking(step=ctx.run_step)
        return await handler(request_context)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Run the tool in a child context, from `tool_executing` to `tool_completed`."""
        self._require_own(ctx)
        async with tool_call(call.tool_name, call_id=call.tool_call_id) as run:
            try:
                with self._at_work():
                    return await handler(args)
            except (*_DEFERRALS, SkipToolExecution) as error:
                control = error
                run.data["is_deferred"] = isinstance(error, _DEFERRALS)
        raise control

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        task: Any = asyncio.current_task()  # one there is: pydantic-ai runs on asyncio alone
        self._tools.add(task)
        try:
            yield
        finally:
            self._tools.discard(task)

    def _cancel_tools(self) -> None:
        """
        End the tools of a run that ends, which pydantic-ai does once the run's context is closed.

        One is enough: pydantic-ai then cancels those beside it, once each, and waits for them.
        """
        for task in list(self._tools)[:1]:
            task.cancel()

    def _require_own(self, ctx: RunContext[Any]) -> None:
        """The run goes on where it began, and the scope that it began in is open."""
        scope = self._scope
        if scope is None:
            raise ContextClosedError(
                "This run has not begun, or not in a scope.", "Run the agent in `user_context`."
            )
        scope._require_here()
        check_explicit(ctx.deps)


def _refuse_generators(frame: FrameType | None) -> None:
    """Whoever enters the block of a run has its context in theirs: pydantic-ai puts it there."""
    while frame is not None and not frame.f_code.co_flags & GENERATOR_FLAGS:
        frame = frame.f_back
    refuse_generators(frame, current_scope().settings.block_drivers)


def _name(ctx: RunContext[Any]) -> str:
    name = None if ctx.agent is None else ctx.agent.name
    return name or "agent"


def _count(run: Run, before: RunUsage, usage: RunUsage) -> None:
    run.data["requests"] = usage.requests - before.requests
    run.data["input_tokens"] = usage.input_tokens - before.input_tokens
    run.data["output_tokens"] = usage.output_tokens - before.output_tokens
