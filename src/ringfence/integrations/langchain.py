"""
LangChain and LangGraph: runs, tools and nodes as child contexts, threads that are their user's.

Wrapping hooks alone: what callbacks and `before_agent` set is lost, and they may never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import ToolMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import ensure_config
    from langgraph.config import get_config
    from langgraph.errors import GraphInterrupt
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.runtime import get_runtime
except ImportError as missing:
    raise ImportError(
        'This needs LangChain. Install it with `pip install "ringfence[langchain]"`.'
    ) from missing

from ..agents import Run, agent_run, check_explicit, thinking
from ..context import UserExecutionContext
from ..current import child_context, current_context, current_scope
from ..errors import ContextMismatchError, WrongTypeError
from ..streaming import BoundStream, bound_stream
from ._called_tools import ToolError, called_tool, work_as_tool
from ._held_blocks import call_in_loop, remember_loop, work_within
from ._owned_checkpoints import OwnedThreads
from ._owned_threads import checked_thread, thread_key

__all__ = [
    "OwnedThreads",
    "RingfenceMiddleware",
    "node",
    "owned_thread",
    "run",
    "run_sync",
    "stream",
    "tool_scope",
    "tool_scope_sync",
]

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPT = "__interrupt__"


# --- threads ----------------------------------------------------------------------------------


def owned_thread(
    thread_id: str | None = None, *, config: RunnableConfig | None = None
) -> RunnableConfig:
    """
    A config whose thread is the current user's, and cannot be anybody else's::

        await graph.aget_state(owned_thread("t-17"))

    A checkpointer looks a thread up by its id alone. This one is made of tenant, user and
    thread, so that two users may call theirs the same.

    Args:
        thread_id: as the user's client knows it; the current context's if not given.
        config: what else it should say; it is not changed.

    Raises:
        InvalidContextError: no id.
        ContextMismatchError: `config` names another thread already.
        NoContextError, ContextClosedError: nobody is current here.
    """
    context = current_context()
    thread = context.thread_id if thread_id is None else thread_id
    current_scope().settings.id_rules.check("thread_id", thread)
    key = thread_key(context, thread)
    merged: RunnableConfig = {**config} if config is not None else {}
    configurable = dict(merged.get("configurable") or {})
    if configurable.get("thread_id") not in (None, key):
        raise ContextMismatchError(
            "The config names another thread already.",
            "Leave `thread_id` out of it; `owned_thread` puts it in.",
            request_id=current_scope().request_id,
        )
    merged["configurable"] = configurable | {"thread_id": key}
    return merged


def _check(context: Any, config: Mapping[str, Any]) -> str | None:
    """Refuse what says that it is another user's; the thread that the config names."""
    configurable: Mapping[str, Any] = config.get("configurable") or {}
    check_explicit(context)
    check_explicit(configurable)
    thread = configurable.get("thread_id")
    return None if thread is None else checked_thread(thread)


# --- runs -------------------------------------------------------------------------------------


async def run(
    agent: Any,
    input: Any,
    *,
    name: str | None = None,
    config: RunnableConfig | None = None,
    context: Any = None,
    timeout: float | None = None,
    **options: Any,
) -> Any:
    """
    `await agent.ainvoke(input)` as a child context, from `agent_started` to its one end.

    Around any agent or graph, and within tools and nodes for another agent::

        await run(agent, {"messages": [("user", "hello")]})

    Args:
        agent: what `create_agent` or `StateGraph.compile` made; one for all users.
        input: for `ainvoke`, a `Command(resume=...)` too.
        name: as users see it; the agent's own if not given.
        config: if it names a thread, that must be the current user's: see `owned_thread`. If
            not, the run is in the thread of the run around it, else of the current context.
        context: for the agent's `context_schema`. Not given, it is the child context, if the
            schema is `UserExecutionContext`.
        timeout: seconds.
        options: for `ainvoke`.

    Raises:
        ContextMismatchError: `context` or `config` is another user's.
        NoContextError, ContextClosedError: nobody is current here.
    """
    async with _running(agent, name, config, context, timeout) as (told, given, explicit):
        result = await agent.ainvoke(input, given, context=explicit, **options)
        told.data.update(_told_of(result))
        return result


