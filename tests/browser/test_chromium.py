"""Without a browser its tests are skipped, and say what is missing; in CI they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from . import chromium


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="apt-get install chromium"):
        chromium.path_or_skip()


@pytest.mark.parametrize("name", chromium.NAMES)
def test_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.path_or_skip() == str(tmp_path / name)
