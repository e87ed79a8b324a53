"""
The kit for users' own applications: each planted defect is reported by the command, what is right
passes, and the example application does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

import ringfence

from .report import Report

ROOT = Path(__file__).parents[2]
LEAKY = ("tests.torture.leaky:app", "--scenario", "tests.torture.leaky_scenario")
PLAIN = ("tests.torture.plain:app", "--scenario", "tests.torture.plain_scenario")
EXAMPLE = (
    "examples.agent_chat.torture:create", "--server-option", "factory=true",
    "--scenario", "examples.agent_chat.torture", "--connections", "8", "--timeout", "30",
)  # fmt: skip
ONE = ("--server", "asyncio-h11")  # it hands down context variables on both ways
FEW = ("set_and_reset",)
"""The defects of the short leg."""

DEFECTS: dict[str, str] = {
    # what is wrong in `leaky.py`: what the command must say of it
    "module_session": r"user \d+'s answer to GET /notes .* has user \d+'s canary",
    "cached_object": r"user \d+'s answer to GET /me .* has user \d+'s canary",
    "set_and_reset": r"nobody's answer to GET /whoami .* has user \d+'s canary",
    "outliving_task": r"left open: \d+ tasks still running: go_on_for_ever",
    "generator_scope": r"user \d+'s answer to GET /stream .* has user \d+'s canary",
    "lazy_worker": r"user \d+'s row has user \d+'s canary",
    "shared_cache": r"user \d+'s answer to GET /notes .* has user \d+'s canary",
    "last_in_log": r"a log record of user \d+'s GET /me .* has user \d+'s canary",
    "last_in_print": r"what was printed in user \d+'s GET /me .* has user \d+'s canary",
    "websocket_of_another": r"user \d+'s conversation WebSocket /ws .* has user \d+'s canary",
    "open_scope": r"left open: \d+ scopes",
    "open_connection": r"left open: \d+ connections",
    "registered_object": r"left open: \d+ registered objects",
    "server_error": r"unexpected 500: GET /me",
    "hanging": r"no answer within 1 s: GET /me",
    "ending": r"the server ended",
}


@attrs.frozen
class Said:
    """What the command said of an application."""

    code: int
    text: str

    @property
    def judged(self) -> int:
        found = re.search(r"clean: ([0-9,]+) answers", self.text)
        return int(found[1].replace(",", "")) if found else 0


def run(report: Report) -> None:
    """Real servers, one after the other."""
    leaky = [*LEAKY, "--users", "12", "--requests", str(report.size(300, 160))]
    plain = [*PLAIN, "--users", "12", "--requests", str(report.size(1000, 160))]
    servers = ONE if report.is_short else ()
    _clean(report, "leaky.py without a defect", [*leaky, *servers])
    if not report.is_short:
        _clean(report, "plain.py, which does not use ringfence", plain)
    found = _said(report, [*plain, *servers], "set_and_reset").code == 1
    report.control("plain.py with `set_and_reset`: reported", found, "== 1")
    defects = FEW if report.is_short else tuple(DEFECTS)
    for done, defect in enumerate(defects):
        report.progress(done, len(defects))
        _reported(report, defect, [*leaky, *ONE])
    some = ["--users", "8", "--requests", "40", *ONE]
    size = some if report.is_short else ["--users", "50", "--requests", "5000"]
    _clean(report, "examples/agent_chat", [*EXAMPLE, *size])


def _clean(report: Report, what: str, words: Sequence[str]) -> None:
    said = _said(report, words)
    if said.code != 0:
        report.fault(f"{what} is not clean:\n{said.text}", _replay(report))
    report.must(f"{what}: exit code", said.code, "== 0")
    asked = int(words[words.index("--requests") + 1])
    report.must(f"{what}: answers judged", said.judged, f">= {asked // 2}")


def _reported(report: Report, defect: str, words: Sequence[str]) -> None:
    """Planted, and named by its symptom: the control of the zeros above."""
    limit = ("--timeout", "1") if defect == "hanging" else ()
    said = _said(report, [*words, "--grace", "1", *limit], defect)
    is_named = bool(re.search(DEFECTS[defect], said.text))
    if said.code != 1 or not is_named:
        report.fault(f"`{defect}` was not reported:\n{said.text}", _replay(report))
    report.control(f"leaky.py with `{defect}`: reported by its symptom", is_named, "== 1")


def _said(report: Report, words: Sequence[str], defect: str = "") -> Said:
    with tempfile.TemporaryDirectory(prefix="ringfence-kit-", ignore_cleanup_errors=True) as name:
        environ = {**os.environ, "LEAKY": defect, "LEAKY_DATABASE": f"{name}/leaky.db"}
        paths = [str(Path(ringfence.__file__).parents[1]), environ.get("PYTHONPATH", "")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        done = subprocess.run(
            [sys.executable, "-m", "ringfence", "torture", *words, "--seed", str(report.seed)],
            cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
    return Said(done.returncode, done.stdout + done.stderr * (done.returncode not in (0, 1)))


def _replay(report: Report) -> str:
    return f"python -m tests.torture kit --seed {report.seed}" + " --short" * report.is_short