def run_sync(
    agent: Any,
    input: Any,
    *,
    name: str | None = None,
    config: RunnableConfig | None = None,
    context: Any = None,
    timeout: float | None = None,
    **options: Any,
) -> Any:
    """
    `run` for plain `agent.invoke(input)`: in plain tools and nodes, worker threads, `run_as`.

    `timeout` ends what awaits; plain code it cannot stop, and is told after that has ended.

    Raises:
        ConfigurationError: the event loop is blocked by code that waits for this.
        and what `run` raises.
    """

    def invoke(opened: tuple[Run, RunnableConfig, Any]) -> Any:
        told, given, explicit = opened
        result = agent.invoke(input, given, context=explicit, **options)
        told.data.update(_told_of(result))
        return result

    return work_within(lambda: _running(agent, name, config, context, timeout), invoke)


def stream(
    agent: Any,
    input: Any,
    *,
    name: str | None = None,
    config: RunnableConfig | None = None,
    context: Any = None,
    timeout: float | None = None,
    **options: Any,
) -> BoundStream[Any]:
    """
    `agent.astream(input)` like `run`; its child context stays open while it is consumed::

        async with stream(agent, question, stream_mode="messages") as chunks:
            async for chunk in chunks:
                ...

    It runs in a task of its own, in the scope that is open where it is made, and ends with
    that: iterating it afterwards is refused, and what ran was ended. In a block, leaving early
    ends it at once.

    Args:
        options: for `astream`; the others are those of `run`.

    Raises:
        what `run` raises, on iterating.
    """
    return bound_stream(_items(agent, input, name, config, context, timeout, options))


async def _items(
    agent: Any,
    input: Any,
    name: str | None,
    config: RunnableConfig | None,
    context: Any,
    timeout: float | None,
    options: dict[str, Any],
) -> AsyncGenerator[Any, None]:
    with contextlib.suppress(_LeftEarly):
        async with _running(agent, name, config, context, timeout) as (told, given, explicit):
            items = agent.astream(input, given, context=explicit, **options)
            async with contextlib.aclosing(items):
                async for item in items:
                    told.data.update(_told_of(item))
                    try:
                        yield item
                    except GeneratorExit:
                        # With that a block could not wait for its own end.
                        raise _LeftEarly from None


class _LeftEarly(asyncio.CancelledError):
    """Whoever consumed a stream wants no more of it: the run in it is cancelled."""


@contextlib.asynccontextmanager
async def _running(
    agent: Any, name: str | None, config: RunnableConfig | None, context: Any, timeout: float | None
) -> AsyncIterator[tuple[Run, RunnableConfig, Any]]:
    remember_loop()
    whole = ensure_config(config)  # with what the run around this one says
    thread = _check(context, whole)
    if thread is None:
        config = owned_thread(config=config)
    shown = name or getattr(agent, "name", None) or type(agent).__name__
    async with agent_run(shown, timeout=timeout, thread_id=thread) as told:
        with _marking_interrupts(told):
            yield told, config or {}, _explicit(agent, context, told.context)


def _explicit(agent: Any, context: Any, own: UserExecutionContext) -> Any:
    """What the run is given as its context: the child, if that is what its schema says."""
    schema = getattr(agent, "context_schema", None)
    if context is None and isinstance(schema, type) and issubclass(type(own), schema):
        return own
    return context


def _told_of(result: Any) -> dict[str, Any]:
    """What the end of a run says of its result: whether it waits for somebody's answer."""
    part = result[-1] if isinstance(result, tuple) and result else result
    is_interrupted = getattr(part, "interrupts", None) or (
        isinstance(part, Mapping) and part.get(INTERRUPT)
    )
    return {"interrupted": True} if is_interrupted else {}


