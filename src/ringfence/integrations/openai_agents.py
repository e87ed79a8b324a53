"""openai-agents: runs and tools as child contexts, told to the user, with sessions of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio

try:
    from agents import Agent, AgentsException, Runner, RunState
    from agents.items import TResponseInputItem
    from agents.result import RunResult, RunResultStreaming
    from agents.run_config import RunOptions
    from agents.stream_events import StreamEvent
except ImportError as missing:
    raise ImportError(
        'This needs openai-agents. Install it with `pip install "ringfence[openai-agents]"`.'
    ) from missing
from typing_extensions import Unpack

from ..agents import agent_run, check_explicit
from ..current import current_scope
from ..tasks import wait_out
from ._openai_agent import UserAgent, require_user_agents
from ._openai_hooks import Meter
from ._openai_tools import explicit_in, refusal_behind
from ._tools_at_work import outlasting_tools

__all__ = ["UserAgent", "run", "run_streamed"]

Input = str | list[TResponseInputItem] | RunState[Any]


async def run(
    agent: Agent[Any],
    input: Input,
    *,
    timeout: float | None = None,
    **options: Unpack[RunOptions[Any]],
) -> RunResult:
    """
    `Runner.run` in a child context, from `agent_started` to its one end.

    Args:
        agent: where to start.
        input: as `Runner.run` takes it.
        timeout: seconds; the deadlines above hold too.
        options: as `Runner.run` takes them. The `context` is the child's if not given; one that
            has a `user_id` must be of the current user.

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ContextMismatchError: `context`, or the state to go on from, is of another user.
        ConfigurationError: the agent, or one that it hands off to, is a plain `Agent`.
    """
    async with _running(agent, input, timeout, options) as ready:
        return await Runner.run(agent, input, **ready)


@contextlib.asynccontextmanager
async def run_streamed(
    agent: Agent[Any],
    input: Input,
    *,
    timeout: float | None = None,
    **options: Unpack[RunOptions[Any]],
) -> AsyncIterator[RunResultStreaming]:
    """
    `Runner.run_streamed` in a block, which ends the run if it has not ended; as `run` in all else.

    Leaving the block early cancels what still runs, and waits for it. Whoever reads the stream
    meets its failure there; if nobody does, the block raises it::

        async with run_streamed(clerk, "What is new?") as stream:
            async for event in stream.stream_events():
                ...

    To yield from the block, wrap the generator in `bound_stream`.
    """
    ending: BaseException | None = None
    reading: list[bool] = []
    try:
        async with _running(agent, input, timeout, options) as ready:
            limit = current_scope().settings.finaliser_timeout
            stream = _noting(Runner.run_streamed(agent, input, **ready), reading)
            try:
                yield stream
            finally:
                is_whole = await _end(stream, limit)
            ending = stream.run_loop_exception
            if not is_whole:
                ending = asyncio.CancelledError("the stream was left before its end")
            if ending is not None:
                raise ending
    except (Exception, asyncio.CancelledError) as error:
        # Its ending was for the user, and for the block: whoever reads the stream has it there.
        if error is not ending or (isinstance(error, Exception) and not reading):
            raise


def _noting(stream: RunResultStreaming, reading: list[bool]) -> RunResultStreaming:
    """Note whether anybody reads it, since only those hear of a failure there."""
    events = stream.stream_events

    def stream_events() -> AsyncIterator[StreamEvent]:
        reading.append(True)
        return events()

    stream.stream_events = stream_events  # type: ignore[method-assign]
    return stream


@contextlib.asynccontextmanager
async def _running(
    agent: Agent[Any], input: Input, timeout: float | None, options: RunOptions[Any]
) -> AsyncIterator[RunOptions[Any]]:
    """The block of a run; what it gives are the options of the runner."""
    require_user_agents(agent)
    given = options.get("context")
    check_explicit(explicit_in(given))
    if isinstance(input, RunState):
        check_explicit(explicit_in(input._context))
    async with agent_run(agent.name, timeout=timeout) as told, outlasting_tools():
        observer = Meter(options.get("hooks"), require_user_agents)
        ready: RunOptions[Any] = {**options, "hooks": observer}
        if given is None:
            ready["context"] = told.context
        try:
            yield ready
        except AgentsException as error:
            refused = refusal_behind(error)
            if refused is None:
                raise
            raise refused from None
        finally:
            told.data.update(observer.used())


async def _end(stream: RunResultStreaming, limit: float) -> bool:
    """End the loop of a run, and wait for it, whatever cancels this task; was it at its end?"""
    loop = stream.run_loop_task
    if loop is None:
        return True
    if not loop.done():
        stream.cancel()
        over = anyio.Event()
        loop.add_done_callback(lambda _: over.set())
        cancelled = await wait_out(over, limit)
        if cancelled is not None:
            raise cancelled
    return loop.done() and not loop.cancelled()
