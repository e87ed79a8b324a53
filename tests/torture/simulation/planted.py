"""Defects planted in a copy of the library, and in which world the simulation finds them."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys

import attrs

from tests.mutants.mutant import ROOT, Mutant, applied

__all__ = ["CouldNotRun", "Found", "find"]


class CouldNotRun(Exception):
    """The search itself failed: that says nothing of the defect."""


@attrs.frozen
class Found:
    """
    What the simulation said of a defect.

    Attributes:
        world: the number of the first world that showed it; infinite if none did.
        what: the promise that was broken there.
    """

    world: float
    what: str


def find(mutant: Mutant, kind: str, seed: int, worlds: int) -> Found:
    """
    Look for a planted defect in so many worlds.

    Raises:
        Stale: it cannot be planted.
        CouldNotRun: the search ended without saying whether a world shows it.
    """
    command = [sys.executable, "-m", "tests.torture.simulation"]
    command += ["--seed", str(seed), "--worlds", str(worlds), "--on", kind]
    with applied(mutant) as source:
        path = os.pathsep.join([str(source), str(ROOT)])
        environ = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
            timeout=PATIENCE, preexec_fn=_limit,
        )  # fmt: skip
    said = re.search(r"^world (\d+): (.*)", done.stdout, re.MULTILINE)
    if said is not None:
        return Found(int(said[1]), said[2])
    if done.returncode == 0:
        return Found(float("inf"), "nothing")
    if done.returncode == -signal.SIGXCPU:
        return Found(0, f"no end within {LIMIT} s")
    raise CouldNotRun(f"the simulation could not run: {done.stderr.strip()[-500:]}")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 1))


LIMIT = 30
"""Seconds of its own that a search may take: ten times what it does. A busy machine costs none."""
PATIENCE = 600
