"""A synthetic code base of 1,000 files: scanned, rewritten, verified, rolled back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ringfence.errors import ConfigurationError
from ringfence.migrate import journal, rewrite, rollback
from ringfence.migrate.config import load
from ringfence.migrate.scan import scan

from . import trees

CALLS = {"RM201": 250, "RM202": 250, "RM209": 250, "RM301": 250}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.many(tmp_path_factory.mktemp("synthetic"))


@pytest.mark.timeout(240)
def test_the_whole_way_and_back(tree: Path) -> None:
    before = trees.digest(tree)
    config = load(tree)

    told: list[tuple[int, int]] = []
    began = time.monotonic()
    report = scan(tree, config, lambda done, of: told.append((done, of)))
    took = time.monotonic() - began
    assert (report.seen, len(report.files)) == (1_000, 250)
    assert {code: sum(n for (c, _), n in report.counts().items() if c == code)
            for code in ("RM101", *CALLS)} == {"RM101": 250, **CALLS}  # fmt: skip
    assert told == [(number, 250) for number in range(1, 251)]
    assert took < 60  # on a machine that has much else to do
    assert len(report.left()) == 1_250

    runs = []
    for phase, made in (("imports", {"RM101": 250}), ("calls", CALLS), ("removal", {"RM121": 250})):
        rewriting = rewrite.plan(tree, config, phase)
        assert rewriting.made() == made
        run, skipped = rewrite.write(rewriting)
        assert skipped == []
        runs.append(run)
        assert rewriting.report.left(phase) == []
    assert scan(tree, config).left() == []
    assert not list(tree.rglob("*.ringfence-new"))

    for run in (journal.Journal.load(run.file, run.home) for run in reversed(runs)):
        results = rollback.roll_back(run)
        assert {result.outcome for result in results} == {rollback.RESTORED}
        assert len(results) == 250
    assert trees.digest(tree) == before
    assert journal.runs(tree) == []


def test_later_phases_wait_for_earlier_ones(tmp_path: Path) -> None:
    trees.many(tmp_path, 5)
    config = load(tmp_path)
    for phase, count in (("calls", 2), ("removal", 10)):
        with pytest.raises(ConfigurationError, match=rf"too early: {count} uses"):
            rewrite.plan(tmp_path, config, phase)


def test_priorities_are_counted_apart(tmp_path: Path) -> None:
    trees.many(tmp_path, 40)
    counts = scan(tmp_path, load(tmp_path)).counts()
    names = ("production", "routes", "tests", "examples", "scripts")
    assert {name: counts["RM101", name] for name in names} == dict.fromkeys(names, 2)
