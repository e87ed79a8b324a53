"""
Stands for a language model: slow, word by word, behind a connection that must be closed.

It says its prompt back, so that one can see whose it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio

PACE = 0.02  # seconds for each word


class Conversation:
    """One user's, with the model. Lives as long as its connection."""

    async def say(self, prompt: str) -> AsyncIterator[str]:
        for word in prompt.split():
            await anyio.sleep(PACE)
            yield word


class LanguageModel:
    """Made once per process; it knows no users. Counts its connections, so that one can look."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Conversation]:
        self.opened += 1
        try:
            yield Conversation()
        finally:
            await anyio.sleep(0.01)  # a goodbye takes its time, and a cancellation would cut it
            self.closed += 1


model = LanguageModel()
