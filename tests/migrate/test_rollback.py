"""What the journal wrote is restored byte for byte, also after a run that was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.errors import ConfigurationError
from ringfence.migrate import journal, rewrite
from ringfence.migrate.config import Config
from ringfence.migrate.journal import Journal
from ringfence.migrate.rollback import Restored, roll_back
from ringfence.migrate.writing import replace

from . import trees

OLD = "from netra.services.user_execution_context import UserExecutionContext\n"
NEW = "from ringfence.legacy import UserExecutionContext\n"
FILES: dict[str, str | bytes] = {
    "pyproject.toml": "",
    "a.py": OLD,
    "b/crlf.py": OLD.replace("\n", "\r\n"),
    "c.py": f"# coding: latin-1\n{OLD}# é\n".encode("latin-1"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = trees.write(tmp_path / "project", FILES)
    (folder / "a.py").chmod(0o755)
    return folder


def _rewrite(project: Path, phase: str = "imports") -> Journal:
    run, skipped = rewrite.write(rewrite.plan(project, Config(), phase))
    assert skipped == []
    return run


def _outcomes(results: list[Restored]) -> dict[str, str]:
    return {result.path: result.outcome for result in results}


def test_modes_line_ends_and_encodings_come_back(project: Path) -> None:
    before = trees.digest(project)
    run = _rewrite(project)
    assert (project / "a.py").stat().st_mode & 0o777 == 0o755
    assert (project / "b/crlf.py").read_bytes() == NEW.replace("\n", "\r\n").encode()
    assert trees.digest(project) != before
    assert set(_outcomes(roll_back(run)).values()) == {"restored"}
    assert trees.digest(project) == before


def test_a_new_owner_takes_nothing_of_the_mode_away(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(NEW)
    file.chmod(0o4755)
    replace(file, b"")
    assert file.stat().st_mode & 0o7777 == 0o4755


def test_what_somebody_edited_since_is_left_and_shown(project: Path) -> None:
    run = _rewrite(project)
    (project / "a.py").write_text(NEW + "x = 'mine'\n")
    (project / "b/crlf.py").unlink()
    results = roll_back(run)
    assert _outcomes(results) == {
        "a.py": "edited since",
        "b/crlf.py": "deleted since",
        "c.py": "restored",
    }
    (edited,) = [result for result in results if result.path == "a.py"]
    assert "+x = 'mine'" in edited.diff
    assert (project / "a.py").read_text() == NEW + "x = 'mine'\n"
    assert not (project / "b/crlf.py").exists()
    assert journal.runs(project) != []  # it is not done
    assert _outcomes(roll_back(journal.runs(project)[0], is_forced=True)) == {
        "a.py": "restored",
        "b/crlf.py": "restored",
        "c.py": "as it was already",
    }
    assert (project / "a.py").read_text() == OLD
    assert (project / "b/crlf.py").read_bytes() == OLD.replace("\n", "\r\n").encode()
    assert journal.runs(project) == []


def test_two_runs_go_back_one_by_one(project: Path) -> None:
    text = OLD + "UserExecutionContext('u', 't', 'r', websocket_connection_id='w')\n"
    trees.write(project, {"a.py": text})
    states = [trees.digest(project)]
    for phase in ("imports", "calls"):
        _rewrite(project, phase)
        states.append(trees.digest(project))
    for state in reversed(states[:-1]):
        newest = journal.runs(project)[0]
        assert all(result.is_done for result in roll_back(newest))
        assert trees.digest(project) == state


def test_an_older_run_alone_is_refused_where_a_newer_one_wrote(project: Path) -> None:
    text = OLD + "UserExecutionContext('u', 't', 'r', websocket_connection_id='w')\n"
    trees.write(project, {"a.py": text})
    first = _rewrite(project)
    _rewrite(project, "calls")
    assert _outcomes(roll_back(first))["a.py"] == "edited since"


def test_a_link_is_never_written_through(project: Path, tmp_path: Path) -> None:
    run = _rewrite(project)
    outside = tmp_path / "outside.py"
    outside.write_text(NEW)
    (project / "a.py").unlink()
    (project / "a.py").symlink_to(outside)
    folder = tmp_path / "folder"
    (project / "b").rename(folder)
    (project / "b").symlink_to(folder)
    assert _outcomes(roll_back(run, is_forced=True)) == {
        "a.py": "a link now",
        "b/crlf.py": "a link now",
        "c.py": "restored",
    }
    assert outside.read_text() == NEW
    assert (folder / "crlf.py").read_bytes() == NEW.replace("\n", "\r\n").encode()


# --- killed -----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
left = int(sys.argv[2])

def fsync(number, real=os.fsync):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(number)

os.fsync = fsync
from pathlib import Path
from ringfence.migrate import rewrite
from ringfence.migrate.config import Config
rewrite.write(rewrite.plan(Path(sys.argv[1]), Config(), "imports"))
"""
CALLS = 1 + 2 * 3 + 1  # the journal's head, an entry and a file each, the journal's end


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_a_run_that_was_killed_can_be_rolled_back(project: Path, number: int) -> None:
    before = trees.digest(project)
    done = subprocess.run([sys.executable, "-c", KILLED, project, str(number)], timeout=50)
    assert done.returncode == -signal.SIGKILL
    written = [path for path in project.rglob("*.py") if NEW.strip().encode() in path.read_bytes()]
    assert len(written) == max(0, number - 2) // 2
    for run in journal.runs(project):
        assert not run.is_complete or number == CALLS
        assert all(result.is_done for result in roll_back(run))
    assert trees.digest(project) == before
    assert not list(project.rglob("*.ringfence-new"))
    assert journal.runs(project) == []
    _rewrite(project)  # and can be done again


