"""Each file of the corpus becomes what it says, and once rewritten it stays so."""

from __future__ import annotations

import ast
import difflib

import pytest

from ringfence.migrate.rewrite import rewritten
from ringfence.migrate.rules import NOTE, PERSON, PHASES, RULES

from .cases import CASES, Case

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@EACH
def test_it_becomes_what_it_says(case: Case) -> None:
    change = rewritten(case.path, case.before.encode(), case.config, case.phase)
    assert change.after.decode() == case.after, "".join(
        difflib.unified_diff(
            case.after.splitlines(True), change.after.decode().splitlines(True), "said", "is"
        )
    )


@EACH
def test_what_is_left_to_a_person_is_listed_with_its_reason(case: Case) -> None:
    change = rewritten(case.path, case.before.encode(), case.config, case.phase)
    left = [one for one in change.left if one.kind == PERSON and one.phase == case.phase]
    if case.name.startswith("python_2") or "RM901" in "".join(case.sites("left")):
        left = list(change.left)  # such files belong to the first phase, whatever is asked
    assert sorted(f"{one.code} {one.line}" for one in left) == sorted(case.sites("left"))
    assert all(one.reason for one in left)


@EACH
def test_notes_are_those_it_says(case: Case) -> None:
    if "notes" not in case.sections:
        return
    change = rewritten(case.path, case.before.encode(), case.config, case.phase)
    notes = [f"{one.code} {one.line}" for one in change.left if one.kind == NOTE]
    assert notes == case.sites("notes")


@EACH
@pytest.mark.parametrize("phase", PHASES)
def test_rewriting_twice_is_rewriting_once_in_every_phase(case: Case, phase: str) -> None:
    once = rewritten(case.path, case.before.encode(), case.config, phase)
    twice = rewritten(case.path, once.after, case.config, phase)
    assert twice.after == once.after
    assert not twice.made


@EACH
@pytest.mark.parametrize("phase", PHASES)
def test_what_parsed_parses(case: Case, phase: str) -> None:
    try:
        ast.parse(case.before)
    except SyntaxError:
        return
    compile(rewritten(case.path, case.before.encode(), case.config, phase).after, "x", "exec")


def test_there_are_many_and_every_rule_of_a_file_has_one() -> None:
    assert len(CASES) >= 60
    found: set[str] = set()
    for case in CASES:
        change = rewritten(case.path, case.before.encode(), case.config, case.phase)
        found |= set(change.made) | {finding.code for finding in change.left}
    elsewhere = {"RM902", "RM903", "RM904"}  # of bytes: test_bytes.py
    assert set(RULES) - found == elsewhere
