"""The README tells the truth: its programs run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CALLS = """
from starlette.testclient import TestClient
token = jwt.encode({"alg": "HS256"}, {"sub": "ann", "exp": int(time.time()) + 60}, key)
with TestClient(app) as client:
    print(client.get("/whoami").status_code)
    print(client.get("/whoami", headers={"authorization": f"Bearer {token}"}).text)
"""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _run(source: str) -> str:
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_program_is_short_and_prints_what_the_readme_says() -> None:
    program, expected = _blocks("python")[0], _blocks("text")[0]
    assert 12 <= len([line for line in program.splitlines() if line.strip()]) <= 15
    assert _run(program) == expected


def test_the_application_serves() -> None:
    printed = _run(_blocks("python")[1] + CALLS).splitlines()
    assert printed[0].startswith("TOKEN ")
    assert printed[1:] == ["401", '{"user":"ann"}']
