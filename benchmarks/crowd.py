"""A crowd: many scopes held open at once, each by a coroutine of its own, as requests are."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Coroutine, Generator, Iterator
from contextvars import Context
from typing import Any

from ringfence import user_context
from ringfence.state import open_roots

from .cases import IDS

__all__ = ["crowd"]


@types.coroutine
def _suspended() -> Generator[None, None, None]:
    yield


async def _request(number: int) -> None:
    async with user_context(f"usr_{number:020}", thread_id=IDS["thread_id"], run_id=IDS["run_id"]):
        await _suspended()


@contextlib.contextmanager
def crowd(size: int) -> Iterator[None]:
    """Hold `size` root scopes open, each suspended inside its block in a Context of its own."""
    before = len(open_roots())
    members: list[tuple[Context, Coroutine[Any, Any, None]]] = []
    try:
        for number in range(size):
            context, request = Context(), _request(number)
            members.append((context, request))
            context.run(request.send, None)
        if len(open_roots()) != before + size:
            raise RuntimeError(f"{len(open_roots()) - before} scopes are open, not {size}.")
        yield
    finally:
        for context, request in members:
            with contextlib.suppress(StopIteration):
                context.run(request.send, None)
