"""Tools of openai-agents, each call of which runs in a child context of its own."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agents import RunContextWrapper, Tool
from agents import tool as _tools
from agents.exceptions import AgentsException
from agents.tool_context import ToolContext

from ..agents import agent_run, check_explicit, tool_call
from ..errors import RingfenceError
from ._tools_at_work import outlasting_tools
from .problems import refusal_in

__all__ = ["agent_of", "explicit_in", "guarded", "refusal_behind"]

try:
    _Invoker = _tools._FailureHandlingFunctionToolInvoker
except AttributeError as missing:
    raise ImportError(
        "This release of openai-agents calls its tools in a way that is not known here. "
        'Install one that is with `pip install "ringfence[openai-agents]"`.'
    ) from missing

_Implementation = Callable[[ToolContext[Any], str], Awaitable[Any]]


def guarded(tool: Tool) -> Tool:
    """A copy of a tool whose calls run in child contexts; one that runs no code here, as it is."""
    invoker = getattr(tool, "on_invoke_tool", None)
    if invoker is None or isinstance(invoker, _Guard) or hasattr(invoker, "_is_guard"):
        return tool
    copied: Any = copy.copy(tool)
    if isinstance(copied.on_invoke_tool, _Invoker):
        copied.on_invoke_tool = _Guard._around(copied.on_invoke_tool)
    else:
        copied.on_invoke_tool = _guard(copied, copied.on_invoke_tool)
    return copied  # type: ignore[no-any-return]


def agent_of(tool: object) -> Any:
    """The agent that a tool runs, if it is `Agent.as_tool()`."""
    return getattr(tool, "_agent_instance", None)


def explicit_in(given: Any) -> Any:
    """The application's own context, which the SDK may have wrapped."""
    return given.context if isinstance(given, RunContextWrapper) else given


def refusal_behind(error: BaseException | None) -> RingfenceError | None:
    """What ringfence refused, if the SDK made this error of it."""
    while isinstance(error, AgentsException):
        error = error.__cause__
    found = None if error is None else refusal_in(error)
    return found if isinstance(found, RingfenceError) else None


class _Guard(_Invoker):
    """
    Calls a tool that `function_tool` made, in a child context. Lives as long as the tool.

    It is of the SDK's class, for the SDK looks at that before it lets a tool run unasked.
    """

    @classmethod
    def _around(cls, invoker: Any) -> _Guard:
        guard = cls.__new__(cls)
        vars(guard).update(vars(invoker))
        return guard

    def __agents_bind_function_tool__(self, function_tool: Any) -> _Guard:
        """When a tool is copied, the copy's invoker is to be a guard too."""
        if self._function_tool is function_tool:
            return self
        guard = self._around(self)
        guard._function_tool = function_tool
        return guard

    async def __call__(self, ctx: ToolContext[Any], input: str) -> Any:
        failures: list[Exception] = []
        noting = _noting(self._invoke_tool_impl, failures)
        tool = self._function_tool
        invoker = _Invoker(noting, self._on_handled_error, function_tool=tool)
        return await _call(tool, ctx, functools.partial(invoker, ctx, input), failures)


def _guard(tool: Any, invoker: Any) -> Any:
    @functools.wraps(invoker)  # the SDK reads from the signature what context it wants
    async def guard(ctx: Any, input: str) -> Any:
        async def invoke() -> Any:
            answer = invoker(ctx, input)
            return await answer if isinstance(answer, Awaitable) else answer

        return await _call(tool, ctx, invoke, [])

    guard._is_guard = True  # type: ignore[attr-defined]
    return guard


def _noting(implementation: _Implementation, failures: list[Exception]) -> _Implementation:
    async def note(ctx: ToolContext[Any], input: str) -> Any:
        try:
            return await implementation(ctx, input)
        except Exception as error:
            failures.append(error)
            raise

    return note


async def _call(
    tool: Any, ctx: Any, invoke: Callable[[], Awaitable[Any]], failures: list[Exception]
) -> Any:
    """
    Call it in its block, which a failure ends as one, also if the model gets an answer of it.

    Else what a failed tool has written would be committed.
    """
    check_explicit(explicit_in(ctx))
    answers: list[Any] = []
    try:
        async with _block(tool, ctx):
            answers.append(await invoke())
            if failures:
                raise failures[-1]
    except Exception as error:
        if not answers or error not in failures:
            raise
        refused = refusal_behind(error)
        if refused is not None:  # no matter for a model
            raise refused from None
    return answers[0]


@contextlib.asynccontextmanager
async def _block(tool: Any, ctx: Any) -> AsyncIterator[None]:
    agent = agent_of(tool)
    async with tool_call(tool.name, call_id=getattr(ctx, "tool_call_id", None)):
        if agent is None:
            yield
        else:
            async with agent_run(agent.name), outlasting_tools():
                yield
