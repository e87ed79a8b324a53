"""A tool's call as frameworks make it: named by a model, and an error may come as an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from ..agents import Run, tool_call

__all__ = ["ToolError", "called_name", "called_tool", "work_as_tool"]

T = TypeVar("T")

_MAX_NAME = 128


class ToolError(Exception):
    """
    A tool answered with an error: ends its block as an exception does, and is caught around it.

    Attributes:
        answer: what a model is to read.
    """

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


async def work_as_tool(
    name: object,
    call_id: object,
    work: Callable[[Run], Awaitable[T]],
    is_error: Callable[[T], bool],
) -> T:
    """
    Do `work` in the block of a tool's call, and return what it gives.

    A framework turns exceptions into answers that a model reads. What such a tool has written
    is rolled back, and its end is told as failed, as if the exception had come through.
    """
    try:
        async with called_tool(name, call_id) as told:
            answer = await work(told)
            if is_error(answer):
                raise ToolError(answer)
            return answer
    except ToolError as failed:
        failure: T = failed.answer
        return failure


def called_tool(name: object, call_id: object) -> AbstractAsyncContextManager[Run]:
    """The block of a tool's call, whatever a model called it."""
    data: dict[str, Any] = {} if call_id is None else {"call_id": str(call_id)[:_MAX_NAME]}
    return tool_call(called_name(name), **data)


def called_name(name: object) -> str:
    """The name that was called, or `unknown` for what no name could be: models invent them."""
    if type(name) is str and name.strip() and name.isprintable() and len(name) <= _MAX_NAME:
        return name
    return "unknown"
