"""The simulation itself: that it repeats, that its time costs nothing, and that it finds."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time

import pytest

from ringfence import user_context
from tests.mutants.core import MUTANTS as CORE
from tests.mutants.mutant import ROOT, Mutant, Stale, applied
from tests.mutants.simulated import AT_THE_BOUNDARY, OF_SESSIONS, OUT_OF_REACH, must_be_noticed

from .report import Report
from .simulation import leg
from .simulation.hunt import SIMULATORS, hunt
from .simulation.loop import SeededLoop, Stalled
from .simulation.oracle import Life, World
from .simulation.planted import CouldNotRun, find
from .simulation.seeded import chance_of, seeded
from .simulation.worlds import AsyncioRunner, make_world

TRACES = """
from tests.torture.simulation.hunt import SIMULATORS
from tests.torture.simulation.seeded import seeded
with seeded():
    print([SIMULATORS["{kind}"](7, number).trace for number in {numbers}])
"""


def traces(kind: str, numbers: list[int], hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRACES.format(kind=kind, numbers=numbers)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", sorted(SIMULATORS))
def test_a_world_is_the_same_in_any_process_and_after_any_other(kind: str) -> None:
    first = traces(kind, [0, 1, 2, 3, 4, 5, 6, 7], "1").strip("[]\n").split(", ")
    alone = traces(kind, [7], "2").strip("[]\n")
    assert first[7] == alone
    assert len(set(first)) == 8


@pytest.mark.parametrize("kind", sorted(SIMULATORS))
def test_no_promise_is_broken_in_a_few_worlds(kind: str) -> None:
    found = hunt(kind, seed=1, numbers=range(250 if kind == "asyncio" else 20))
    assert found is None, found


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[int]:
        ran: list[int] = []

        async def note(number: int) -> None:
            ran.append(number)

        async def main() -> None:
            await asyncio.gather(*(note(number) for number in range(10)))

        with seeded():
            loop = SeededLoop(chance_of(seed, 0))
            loop.run_until_complete(main())
            loop.close()
        return ran

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(10))


def test_steps_are_those_of_tasks_and_time_costs_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            await asyncio.sleep(3600)
            loop.call_soon(int)  # no step of a task

    began = time.monotonic()
    with seeded():
        loop = SeededLoop(chance_of(1, 1))
        loop.run_until_complete(main())
        loop.close()
    assert loop.time() == 5 * 3600
    assert loop.steps == 6
    assert time.monotonic() - began < 60


def test_whoever_waits_in_vain_is_noticed() -> None:
    with seeded():
        loop = SeededLoop(chance_of(1, 1))
        main = loop.create_task(asyncio.Event().wait())
        with pytest.raises(Stalled):
            loop.run_until_complete(main)
        main.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(main)
        loop.close()


def world_in(loop: SeededLoop) -> World:
    return make_world(chance_of(1, 1), AsyncioRunner())


def test_the_oracle_believes_its_arguments_and_nothing_else() -> None:
    mine, other = Life("user-of-this-world-0"), Life("user-of-this-world-1")

    async def main(world: World) -> None:
        async with user_context("user-of-this-world-0"):
            for _ in range(20):
                world.reads(mine)
            assert world.violations == []
            world.reads(other)
            assert len(world.violations) == 1
            mine.is_over = True
            world.reads(mine)
            assert len(world.violations) == 2
        world.reads(other)
        assert len(world.violations) == 3
        other.is_ending = True
        world.reads(other)
        assert len(world.violations) == 3

    with seeded():
        loop = SeededLoop(chance_of(1, 1))
        loop.run_until_complete(main(world_in(loop)))
        loop.close()


def test_a_broken_promise_comes_with_what_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "reads", lambda world, life: world.violation("planted"))
    out = io.StringIO()
    report = Report("simulation", seed=3, is_short=True, out=out)
    seen = leg.run_worlds(report, "asyncio", range(2), float("inf"))
    assert seen["violations"] > 2
    assert "python -m tests.torture simulation --seed 3 --only 1" in out.getvalue()
    again = Report("simulation", seed=3, out=io.StringIO(), only="1")
    leg.run(again)
    assert not again.holds


def test_a_search_that_cannot_run_has_found_nothing() -> None:
    edits = (("scope.py", "class RequestScope(Infrastructure):", "class RequestScope(Missing):"),)
    with pytest.raises(CouldNotRun, match="NameError"):
        find(Mutant("a library that cannot be imported", edits, ()), "asyncio", seed=1, worlds=1)


def test_a_mutant_that_is_no_python_is_stale() -> None:
    edits = (("scope.py", "class RequestScope(Infrastructure):", "class RequestScope("),)
    with pytest.raises(Stale, match="no Python"), applied(Mutant("no Python", edits, ())):
        pass


def test_every_defect_of_the_core_is_noticed_or_says_why_not() -> None:
    names = {mutant.name for mutant in CORE}
    assert set(OUT_OF_REACH) <= names
    chosen = [mutant.name for mutant in must_be_noticed()]
    assert len(chosen) == len(set(chosen)) >= 40
    assert set(AT_THE_BOUNDARY + OF_SESSIONS) <= set(chosen)