def test_no_run_is_killed_later_than_that(project: Path) -> None:
    """Otherwise the test above would leave something out."""
    done = subprocess.run([sys.executable, "-c", KILLED, project, str(CALLS + 1)], timeout=50)
    assert done.returncode == 0


def test_a_journal_cut_off_anywhere_tells_what_is_whole(project: Path) -> None:
    run = _rewrite(project)
    whole = run.file.read_bytes()
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    for length in {*range(0, len(whole), 7), *ends, *(end - 1 for end in ends)}:
        run.file.write_bytes(whole[:length])
        found = Journal.load(run.file, project)
        assert len(found.entries) == min(3, max(0, sum(end <= length for end in ends) - 1))


def test_a_journal_cut_off_anywhere_can_be_rolled_back(project: Path) -> None:
    before = trees.digest(project)
    run = _rewrite(project)
    (head, first, *_) = run.file.read_bytes().splitlines(keepends=True)
    trees.write(project, {name: FILES[name] for name in ("b/crlf.py", "c.py")})
    run.file.write_bytes(head + first + first[:20])
    (found,) = journal.runs(project)
    assert all(result.is_done for result in roll_back(found))
    assert journal.runs(project) == []
    assert trees.digest(project) == before


def test_a_journal_that_was_changed_is_refused(project: Path) -> None:
    run = _rewrite(project)
    head, first, *rest = run.file.read_text().splitlines()
    entry = json.loads(first)
    for change in (
        {"before_bytes": entry["after_bytes"]},
        {"before": "0" * 64},
        {"before_bytes": "nonsense"},
        {"path": None, "after_bytes": None},
    ):
        run.file.write_text("\n".join([head, json.dumps(entry | change), *rest, ""]))
        with pytest.raises(ConfigurationError, match="cannot be read"):
            journal.runs(project)
    run.file.write_text(json.dumps({"version": 99, "phase": "x", "begun": "x"}) + "\n")
    with pytest.raises(ConfigurationError, match="version 99"):
        journal.runs(project)


def test_a_journal_cannot_lead_out_of_the_project(project: Path, tmp_path: Path) -> None:
    outside = trees.write(tmp_path, {"outside.py": NEW}) / "outside.py"
    run = Journal.begin(project, "imports")
    run.record(journal.Entry("../outside.py", OLD.encode(), NEW.encode()))
    assert _outcomes(roll_back(run)) == {"../outside.py": "a link now"}
    assert outside.read_text() == NEW


# --- writing ----------------------------------------------------------------------------------


def test_a_file_that_changed_in_the_meantime_is_not_written(project: Path) -> None:
    planned = rewrite.plan(project, Config(), "imports")
    (project / "a.py").write_text("x = 'mine'\n")
    run, skipped = rewrite.write(planned)
    assert skipped == ["a.py: changed in the meantime"]
    assert (project / "a.py").read_text() == "x = 'mine'\n"
    assert [entry.path for entry in run.entries] == ["b/crlf.py", "c.py"]


def test_a_file_is_recorded_before_it_is_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bytes]] = []

    def watched(path: Path, data: bytes, real: object = rewrite.replace) -> None:
        on_disk = Journal.load(next((project / journal.FOLDER).glob("*.jsonl")), project)
        names = [project / entry.path for entry in on_disk.entries]
        seen.append((path in names, path.read_bytes()))
        real(path, data)  # type: ignore[operator]

    monkeypatch.setattr(rewrite, "replace", watched)
    _rewrite(project)
    assert [recorded for recorded, _ in seen] == [True, True, True]
    assert all(OLD.strip().encode() in before for _, before in seen)
