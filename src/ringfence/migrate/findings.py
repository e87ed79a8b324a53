"""What examining a file finds: values that travel between processes."""

from __future__ import annotations

import attrs

from .rules import AUTOMATIC, NOTE, PERSON, RULES

__all__ = ["Edit", "FileReport", "Finding", "apart", "apply"]


@attrs.frozen
class Edit:
    """The bytes from `start` to `end` of the UTF-8 text become `text`."""

    start: int
    end: int
    text: str


@attrs.frozen
class Finding:
    """
    One place in a file.

    Attributes:
        code: its rule.
        line: from 1.
        text: that line, stripped.
        reason: why it needs a person; empty where a rewriting decides it.
        edits: what a rewriting does; empty where it needs a person.
        phase: the phase that deals with it.
    """

    code: str
    line: int
    text: str
    reason: str = ""
    edits: tuple[Edit, ...] = ()

    @property
    def phase(self) -> str:
        """The phase that deals with it."""
        return RULES[self.code].phase

    @property
    def kind(self) -> str:
        """Who deals with it: `automatic`, `person`, or nobody has to: `note`."""
        if RULES[self.code].is_note:
            return NOTE
        return AUTOMATIC if self.edits else PERSON


@attrs.frozen
class FileReport:
    """What was found in one file, by its path relative to the tree."""

    path: str
    priority: str
    findings: tuple[Finding, ...]


def apart(findings: list[Finding]) -> list[Finding]:
    """Findings whose edits do not overlap: of those that do, the first to begin."""
    made: list[Edit] = []
    chosen = []
    for finding in sorted(findings, key=lambda finding: min(e.start for e in finding.edits)):
        if not any(_overlap(edit, other) for edit in finding.edits for other in made):
            made += finding.edits
            chosen.append(finding)
    return chosen


def apply(data: bytes, findings: list[Finding]) -> bytes:
    """
    The text with the edits of findings made, which have to be apart.

    >>> one, two = (Finding("RM201", 1, "", edits=(Edit(at, at + 3, text),))
    ...             for at, text in ((4, "2"), (0, "1")))
    >>> apply(b"one two", apart([one, two]))
    b'1 2'
    """
    parts, end = [], 0
    edits = [edit for finding in findings for edit in finding.edits]
    for edit in sorted(edits, key=lambda edit: edit.start):
        parts += [data[end : edit.start], edit.text.encode()]
        end = edit.end
    return b"".join([*parts, data[end:]])


def _overlap(one: Edit, other: Edit) -> bool:
    """Two that only touch could be in the wrong order, so they count as well."""
    return one.start <= other.end and other.start <= one.end
