"""Which files are looked at, and which are never."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ringfence.migrate import rewrite
from ringfence.migrate.config import Config
from ringfence.migrate.files import find
from ringfence.migrate.journal import Journal
from ringfence.migrate.reports.page import as_page
from ringfence.migrate.rollback import roll_back
from ringfence.migrate.scan import scan

from . import trees

OLD = "from netra.services.user_execution_context import UserExecutionContext\n"


def _found(folder: Path, config: Config | None = None) -> list[str]:
    files = find(folder, config or Config())
    return [path.relative_to(folder.resolve()).as_posix() for path in files]


def test_python_files_of_a_folder_without_git(tmp_path: Path) -> None:
    names = ("a.py", "b/c.pyi", "b/d.txt", ".hidden/e.py", "__pycache__/f.py", "venv/g.py",
             "node_modules/h.py", "build/i.py", "b/build.py")  # fmt: skip
    trees.write(tmp_path, dict.fromkeys(names, ""))
    assert _found(tmp_path) == ["a.py", "b/build.py", "b/c.pyi"]


def test_with_git_what_it_ignores_is_left_out(tmp_path: Path) -> None:
    names = ("a.py", "ignored/b.py", "build/tracked.py", "gone.py")
    trees.write(tmp_path, {**dict.fromkeys(names, ""), ".gitignore": "ignored/\n"})
    trees.commit(tmp_path)
    trees.write(tmp_path, {"untracked.py": "", "ignored/c.py": "", "sub/né w.py": ""})
    (tmp_path / "gone.py").unlink()
    assert _found(tmp_path) == ["a.py", "build/tracked.py", "sub/né w.py", "untracked.py"]
    assert _found(tmp_path / "sub") == ["né w.py"]


def test_excluded_patterns(tmp_path: Path) -> None:
    trees.write(tmp_path, dict.fromkeys(("a.py", "gen/b.py", "x/gen/c.py", "x/d_pb2.py"), ""))
    assert _found(tmp_path, Config(exclude=("**/gen/**", "**/*_pb2.py"))) == ["a.py"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = trees.write(tmp_path / "outside", {"mine.py": OLD})
    tree = trees.write(tmp_path / "tree", {"real.py": OLD, "folder/b.py": OLD})
    (tree / "link.py").symlink_to(outside / "mine.py")
    (tree / "linked").symlink_to(outside)
    (tree / "inside.py").symlink_to(tree / "real.py")
    (tree / "circle").symlink_to(tree)
    assert _found(tree) == ["folder/b.py", "real.py"]
    trees.commit(tree)
    assert _found(tree) == ["folder/b.py", "real.py"]
    rewrite.write(rewrite.plan(tree, Config(), "imports"))
    assert (outside / "mine.py").read_text() == OLD
    assert (tree / "link.py").is_symlink()
    assert (tree / "inside.py").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="This system has no pipes in folders.")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert _found(tmp_path) == []


UNREADABLE = """
import os, sys
from pathlib import Path
from ringfence.migrate.config import Config
from ringfence.migrate.journal import Journal
from ringfence.migrate.reports.page import as_page
from ringfence.migrate.rollback import roll_back
from ringfence.migrate.scan import scan
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for file, finding in scan(Path(sys.argv[1]), Config()).findings():
    print(file.path, finding.code, finding.reason)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions.")
def test_what_may_not_be_read_is_reported(tmp_path: Path) -> None:
    folder = Path(
        tempfile.gettempdir(), f"ringfence-unreadable-{os.getpid()}"
    )  # others may not enter tmp_path
    try:
        trees.write(folder, {"a.py": OLD, "b.py": OLD})
        (folder / "a.py").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, folder],
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert done.stdout.splitlines() == ["a.py RM902 Permission denied", "b.py RM101 "], done.stderr


def test_one_bad_file_is_not_fatal_to_the_others(tmp_path: Path) -> None:
    trees.write(tmp_path, {"a.py": b"\0" + OLD.encode(), "b.py": OLD, "c.py": OLD + "def ("})
    found = [(file.path, one.code) for file, one in scan(tmp_path, Config()).findings()]
    assert found == [("a.py", "RM902"), ("b.py", "RM101"), ("c.py", "RM901")]


def test_a_single_file(tmp_path: Path) -> None:
    trees.write(tmp_path, {"app/a.py": OLD, "app/b.py": OLD})
    report = scan(tmp_path / "app/a.py", Config())
    assert (report.seen, [file.path for file in report.files]) == (1, ["a.py"])


@pytest.mark.parametrize(
    ("path", "priority"),
    [
        ("app/agents/a.py", "production"),
        ("app/routes/chat.py", "routes"),
        ("app/api/v1/x.py", "routes"),
        ("tests/api/test_x.py", "tests"),
        ("app/test_x.py", "tests"),
        ("conftest.py", "tests"),
        ("examples/routes/x.py", "examples"),
        ("scripts/x.py", "scripts"),
    ],
)
def test_priorities_by_path(path: str, priority: str) -> None:
    assert Config().priority(path) == priority


@pytest.mark.skipif(sys.platform != "linux", reason="Names are text on other systems.")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.py")
    Path(path).write_text(OLD)
    trees.commit(tmp_path)
    report = scan(tmp_path, Config())
    assert [file.path for file in report.files] == ["caf\\xe9.py"]
    as_page(report).encode()
    planned = rewrite.plan(tmp_path, Config(), "imports")
    assert "a/caf\\xe9.py" in planned.diff()
    run, skipped = rewrite.write(planned)
    assert skipped == []
    loaded = Journal.load(run.file, run.home)
    assert [result.outcome for result in roll_back(loaded)] == ["restored"]
    assert Path(path).read_text() == OLD
