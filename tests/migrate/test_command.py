"""`ringfence migrate` as people and pipelines run it: real processes, and their exit codes."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import trees

OLD = "from netra.services.user_execution_context import UserExecutionContext\n"
STAR = "from netra.services.user_execution_context import *\n"
CALL = "UserExecutionContext('u', 't', 'r', websocket_connection_id='w')\n"
NEW = "from ringfence.legacy import UserExecutionContext\n"


def _run(*words: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ringfence", "migrate", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **environ},
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = trees.write(
        tmp_path / "project",
        {
            "pyproject.toml": "[project]\nname = 'x'\n",
            "app/one.py": OLD + CALL,
            "app/routes/two.py": STAR,
            "tests/test_three.py": "print 'Python 2'  # UserExecutionContext\n",
            "app/four.py": "x = 1\n",
        },
    )
    return trees.commit(folder)


# --- scan -------------------------------------------------------------------------------------


def test_scan_counts_and_exits_0(project: Path) -> None:
    done = _run("scan", ".", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "4 files seen, 3 with 4 findings: 2 automatic, 2 need a person" in done.stdout
    assert done.stderr == "examined: 3 files\n"
    assert "\x1b" not in done.stdout


def test_scan_lists_sites_with_their_reasons(project: Path) -> None:
    said = _run("scan", ".", "--sites", cwd=project).stdout
    assert f"app/one.py:1: RM101 {OLD}" in said
    assert f"app/routes/two.py:1: RM105 {STAR}    which names" in said


def test_scan_as_json(project: Path) -> None:
    done = _run("scan", ".", "--json", cwd=project)
    found = json.loads(done.stdout)
    assert found["files_seen"] == 4
    assert found["totals"] == {"automatic": 2, "person": 2, "note": 0}
    (two,) = [file for file in found["files"] if file["path"] == "app/routes/two.py"]
    assert two["priority"] == "routes"
    assert [(one["code"], one["line"], one["kind"]) for one in two["findings"]] == [
        ("RM105", 1, "person")
    ]


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe", "link")
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_scan_as_a_page_that_asks_nobody_and_runs_nothing(project: Path) -> None:
    nasty = '<script>alert("x")</script>'
    name = f"app/{'<b>'}.py"
    trees.write(project, {name: f"{OLD}x = UserExecutionContext('u', metadata={nasty!r})\n"})
    done = _run("scan", ".", "--html", "report.html", cwd=project)
    assert done.returncode == 0, done.stderr
    page = Page()
    page.feed((project / "report.html").read_text())
    assert all(link.startswith("#RM") for link in page.links)
    assert page.links
    assert nasty in page.text  # as text, not as a tag
    assert "app/one.py" in page.text
    assert "default-src 'none'" in (project / "report.html").read_text()


def test_a_bar_on_a_terminal(project: Path) -> None:
    done = _run("scan", ".", cwd=project, FORCE_COLOR="1", TERM="xterm")
    assert done.returncode == 0, done.stderr
    assert "examined" in done.stderr
    assert "\x1b" in done.stderr


# --- rewrite ----------------------------------------------------------------------------------


def test_rewrite_shows_a_diff_and_changes_nothing(project: Path) -> None:
    before = trees.digest(project)
    done = _run("rewrite", ".", "--phase", "imports", cwd=project)
    assert done.returncode == 1  # two things are left to a person
    assert f"-{OLD}+{NEW} UserExecutionContext('u'" in done.stdout
    assert "would change: 1 files; left to a person: 2" in done.stdout
    assert trees.digest(project) == before
    assert not (project / ".ringfence").exists()


def test_rewrite_writes_verify_judges_and_rollback_restores(project: Path) -> None:
    before = trees.digest(project)
    done = _run("rewrite", ".", "--phase", "imports", "--write", cwd=project)
    assert done.returncode == 1, done.stderr
    assert (project / "app/one.py").read_text() == NEW + CALL
    assert "journal: .ringfence/migrate/" in done.stderr

    judged = _run("verify", ".", cwd=project)
    assert judged.returncode == 1
    assert "legacy: 4 left, 0 allowed" in judged.stdout
    assert "app/routes/two.py:1: RM105" in judged.stdout
    ratchet = _run("verify", ".", "--max", 5, cwd=project)
    assert (ratchet.returncode, ratchet.stdout) == (
        0, "legacy: 4 left, 5 allowed\nlower --max to 4, so that it stays that way\n",
    )  # fmt: skip
    assert _run("verify", ".", "--phase", "imports", "--max", 2, cwd=project).returncode == 0
    assert _run("verify", "app/four.py", cwd=project).returncode == 0

    restored = _run("rollback", cwd=project / "app")  # wherever in the project one is
    assert restored.returncode == 0, restored.stderr
    assert "1 of 1 files restored" in restored.stdout
    assert trees.digest(project) == before
    nothing = _run("rollback", cwd=project)
    assert nothing.returncode == 2
    assert "nothing to roll back" in nothing.stderr


def test_rewrite_exits_0_if_nothing_is_left_to_a_person(project: Path) -> None:
    done = _run("rewrite", "app/one.py", "--phase", "imports", "--write", cwd=project)
    assert done.returncode == 0, done.stderr
    trees.git(project, "add", "-A")
    trees.git(project, "commit", "-qm", "imports")
    for phase in ("calls", "removal"):
        done = _run("rewrite", "app/one.py", "--phase", phase, "--write", "--allow-dirty",
                    cwd=project)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "app/one.py").read_text() == (
        "from ringfence import UserExecutionContext\n"
        "UserExecutionContext('u', 't', 'r', websocket_client_id='w')\n"
    )
    assert _run("verify", "app", "--max", 1, cwd=project).returncode == 0


def test_a_dirty_tree_is_refused_unless_told(project: Path) -> None:
    trees.write(project, {"app/four.py": "x = 2\n"})
    done = _run("rewrite", ".", "--phase", "imports", "--write", cwd=project)
    assert done.returncode == 2
    assert "not committed: `app/four.py`" in done.stderr
    assert (project / "app/one.py").read_text() == OLD + CALL
    assert _run("rewrite", ".", "--phase", "imports", cwd=project).returncode == 1  # only a diff
    told = _run("rewrite", ".", "--phase", "imports", "--write", "--allow-dirty", cwd=project)
    assert told.returncode == 1
    assert (project / "app/one.py").read_text() == NEW + CALL


def test_a_journal_makes_no_tree_dirty(project: Path) -> None:
    _run("rewrite", ".", "--phase", "imports", "--write", cwd=project)
    trees.git(project, "add", "app")
    trees.git(project, "commit", "-qm", "imports")
    done = _run("rewrite", ".", "--phase", "imports", "--write", cwd=project)
    assert done.returncode == 1, done.stderr
    assert "changed: 0 files" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scan", "nowhere"), "does not exist"),
        (("rewrite", "."), "--phase"),
        (("rewrite", ".", "--phase", "other"), "'other' is not one of"),
        (("rewrite", ".", "--phase", "imports", "--diff", "--write"), "exclude each other"),
        (("rewrite", ".", "--phase", "removal"), "too early"),
        (("verify", ".", "--max", "-1"), "-1"),
        (("sacn",), "sacn"),
    ],
    ids=["no path", "no phase", "no such phase", "both", "too early", "negative", "no command"],
)
def test_what_is_used_wrongly_exits_2(words: tuple[str, ...], said: str, project: Path) -> None:
    done = _run(*words, cwd=project)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_exits_2(project: Path) -> None:
    trees.write(project, {"pyproject.toml": "[tool.ringfence.migrate]\naudit-kyes = []\n"})
    done = _run("scan", "app", cwd=project)
    assert done.returncode == 2
    assert "has no key `audit-kyes`. Did you mean `audit-keys`?" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_fault_of_our_own_exits_3(project: Path, tmp_path: Path) -> None:
    """Seen with a rewriting that is broken on purpose, in the process that is run."""
    broken = trees.write(tmp_path / "broken", {"sitecustomize.py": (
        "from ringfence.migrate import imports, moved\n"
        "from ringfence.migrate.findings import Edit\n"
        "imports.module_edit = lambda *_: Edit(0, 4, 'def (')\n"
    )})  # fmt: skip
    paths = os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])
    done = _run("rewrite", "app/one.py", "--phase", "imports", "--write", cwd=project,
                PYTHONPATH=paths)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "RM904" in done.stdout
    assert "please report it" in done.stdout
    assert (project / "app/one.py").read_text() == OLD + CALL


def test_help_teaches(tmp_path: Path) -> None:
    said = _run("--help", cwd=tmp_path).stdout
    for words in (
        "--phase imports --diff",
        "verify .",
        "rollback",
        "Exit codes:",
        "  3  a ",
    ):
        assert words in said
    for command in ("scan", "rewrite", "verify", "rollback"):
        assert "Exits 0" in _run(command, "--help", cwd=tmp_path).stdout
