"""Rolling back: exactly what the journal wrote, and word of what changed since."""

from __future__ import annotations

import difflib
from pathlib import Path

import attrs

from .journal import Entry, Journal
from .paths import shown
from .source import UnreadableError, read
from .writing import SUFFIX, replace

__all__ = ["Restored", "roll_back"]

RESTORED, UNCHANGED, EDITED, GONE, LINKED, FAILED = (
    "restored", "as it was already", "edited since", "deleted since", "a link now", "not written",
)  # fmt: skip
DONE = (RESTORED, UNCHANGED)


@attrs.frozen
class Restored:
    """What became of one file: its path, the outcome, and what was edited since as a diff."""

    path: str
    outcome: str
    diff: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the file is now what it was before the rewriting."""
        return self.outcome in DONE


def roll_back(journal: Journal, is_forced: bool = False) -> list[Restored]:
    """
    Restore what a run wrote, byte for byte, the last file first.

    A file that somebody edited or deleted since is left alone, unless `is_forced`. When every
    file is what it was, the run counts as rolled back.
    """
    results = [_restore(journal.home, entry, is_forced) for entry in reversed(journal.entries)]
    if all(result.is_done for result in results):
        journal.rolled_back()
    return results


def _restore(home: Path, entry: Entry, is_forced: bool) -> Restored:
    path = home / entry.path
    if path.is_symlink() or not path.resolve().is_relative_to(home.resolve()):
        return Restored(entry.path, LINKED)
    path.with_name(path.name + SUFFIX).unlink(missing_ok=True)  # of a run that was killed
    if not path.exists():
        return _put_back(path, entry) if is_forced else Restored(entry.path, GONE)
    try:
        now = read(path)
    except UnreadableError:
        return Restored(entry.path, FAILED)
    if now == entry.before:
        return Restored(entry.path, UNCHANGED)
    if now == entry.after or is_forced:
        return _written(path, entry, _since(entry, now))
    return Restored(entry.path, EDITED, _since(entry, now))


def _written(path: Path, entry: Entry, since: str) -> Restored:
    try:
        replace(path, entry.before)
    except OSError:
        return Restored(entry.path, FAILED)
    return Restored(entry.path, RESTORED, since)


def _put_back(path: Path, entry: Entry) -> Restored:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.before)
    except OSError:
        return Restored(entry.path, FAILED)
    return Restored(entry.path, RESTORED)


def _since(entry: Entry, now: bytes) -> str:
    """What a person did to the file since, as a diff against what the rewriting left."""
    if now == entry.after:
        return ""
    left, there = (data.decode("utf-8", "replace").splitlines() for data in (entry.after, now))
    lines = difflib.unified_diff(left, there, f"{shown(entry.path)} as written", "now", lineterm="")
    return "\n".join(lines)
