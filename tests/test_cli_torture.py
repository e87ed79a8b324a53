"""The command `ringfence torture`: real processes, exit codes, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parents[1]
EXAMPLE = "ringfence.testing.torture.example:app"
FEW = ("--users", "4", "--requests", "40", "--seed", "5", "--server", "asyncio-h11")


def run(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ringfence", "torture", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environ},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_template_runs_as_it_is_and_is_not_overwritten(tmp_path: Path) -> None:
    wrote = run(tmp_path, "--init")
    assert wrote.returncode == 0
    assert f"ringfence torture {EXAMPLE} --scenario torture_scenario.py" in wrote.stdout
    before = (tmp_path / "torture_scenario.py").read_text()
    again = run(tmp_path, "--init")
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already" in again.stderr
    assert (tmp_path / "torture_scenario.py").read_text() == before

    done = run(tmp_path, EXAMPLE, "--scenario", "torture_scenario.py", "--json", "said", *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clean: " in done.stdout
    heads = "attack sent judged refused left cut own faults leaks"
    assert heads in " ".join(done.stdout.split())
    assert "reset_response" in done.stdout
    assert "... 40 of 40 requests" in done.stderr
    said = json.loads((tmp_path / "said").read_text())
    assert said["is_clean"] is True
    assert said["done"]["warm_up"]["requests"] == 20
    assert said["replay"].startswith(f"ringfence torture {EXAMPLE} --scenario torture_scenario.py")


LEAKING = """
last = [b""]

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("no lifespan")
    said = last[0]
    last[0] = scope["query_string"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": last[0] + b" after " + said})

def make():
    return app
"""
SCENARIO = """
from ringfence.testing.torture import Request

def login(n):
    return {}

def requests(n, canary):
    yield Request("GET", f"/?{canary}")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "leaking.py").write_text(LEAKING)
    (tmp_path / "users.py").write_text(SCENARIO)
    return tmp_path


def test_leaks_are_reported_with_a_replay_that_finds_them_again(folder: Path) -> None:
    words = ("leaking:make", "--server-option", "factory=true", "--scenario", "users", *FEW)
    done = run(folder, *words, "--json", "-")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    leak = next(leak for leak in said["leaks"] if leak["attack"] == "pipelined")
    assert leak["where"] == "response"
    assert leak["whose"] != leak["seen_by"]
    assert "--server-option factory=true" in leak["replay"]

    program, command, *again = leak["replay"].split()
    assert (program, command) == ("ringfence", "torture")
    assert "--only pipelined" in leak["replay"]
    repeated = run(folder, *again, "--json", "said")
    assert repeated.returncode == 1, repeated.stderr
    assert "'s answer to GET / [" in repeated.stdout
    found = json.loads((folder / "said").read_text())
    assert set(found["done"]) == {"warm_up", "pipelined"}
    assert "pipelined" in {leak["attack"] for leak in found["leaks"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Name the application and the scenario"),
        (("leaking:app",), "Name the application and the scenario"),
        (("leaking:app", "--scenario", "none"), "The scenario's module `none` cannot be imported"),
        (("leaking:app", "--scenario", "leaking"), "has no `login`"),
        (("leaking:nothing", "--scenario", "users"), 'Attribute "nothing" not found'),
        (("no_module:app", "--scenario", "users"), 'Could not import module "no_module"'),
        (("leaking:app", "--scenario", "users", "--only", "x"), "There is no attack `x`"),
        (("leaking:app", "--scenario", "users", "--server-option", "x"), "write it as NAME=VALUE"),
        (("leaking:app", "--scenario", "users", "--server-option", "x=1"), "unexpected keyword"),
        (("leaking:app", "--scenario", "users", "--json", "no/x"), "it cannot be written"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_what_cannot_run_ends_with_two_and_says_why(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = run(folder, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_run_that_is_interrupted_has_found_nothing(folder: Path) -> None:
    words = ("leaking:app", "--scenario", "users", "--requests", "3000")
    process = subprocess.Popen(
        [sys.executable, "-m", "ringfence", "torture", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            assert said.startswith("... 3"), said
            os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
            said = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 2
    assert "stopped before its end" in said


def test_help_teaches(tmp_path: Path) -> None:
    said = run(tmp_path, "--help").stdout
    for word in ("--scenario", "--init", "pipelined", "Exit code: 0", "canary"):
        assert word in said, word


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "h11.py").write_text("raise ImportError('not here')")
    done = run(tmp_path, "--help", PYTHONPATH=os.pathsep.join([str(tmp_path), str(SOURCE)]))
    assert done.returncode == 2
    assert "pip install 'ringfence[torture]'" in done.stderr


def test_the_server_ends_with_the_kit(folder: Path) -> None:
    orders = {"app": "leaking:app", "options": {}, "token": "t", "seed": 1, "users": 2}
    server = subprocess.Popen(
        [sys.executable, "-m", "ringfence.testing.torture.serve"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(
            json.dumps({**orders, "path": [str(folder), *sys.path]}).encode() + b"\n"
        )
        server.stdin.flush()
        assert server.stdout.readline().startswith(b"t port ")
        assert server.poll() is None
        server.stdin.close()  # as when the kit is killed
        try:
            server.wait(20)
        finally:
            server.kill()