# --- tools and models -------------------------------------------------------------------------


async def tool_scope(
    request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[Any]]
) -> Any:
    """
    Each tool call in a child context of its own, with its own session and events.

    For plain graphs: `ToolNode(tools, awrap_tool_call=tool_scope)`. An agent has
    `RingfenceMiddleware`.

    Raises:
        ContextMismatchError: the run is another user's than the scope that is open.
        NoContextError, ContextClosedError: nobody is current here.
    """
    _check(request.runtime.context, request.runtime.config)
    remember_loop()

    async def work(told: Run) -> Any:
        with _marking_interrupts(told):
            return await execute(request)

    call = request.tool_call
    return await work_as_tool(call["name"], call["id"], work, _is_error)


def tool_scope_sync(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
    """`tool_scope` for plain `invoke`: `ToolNode(tools, wrap_tool_call=tool_scope_sync)`."""
    _check(request.runtime.context, request.runtime.config)

    def work(told: Run) -> Any:
        with _marking_interrupts(told):
            answer = execute(request)
        if _is_error(answer):
            raise ToolError(answer)
        return answer

    call = request.tool_call
    try:
        return work_within(lambda: called_tool(call["name"], call["id"]), work)
    except ToolError as failed:
        return failed.answer


@contextlib.contextmanager
def _marking_interrupts(told: Run) -> Iterator[None]:
    try:
        yield
    except GraphInterrupt:
        told.data["interrupted"] = True
        raise


def _is_error(answer: Any) -> bool:
    answers = answer if isinstance(answer, list) else [answer]
    return any(isinstance(said, ToolMessage) and said.status == "error" for said in answers)


class RingfenceMiddleware(AgentMiddleware[Any, Any, Any]):
    """
    An agent whose tools run in child contexts, and whose model calls are told as thinking.

    Lives as long as the agent, and serves all users. Put it last, so that each attempt of a
    middleware that retries has a context of its own::

        agent = create_agent(model, tools, middleware=[RingfenceMiddleware()])

    A run whose `context` or `thread_id` is another user's than the scope that is open is
    refused with `ContextMismatchError`; without a scope, with `NoContextError`.
    """

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """See `tool_scope`."""
        return await tool_scope(request, handler)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]
    ) -> Any:
        """See `tool_scope_sync`."""
        return tool_scope_sync(request, handler)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Check whose the run is, and tell that the agent thinks."""
        _check(request.runtime.context, get_config())
        remember_loop()
        await thinking()
        return await handler(request)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Check whose the run is, and tell that the agent thinks."""
        _check(request.runtime.context, get_config())
        call_in_loop(thinking)
        return handler(request)


# --- nodes ------------------------------------------------------------------------------------


def node(fn: F) -> F:
    """
    A node of a plain graph in a child context of its own, sync or async::

        builder.add_node("plan", node(plan))

    Raises:
        WrongTypeError: a generator.
        ContextMismatchError: when it runs, the run is another user's than the open scope.
        NoContextError, ContextClosedError: when it runs, nobody is current.
    """
    call = fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise WrongTypeError(
            "A node is a function that returns, not a generator.",
            "Write to `get_stream_writer()` what it should stream.",
            rule="type",
        )
    name = str(getattr(fn, "__name__", type(fn).__name__))
    wrapped = _async_node(fn, name) if inspect.iscoroutinefunction(call) else _node(fn, name)
    return cast("F", functools.wraps(fn)(wrapped))


def _async_node(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    async def in_scope(*args: Any, **kwargs: Any) -> Any:
        _check(get_runtime().context, get_config())
        remember_loop()
        async with child_context(name):
            return await fn(*args, **kwargs)

    return in_scope


def _node(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        _check(get_runtime().context, get_config())
        return work_within(lambda: child_context(name), lambda _: fn(*args, **kwargs))

    return in_scope
