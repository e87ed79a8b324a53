"""
Law 5 by random trials: finalisers under every kind of cancellation, wherever it lands.

    python -m tests.trials.finalisers --trials 10000 --seed 1

Each trial opens a scope with three finalisers drawn from callbacks and entered managers,
cancels the task in one of six ways while the body or a given finaliser runs, and checks that
every finaliser ran once, in order, that the right exception came out, and that nothing is left.
The control runs the same trials over `contextlib.AsyncExitStack`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import attrs

from ringfence import current_scope, user_context
from ringfence import tasks as ringfence_tasks
from ringfence.isolation import registry
from ringfence.state import open_roots

KINDS = ("task x1", "task x3", "task x20", "anyio scope", "timeout", "scope and task x3")
PHASES = ("body", "first", "second", "third", "after")
FINALISERS = ("callback", "generator", "task group", "lock", "fail_after")


class BodyError(Exception):
    """What a failing body raises."""


@attrs.define
class Report:
    """What happened in a run of trials."""

    trials: int = 0
    landed: collections.Counter[str] = attrs.Factory(collections.Counter)
    by_kind: collections.Counter[str] = attrs.Factory(collections.Counter)
    incomplete: int = 0
    wrong_order: int = 0
    wrong_outcome: int = 0
    left: int = 0
    examples: list[str] = attrs.Factory(list)

    @property
    def violations(self) -> int:
        return self.incomplete + self.wrong_order + self.wrong_outcome + self.left


class Trial:
    """One request, its three finalisers, and who cancels it."""

    def __init__(self, rng: random.Random) -> None:
        self.kind = rng.choice(KINDS)
        self.target = rng.choice(PHASES)
        self.body_fails = rng.random() < 0.3
        self.names = [rng.choice(FINALISERS) for _ in range(3)]
        self.ticks = [rng.randint(2, 6) for _ in range(3)]
        self.phase = "before"
        self.ran: list[int] = []
        self.reached = {phase: asyncio.Event() for phase in PHASES}
        self.go = asyncio.Event()
        self.landed = "none"
        self.scope = anyio.CancelScope()
        self.timeout: asyncio.Timeout | None = None

    def __str__(self) -> str:
        return f"{self.kind} in {self.target}, {self.names}, body fails: {self.body_fails}"

    def enter_phase(self, phase: str) -> None:
        self.phase = phase
        self.reached[phase].set()

    async def finalise(self, number: int) -> None:
        """The work of finaliser `number` (0 was registered first, so it runs last)."""
        self.enter_phase(PHASES[3 - number])
        for _ in range(self.ticks[number]):
            await asyncio.sleep(0)
        self.ran.append(number)

    def manager(self, number: int) -> Any:
        return _Recorded(_real_manager(self.names[number]), lambda: self.finalise(number))

    async def cancel(self, task: asyncio.Task[Any]) -> None:
        """Wait for the phase, then strike."""
        await self.reached[self.target].wait()
        self.landed = self.phase
        if "scope" in self.kind:
            self.scope.cancel()
        if self.kind == "timeout" and self.timeout is not None:
            with contextlib.suppress(RuntimeError):  # it has ended: the strike came after
                self.timeout.reschedule(0)
            if self.timeout.expired() or self.landed == "after":
                return
        times = int(self.kind.rpartition("x")[2]) if "task" in self.kind else 0
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)


class _Recorded:
    """A real manager; the trial's own work runs just before it is left, in the same task."""

    def __init__(self, real: Any, work: Callable[[], Awaitable[None]]) -> None:
        self.real = real
        self.work = work

    async def __aenter__(self) -> Any:
        if hasattr(self.real, "__aenter__"):
            return await self.real.__aenter__()
        return self.real.__enter__()

    async def __aexit__(self, *details: Any) -> Any:
        await self.work()
        if hasattr(self.real, "__aexit__"):
            return await self.real.__aexit__(*details)
        return self.real.__exit__(*details)


@contextlib.asynccontextmanager
async def _generator() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0)


def _real_manager(name: str) -> Any:
    if name == "task group":
        return anyio.create_task_group()
    if name == "lock":
        return anyio.Lock()
    if name == "fail_after":
        return anyio.fail_after(60)
    return _generator()


async def _body(trial: Trial) -> None:
    trial.enter_phase("body")
    if trial.target == "body":
        await asyncio.sleep(60)
    await asyncio.sleep(0)
    if trial.body_fails:
        raise BodyError


