"""
The agent: keeps what was said, lets the tools work, and answers, at once or word by word.

None of it is told whose request it serves: `current_context()` knows. Nor is it said who hears of
it: `agent_run` and `emit` tell the current user's own connections.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from ringfence import current_context, current_scope
from ringfence.agents import agent_run
from ringfence.events import emit

from .language_model import Conversation, model
from .operations import Operation
from .tables import Message
from .tools import write_note
from .validation import ChatRequest

NAME = "planner"

Work = Callable[[str, Operation], Awaitable[str]]
"""What runs the tools on a message, each beneath the operation, and returns the answer."""


async def run(said: ChatRequest, work: Work) -> tuple[Operation, str]:
    """What ran, and the answer."""
    # Thread and run come in the body, so they are known only now: a child may name them.
    async with agent_run(NAME, thread_id=said.thread_id, run_id=said.run_id):
        message = await keep(said)
        plan = Operation.here(NAME)
        text = await work(said.message, plan)
        await keep_answer(message, text)
    return plan, text


async def answer(said: ChatRequest, work: Work) -> AsyncGenerator[str, None]:
    """
    The answer, word by word.

    A generator that keeps a scope open: to be iterated by `bound_stream`, which gives it a task
    and context of its own, and ends it with the scope that it was asked in.
    """
    async with agent_run(NAME, thread_id=said.thread_id, run_id=said.run_id):
        message = await keep(said)
        await work(said.message, Operation.here(NAME))
        conversation = await converse()
        words = []
        async for word in conversation.say(f"You said: {said.message}"):
            words.append(word)
            yield word
        text = " ".join(words)
        write_note("answer", text)
        await keep_answer(message, text)


async def keep(said: ChatRequest) -> Message:
    """Keep what was said, whatever becomes of the answer."""
    ctx = current_context()
    message = Message(
        user_id=ctx.user_id, thread_id=ctx.thread_id, run_id=ctx.run_id, text=said.message
    )
    ctx.db_session.add(message)
    # Before the tools, which use connections of their own, and a slow model, which needs none.
    await ctx.db_session.commit()
    await emit("message_kept", {"text": said.message})
    return message


async def keep_answer(message: Message, text: str) -> None:
    """Keep it before anybody is told: who hears of it may ask for it."""
    message.answer = text
    await current_context().db_session.commit()
    await emit("answer_kept", {"text": text})


async def converse() -> Conversation:
    """A conversation with the model: closed with the current scope, and refused to any other."""
    scope = current_scope()
    # Not `async with`: when a client leaves, its cancellation would cut the goodbye.
    return scope.own(await scope.enter(model.connect()))
