"""An event loop of which the seed decides every order, and whose time costs nothing."""

from __future__ import annotations

import asyncio
import heapq
from random import Random
from types import BuiltinFunctionType
from typing import Any

from .seeded import SeededTask

__all__ = ["SeededLoop", "Stalled"]


class Stalled(Exception):
    """Everybody waits, and there is nothing to wait for; or it goes on without an end."""


class SeededLoop(asyncio.BaseEventLoop):
    """
    Runs what is ready in an order of the seed's; moves its clock when nothing is.

    No sockets, no threads, no real time. Lives as long as one world.

    Attributes:
        steps: how many steps of tasks were run: callbacks that resumed a coroutine.
    """

    def __init__(self, chance: Random, limit: int = 100_000) -> None:
        super().__init__()
        self._chance = chance
        self._limit = limit
        self._clock = 0.0
        self.steps = 0
        self.set_task_factory(_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._clock

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _run_once(self) -> None:
        parts: Any = self
        ready, scheduled = parts._ready, parts._scheduled
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._advance(ready, scheduled)
        batch = list(ready)
        ready.clear()
        _shuffle(batch, self._chance.random)
        for handle in batch:
            if not handle._cancelled:
                callback = handle._callback
                kind = type(callback)
                if kind in _STEPS or (
                    kind is BuiltinFunctionType and callback.__name__ == "task_wakeup"
                ):
                    self.steps += 1
                handle._run()
        if self.steps > self._limit:
            raise Stalled(f"no end after {self.steps} steps")

    def _advance(self, ready: Any, scheduled: list[Any]) -> None:
        while scheduled and (not ready or scheduled[0]._when <= self._clock):
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._clock = max(self._clock, timer._when)
                ready.append(timer)
        if not ready:
            raise Stalled("every task waits, and nothing will wake one")


def _task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> SeededTask:
    return SeededTask(coro, loop=loop, **options)


def _shuffle(batch: list[Any], random: Any) -> None:
    for last in range(len(batch) - 1, 0, -1):
        other = int(random() * (last + 1))
        batch[last], batch[other] = batch[other], batch[last]


def _kinds_of_steps() -> frozenset[type]:
    """The types of the callback that begins a task: private ones, so one is made and looked at."""
    loop: Any = asyncio.new_event_loop()
    try:

        async def nothing() -> None: ...

        task = loop.create_task(nothing())
        kind = type(loop._ready[0]._callback)
        loop.run_until_complete(task)
        return frozenset({kind})
    finally:
        loop.close()


_STEPS = _kinds_of_steps()