async def _with_ringfence(trial: Trial) -> None:
    async with user_context("alice-1"):
        scope = current_scope()
        for number, name in enumerate(trial.names):
            if name == "callback":
                scope.callback(trial.finalise, number)
            else:
                await scope.enter(trial.manager(number))
        await _body(trial)


async def _with_exit_stack(trial: Trial) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number, name in enumerate(trial.names):
            if name == "callback":
                stack.push_async_callback(trial.finalise, number)
            else:
                await stack.enter_async_context(trial.manager(number))
        await _body(trial)


async def _request(trial: Trial, block: Callable[[Trial], Awaitable[None]]) -> None:
    with trial.scope:
        async with asyncio.timeout(None) as trial.timeout:
            try:
                await block(trial)
            finally:
                trial.enter_phase("after")
            await asyncio.sleep(0)
            await asyncio.sleep(0.001 if trial.target == "after" else 0)


async def run_trial(trial: Trial, block: Callable[[Trial], Awaitable[None]]) -> str:
    """Run it, and say what came out: `ok`, or the name of the exception."""
    task = asyncio.create_task(_request(trial, block))
    strike = asyncio.create_task(trial.cancel(task))
    await asyncio.wait({task}, timeout=10)
    if not task.done():
        return "hangs"
    strike.cancel()
    await asyncio.wait({strike})
    if task.cancelled():
        return "CancelledError"
    error = task.exception()
    if error is not None:
        return type(error).__name__
    return "swallowed by its scope" if trial.scope.cancelled_caught else "ok"


def expected(trial: Trial) -> set[str]:
    """The outcomes that are right, by what the trial did and where it landed."""
    body = "BodyError" if trial.body_fails else "ok"
    if trial.landed == "after" and trial.body_fails:
        return {body}  # the task has ended with it
    if trial.kind == "timeout":
        return {"TimeoutError"} if trial.landed != "after" else {"TimeoutError", "ok"}
    if trial.kind == "anyio scope":
        # Level-triggered: it strikes at the next checkpoint, which a failing body never has.
        late = trial.landed != "body" and trial.body_fails
        return {body} if late else {"swallowed by its scope"}
    if trial.kind == "scope and task x3":
        return {"CancelledError", "swallowed by its scope"}
    return {"CancelledError"}


async def run(trials: int, seed: int, *, control: bool = False) -> Report:
    """Run that many trials, all drawn from `seed`."""
    rng = random.Random(seed)
    report = Report()
    block = _with_exit_stack if control else _with_ringfence
    for number in range(trials):
        trial = Trial(rng)
        outcome = await run_trial(trial, block)
        report.trials += 1
        report.landed[trial.landed] += 1
        report.by_kind[trial.kind] += 1
        before = report.violations
        report.incomplete += sorted(trial.ran) != [0, 1, 2]
        report.wrong_order += sorted(trial.ran) == [0, 1, 2] and trial.ran != [2, 1, 0]
        report.wrong_outcome += outcome not in expected(trial)
        await asyncio.sleep(0)
        left = len(open_roots()) + len(registry) + len(ringfence_tasks._running)
        report.left += left > 0
        if report.violations > before and len(report.examples) < 5:
            report.examples.append(f"trial {number}: {trial}: {outcome}, ran {trial.ran}")
        if number % 1000 == 999:
            print(f"  {number + 1} of {trials}", file=sys.stderr)
    return report


def show(title: str, report: Report) -> None:
    """Print one report."""
    print(f"{title}: {report.trials} trials")
    print("  cancels landed in  " + "  ".join(f"{p} {report.landed[p]}" for p in PHASES))
    print("  kinds              " + "  ".join(f"{k} {report.by_kind[k]}" for k in KINDS))
    print(
        f"  not all finalisers ran once: {report.incomplete}   wrong order: {report.wrong_order}   "
        f"wrong outcome: {report.wrong_outcome}   something left: {report.left}"
    )
    for example in report.examples:
        print("    " + example)


def main() -> int:
    """Run the trials and their control; 1 if a law was broken or the control found nothing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    held = asyncio.run(run(options.trials, options.seed))
    control = asyncio.run(run(options.trials // 10, options.seed, control=True))
    show("ringfence", held)
    show("control: AsyncExitStack", control)
    return 0 if held.violations == 0 and control.incomplete > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
