"""One object that is being made: who waits for it, and who must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import anyio

from ..tasks import is_cancellation

__all__ = ["MISSING", "PAUSE", "Pending", "making"]

PAUSE = 0.002
"""Seconds between two looks at what another event loop may be about."""

MISSING: Any = object()

making: ContextVar[Pending | None] = ContextVar("ringfence_making", default=None)
"""What is being made here, so that a factory that waits for itself is refused."""


class Pending:
    """
    An object that is being made. Lives until it is there, or its maker failed.

    Whoever asks meanwhile waits, and gets the same object; or, in the same request, the same
    failure. If the maker was cancelled, or failed in another request, one of those who wait makes
    it anew.

    Args:
        is_shared: it is more than one request's, so that they may be on several event loops.
    """

    __slots__ = ("_event", "_is_finished", "_is_shared", "error", "plan", "value", "waits_for")

    def __init__(self, plan: Any, *, is_shared: bool) -> None:
        self.plan = plan
        self._is_shared = is_shared
        self._is_finished = False
        self.value: Any = MISSING
        self.error: BaseException | None = None
        self.waits_for: set[Pending] = set()
        self._event: anyio.Event | None = None

    async def wait(self) -> Any:
        """The object once it is there; `MISSING` if it has to be made anew."""
        if self._is_shared:
            while not self._is_finished:  # noqa: ASYNC110 - no event wakes another event loop
                await anyio.sleep(PAUSE)
        else:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        if self.error is not None:
            raise self.error
        return self.value

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Tell those who wait."""
        self.value = value
        self.error = None if is_cancellation(error) or not isinstance(error, Exception) else error
        self._is_finished = True
        if self._event is not None:
            self._event.set()

    def leads_to(self, other: Pending) -> bool:
        """Whether this cannot be finished before `other` is."""
        return other in self._chain(set())

    def _chain(self, seen: set[Pending]) -> Iterator[Pending]:
        if self not in seen:
            seen.add(self)
            yield self
            for awaited in tuple(self.waits_for):
                yield from awaited._chain(seen)
