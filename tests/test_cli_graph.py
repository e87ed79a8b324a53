"""The command `ringfence graph`: real processes, exit codes, and what it draws."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parents[1]

SHOP = """
from ringfence import Ringfence
from ringfence.injection import Container, Lifetime

class Pool: ...

class Orders:
    def __init__(self, pool: Pool) -> None: ...

container = Container()
container.provide(Orders)
container.provide(Pool, lifetime=Lifetime.APP)
fence = Ringfence(services=container)
bare = Ringfence()

class Parts:
    container = container

captive = Container()
captive.provide(Pool)
captive.provide(Orders, lifetime=Lifetime.APP)
"""
TEXT = """request: one for each root scope
    Orders  call, shop.py:11
    └─ Pool  app

app: one for everybody
    Pool  call, shop.py:12
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("1 / 0")
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ringfence", "graph", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=50,
    )


@pytest.mark.parametrize("address", ["shop:container", "shop:fence", "shop:Parts.container"])
def test_text_is_what_it_draws_if_nothing_else_is_said(folder: Path, address: str) -> None:
    done = run(folder, address)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


@pytest.mark.parametrize(
    ("name", "begins"), [("mermaid", "flowchart LR"), ("dot", "digraph"), ("svg", "<svg ")]
)
def test_a_file_is_written_and_nothing_printed(folder: Path, name: str, begins: str) -> None:
    done = run(folder, "shop:container", "--format", name, "-o", "drawn")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    drawn = (folder / "drawn").read_text(encoding="utf-8")
    assert drawn.startswith(begins)
    assert "Orders" in drawn


def test_a_graph_that_is_refused_ends_with_one_and_the_path(folder: Path) -> None:
    done = run(folder, "shop:captive", "-o", "drawn")
    assert (done.returncode, done.stdout) == (1, "")
    assert "└─ Pool" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "drawn").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing argument 'WHERE'"),
        (("shop",), "`shop` does not name a container"),
        (("shop:nothing",), "`shop` has no `nothing`"),
        (("shop:Pool",), "`shop:Pool` is no container, and no fence that has one"),
        (("shop:bare",), "`shop:bare` is no container, and no fence that has one"),
        (("absent:container",), "The module `absent` cannot be imported: No module named"),
        (("broken:container",), "    1 / 0\n"),
        (("shop:container", "--format", "png"), "'png' is not one of"),
        (("shop:container", "-o", "absent/drawn"), "`absent/drawn` cannot be written"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_what_cannot_run_ends_with_two_and_says_why(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = run(folder, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_help_teaches(folder: Path) -> None:
    said = run(folder, "--help").stdout
    for word in ("mermaid", "svg", "Exit code: 0", "app:container", "nothing is opened"):
        assert word in " ".join(said.split()), word
