"""docs/boundary.md tells the truth: its program runs, and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence
from ringfence.integrations._exchange import CLOSE_CODES
from ringfence.integrations.problems import problem_of

for partner in ("fastapi", "sqlalchemy", "aiosqlite"):
    pytest.importorskip(partner)

PAGE = (Path(__file__).parents[1] / "docs" / "boundary.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_program_prints_what_it_says() -> None:
    program = "\n".join(_blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(_blocks("text"))
    assert "async def" in done.stderr  # the log says what to do about the sync route


def test_every_block_is_one_of_them() -> None:
    assert PAGE.count("```") == 2 * len(_blocks("python") + _blocks("text"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ringfence.NoContextError("x"), "| 401 | denied with 401, else closed with 4401 |"),
        (ringfence.ForbiddenError("x"), "| 403 | denied with 403, else closed with 1008 |"),
        (ringfence.DrainingError("x"), "| 503, `Retry-After` | denied with 503, else closed with "),
        (ringfence.OwnershipError("x"), "| 500 | denied with 500, else closed with 1011 |"),
    ],
    ids=["nobody", "forbidden", "draining", "other"],
)
def test_its_table_of_answers(error: Exception, said: str) -> None:
    status = problem_of(error).status
    code = CLOSE_CODES.get(status, 1008)
    line = next(line for line in PAGE.splitlines() if said in line)
    assert f"denied with {status}, else closed with {code} |" in line
