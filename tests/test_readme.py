"""The README tells the truth: its programs run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _run(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_program_prints_what_the_readme_says() -> None:
    program, expected = _blocks("python")[0], _blocks("text")[0]
    assert _run(program) == expected
    example = (ROOT / "examples" / "quickstart.py").read_text()
    assert example.partition('"""\n\n')[2] == program


def test_the_application_serves() -> None:
    calls = """
from starlette.testclient import TestClient
from joserfc import jwt
import time
token = jwt.encode({"alg": "HS256"}, {"sub": "ann", "exp": int(time.time()) + 60}, key)
with TestClient(app) as client:
    print(client.get("/whoami").status_code)
    print(client.get("/whoami", headers={"authorization": f"Bearer {token}"}).json())
"""
    program = _blocks("python")[1]
    assert _run(program + calls) == "401\n{'user': 'ann'}\n"
