"""
The agent's tools: each thinks about the message and writes a note.

None is told whose request it serves, nor given a session: `current_context()` knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ringfence import current_context

from .tables import Note

Tool = Callable[[str], Awaitable[None]]


async def count_words(message: str) -> None:
    await anyio.sleep(0.01)  # where a real tool would wait for a model or a service
    write_note("count_words", f"{len(message.split())} words")


async def find_longest(message: str) -> None:
    await anyio.sleep(0.02)
    write_note("find_longest", max(message.split(), key=len))


async def quote(message: str) -> None:
    await anyio.sleep(0.01)
    write_note("quote", f'"{message}"')


def write_note(tool: str, text: str) -> None:
    """Committed when the tool's scope ends well."""
    ctx = current_context()
    ctx.db_session.add(
        Note(
            user_id=ctx.user_id, run_id=ctx.run_id, request_id=ctx.request_id, tool=tool, text=text
        )
    )


TOOLS: dict[str, Tool] = {tool.__name__: tool for tool in (count_words, find_longest, quote)}
