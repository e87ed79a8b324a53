"""
Tokens for two users at once, from generators that hold a scope open while they stream.

A generator runs in the context of whoever asks for the next item, so a scope opened directly
in one is refused. `bound_stream` gives the generator a task and a context of its own: it stays
right when one consumer interleaves two of them, and when the consumer leaves early.

    python examples/streaming.py
"""

from collections.abc import AsyncGenerator

import anyio

from ringfence import (
    ScopeInGeneratorError,
    bound_stream,
    current_context,
    current_scope,
    user_context,
)


async def answer(user_id: str) -> AsyncGenerator[str, None]:
    async with user_context(user_id):
        current_scope().callback(print, f"closed: the model connection of {user_id}")
        for word in ("your", "notes", "are", "ready"):
            await anyio.sleep(0.01)
            yield f"{current_context().user_id}: {word}"


async def main() -> None:
    try:
        async for _token in answer("ann"):
            pass
    except ScopeInGeneratorError as error:
        print(f"{error.code} refused: a scope directly in a generator")

    async with bound_stream(answer("ann")) as ann, bound_stream(answer("bob")) as bob:
        async for token in ann:
            print(token, "|", await anext(bob))
            if token.endswith("notes"):
                break  # leaving early closes both, each in its own task


anyio.run(main)
