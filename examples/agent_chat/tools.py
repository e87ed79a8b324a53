"""
The agent's tools: each thinks about the message and writes a note.

None is told whose request it serves, nor given a session: `current_context()` knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio

from ringfence import current_context
from ringfence.agents import tool_call

from .operations import Operation
from .tables import Note

PACE = 0.01  # seconds that a tool waits for a model or a service, about

Tool = Callable[[str], Awaitable[str]]


class ToolFailed(Exception):
    """What a tool asks is not to be had. Say `fail` to see it."""


async def count_words(message: str) -> str:
    await anyio.sleep(PACE)
    return write_note("count_words", f"{len(message.split())} words")


async def find_longest(message: str) -> str:
    await anyio.sleep(2 * PACE)
    return write_note("find_longest", max(message.split(), key=len))


async def quote(message: str) -> str:
    await anyio.sleep(PACE)
    if message.strip() == "fail":
        raise ToolFailed
    return write_note("quote", f'"{message}"')


def write_note(tool: str, text: str) -> str:
    """Committed when the tool's scope ends well."""
    ctx = current_context()
    ctx.db_session.add(
        Note(
            user_id=ctx.user_id, run_id=ctx.run_id, request_id=ctx.request_id, tool=tool, text=text
        )
    )
    return text


TOOLS: dict[str, Tool] = {tool.__name__: tool for tool in (count_words, find_longest, quote)}


async def call(name: str, message: str, above: Operation) -> str:
    """Run one tool in a child scope: a session must not be used by two tasks at once."""
    async with tool_call(name):
        above.add(name)
        return await TOOLS[name](message)


def summed_up(found: Mapping[str, str]) -> str:
    """What the tools found, as an answer."""
    return f"{found['count_words']}; the longest is “{found['find_longest']}”. {found['quote']}"
