"""
The agent: keeps what was said, lets the planner run the tools, and answers word by word.

None of it is told whose request it serves: `current_context()` knows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ringfence import child_context, current_context, current_scope

from . import planner
from .language_model import Conversation, model
from .tables import Message
from .tools import write_note
from .validation import ChatRequest


async def keep(said: ChatRequest) -> None:
    """Keep what was said, whatever becomes of the answer."""
    ctx = current_context()
    ctx.db_session.add(
        Message(user_id=ctx.user_id, thread_id=ctx.thread_id, run_id=ctx.run_id, text=said.message)
    )
    # Before the tools, which use connections of their own, and a slow model, which needs none.
    await ctx.db_session.commit()


async def converse() -> Conversation:
    """A conversation with the model: closed with the current scope, and refused to any other."""
    scope = current_scope()
    # Not `async with`: when a client leaves, its cancellation would cut the goodbye.
    return scope.own(await scope.enter(model.connect()))


async def answer(said: ChatRequest) -> AsyncGenerator[str, None]:
    """
    The answer, word by word.

    A generator that keeps a scope open: to be iterated by `bound_stream`, which gives it a task
    and context of its own, and ends it with the scope that it was asked in.
    """
    async with child_context("answer", thread_id=said.thread_id, run_id=said.run_id):
        await keep(said)
        await planner.run(said.message)
        conversation = await converse()
        words = []
        async for word in conversation.say(f"You said: {said.message}"):
            words.append(word)
            yield word
        write_note("answer", " ".join(words))
