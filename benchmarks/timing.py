"""Timing: loops compiled from a statement, CPU time of the thread, rounds in random order."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import attrs

__all__ = ["Case", "Clockwork", "Samples", "drive"]

Loop = Callable[..., Coroutine[Any, Any, int]]
Samples = dict[str, list[float]]
"""Nanoseconds per iteration, by name of the case, one for each round."""


@attrs.frozen(kw_only=True)
class Case:
    """
    One statement to be timed, and what it is divided by.

    Args:
        name: for the command line.
        title: for the table.
        statement: one iteration, as source text.
        names: what the statement's names mean; they are arguments of the loop, so that the
            honesty checks can call this very loop with others.
        around: a line that opens a block around the loop, which is not timed.
        prepare: a line inside that block, before the clock starts.
        of: the name of the case that this one is divided by.
        gate: the ratio above which a run fails; `None` for a row that only informs.
        stretch: the ratio that we would like.
        on_loop: it needs an event loop; otherwise nothing may suspend.
        crowded: other scopes are held open meanwhile.
    """

    name: str
    title: str
    statement: str
    names: Mapping[str, Any] = attrs.field(factory=dict)
    around: str = ""
    prepare: str = ""
    of: str = "floor"
    gate: float | None = None
    stretch: float | None = None
    on_loop: bool = False
    crowded: bool = False
    loop: Loop = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        text = (
            f"async def made(count, {', '.join(self.names)}):\n"
            f"    {self.around or 'if True:'}\n"
            f"        {self.prepare or 'pass'}\n"
            "        began = clock()\n"
            "        for _ in repeat(None, count):\n"
            f"            {self.statement}\n"
            "        return clock() - began\n"
        )
        object.__setattr__(self, "loop", self._compiled(text))

    def in_a_generator(self) -> AsyncGenerator[None, None]:
        """The statement, standing directly in an async generator."""
        text = f"async def made({', '.join(self.names)}):\n    {self.statement}\n    yield\n"
        generator: AsyncGenerator[None, None] = self._compiled(text)(**self.names)
        return generator

    def once(self, **others: Any) -> None:
        """Run one iteration of the timed loop, with other meanings for some names."""
        drive(self.loop(1, **{**self.names, **others}))

    def _compiled(self, text: str) -> Any:
        space: dict[str, Any] = {"clock": time.thread_time_ns, "repeat": itertools.repeat}
        exec(compile(text, f"<benchmark {self.name}>", "exec"), space)
        return space["made"]


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends, without an event loop, and return its value."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("This coroutine suspended; its case needs `on_loop=True`.")


class Clockwork:
    """
    Takes the samples: round by round, every case once, in random order.

    Cases share a round, hence a few hundred milliseconds of the machine's mood; that is why
    ratios are taken within rounds. Use as a context manager: it owns an event loop.
    """

    def __init__(self, sample_ns: int, seed: int) -> None:
        self._sample_ns = sample_ns
        self._random = random.Random(seed)
        self._runner = asyncio.Runner()
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Clockwork:
        return self

    def __exit__(self, *details: object) -> None:
        self._runner.close()

    def measure(
        self,
        cases: Sequence[Case],
        rounds: int,
        crowd: Callable[[], contextlib.AbstractContextManager[Any]],
        progress: Callable[[int, int], None],
    ) -> Samples:
        """Take `rounds` samples of each case; `crowd` is open around the crowded ones."""
        alone = [case for case in cases if not case.crowded]
        crowded = [case for case in cases if case.crowded]
        samples: Samples = {case.name: [] for case in cases}
        with crowd() if crowded else contextlib.nullcontext():
            for case in cases:
                self._counts[case.name] = self._calibrated(case)
        with _frozen():
            for number in range(rounds):
                progress(number, rounds)
                batches = [[case] for case in alone] + ([crowded] if crowded else [])
                self._random.shuffle(batches)
                for batch in batches:
                    self._random.shuffle(batch)
                    with crowd() if batch[0].crowded else contextlib.nullcontext():
                        for case in batch:
                            gc.collect()
                            count = self._counts[case.name]
                            samples[case.name].append(self._spent(case, count) / count)
        return samples

    def _spent(self, case: Case, count: int) -> int:
        coroutine = case.loop(count, **case.names)
        if case.on_loop:
            return self._runner.run(coroutine)
        spent: int = contextvars.Context().run(drive, coroutine)
        return spent

    def _calibrated(self, case: Case) -> int:
        count = 8
        self._spent(case, count)  # the first time imports and caches are made
        while True:
            spent = self._spent(case, count)
            if spent >= self._sample_ns / 4:
                return max(1, round(count * self._sample_ns / spent))
            count *= 2


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """The collector runs as in life, but what was loaded before is none of its business."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
