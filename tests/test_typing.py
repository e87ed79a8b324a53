"""Type checkers understand the public interface: `tests/typing/*.py` under `mypy --strict`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence
from ringfence import legacy

pytest.importorskip("mypy")

ROOT = Path(__file__).parents[1]
API = ROOT / "tests" / "typing" / "api.py"
LEGACY = API.with_name("legacy.py")


def _mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *arguments]
    return subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache" / "api")],
        capture_output=True, text=True, cwd=ROOT, timeout=55, check=False,
    )  # fmt: skip


def test_the_public_interface_is_typed_as_it_says() -> None:
    done = _mypy(str(API), str(LEGACY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_claim_would_be_found(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    wrong = tmp_path / "wrong.py"
    text = API.read_text().replace(
        "assert_type(current_scope(), RequestScope)", "assert_type(current_scope(), str)"
    )
    wrong.write_text(text)
    done = _mypy(str(wrong))
    assert done.returncode == 1
    assert re.search(r'Expression is of type "RequestScope", not "str"', done.stdout), done.stdout


def test_every_public_name_is_used_there() -> None:
    text = API.read_text()
    assert all(re.search(rf"\b{name}\b", LEGACY.read_text()) for name in legacy.__all__)
    errors = {name for name in ringfence.__all__ if name.endswith("Error")}
    missing = [
        name for name in set(ringfence.__all__) - errors if not re.search(rf"\b{name}\b", text)
    ]
    assert missing == []


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(ringfence.__file__).with_name("py.typed").exists()
