"""Rewriting: the edits of one phase, made until there are none left to make."""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from pathlib import Path

import attrs

from ..errors import ConfigurationError
from . import git
from .audited import MOVING, is_held
from .config import Config
from .examine import examine, examine_source, own_module
from .files import root_of
from .findings import Finding, apart, apply
from .journal import Entry, Journal, home_of
from .paths import shown
from .rules import AUTOMATIC, NOTE
from .scan import Found, Report, Tell, candidates, counting, report, undecided_write
from .source import UnreadableError, decode, read, refuse_unparsed
from .workers import spread
from .writing import replace

__all__ = ["Rewriting", "plan", "rewritten", "write"]

ROUNDS = 200
"""More than calls are nested in one another anywhere."""


@attrs.frozen
class Change:
    """
    What a rewriting makes of one file.

    Attributes:
        path: absolute.
        before, after: its bytes; equal if there is nothing to do.
        made: rule → how often.
        left: what is found in the file afterwards.
    """

    path: Path
    before: bytes
    after: bytes
    made: Counter[str]
    left: tuple[Finding, ...]

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after


@attrs.frozen
class Rewriting:
    """
    What a rewriting makes, or made, of a tree.

    Attributes:
        phase: `imports`, `calls` or `removal`.
        report: what is left afterwards.
        changes: the files that change.
    """

    phase: str
    report: Report
    changes: tuple[Change, ...]

    def made(self) -> Counter[str]:
        """Rule → how often its edit was made."""
        return sum((change.made for change in self.changes), Counter())

    def diff(self) -> str:
        """All changes as a unified diff."""
        return "".join(diff(change, self.report.root) for change in self.changes)


def rewritten(
    path: Path, data: bytes, config: Config, phase: str, *, is_holding: bool = False
) -> Change:
    """
    What a phase makes of one file. Deterministic; of its own result it makes the same.

    Args:
        path: absolute: relative imports are resolved by it.
        is_holding: whether uses of audited keys have to wait, see `audited`.
    """
    parts = path.with_suffix("").parts[1:]
    if own_module(parts, config):
        return Change(path, data, data, Counter(), tuple(examine(path, data, config)))
    try:
        return _rounds(path, data, config, phase, is_holding)
    except UnreadableError:
        return Change(path, data, data, Counter(), tuple(examine(path, data, config)))


def _rounds(path: Path, data: bytes, config: Config, phase: str, is_holding: bool) -> Change:
    source = decode(data)
    parts = path.with_suffix("").parts[1:]
    made: Counter[str] = Counter()
    for _ in range(ROUNDS):
        found = examine_source(source, parts, config)
        due = [one for one in found if one.edits and one.phase == phase]
        doing = apart([one for one in due if not (is_holding and is_held(one))])
        if not doing:
            return Change(path, data, source.encode(source.utf8), made, tuple(found))
        edited = apply(source.utf8, doing)
        try:
            refuse_unparsed(source.encode(edited))
        except UnreadableError as error:
            return _fault(path, data, error)
        made.update(finding.code for finding in doing)
        source = attrs.evolve(source, utf8=edited)
    return _fault(path, data, UnreadableError("RM903", "the rewriting came to no end"))


def _fault(path: Path, data: bytes, error: UnreadableError) -> Change:
    """A rewriting of ours that went wrong leaves the file as it was, and says so."""
    reason = f"ringfence's own fault, please report it: its result was {error.reason}"
    return Change(path, data, data, Counter(), (Finding("RM904", error.line, "", reason),))


def plan(
    path: Path, config: Config, phase: str, tell: Tell = lambda _done, _all: None
) -> Rewriting:
    """
    What a phase makes of the files at or below a path. Nothing is written.

    Raises:
        ConfigurationError: a later phase, while something of those before it is left.
    """
    seen, found = candidates(path, config)
    work = functools.partial(_planned, config=config, phase=phase)
    changes = spread(work, found, _died, counting(tell, len(found)))
    root = root_of(path)
    if phase == "calls" and undecided_write(root, found, _left(changes)):
        changes = _again_with_holding(found, changes, config)
    left = report(root, seen, found, _left(changes), config)
    _refuse_too_early(left, phase)
    return Rewriting(phase, left, tuple(change for change in changes if change.is_changed))


def _left(changes: list[Change]) -> list[list[Finding]]:
    return [list(change.left) for change in changes]


def _again_with_holding(found: list[Found], changes: list[Change], config: Config) -> list[Change]:
    """Whether there is an undecided write is known only when every file has been looked at."""
    pairs = zip(found, changes, strict=True)
    again = [file for file, change in pairs if change.made.keys() & MOVING]
    work = functools.partial(_planned, config=config, phase="calls", is_holding=True)
    held = dict(zip((file.path for file in again), spread(work, again, _died), strict=True))
    return [held.get(change.path, change) for change in changes]


def _refuse_too_early(left: Report, phase: str) -> None:
    """Calls of ringfence.legacy are not for the old classes, nor is ringfence for old calls."""
    if phase == "calls":
        used = [site for site in left.left("imports") if site[1].kind == AUTOMATIC]
    else:
        used = left.left("calls") if phase == "removal" else []
    if used:
        file, finding = used[0]
        raise ConfigurationError(
            f"The phase `{phase}` is too early: {len(used)} uses of the phases before it are "
            f"left, the first in `{file.path}:{finding.line}` ({finding.code}).",
            "Deal with them first; `ringfence migrate scan` lists them.",
        )


def _planned(file: Found, config: Config, phase: str, is_holding: bool = False) -> Change:
    if file.error:
        return _kept(file, Finding("RM902", 1, "", file.error))
    return rewritten(file.path, file.data, config, phase, is_holding=is_holding)


def _died(file: Found) -> Change:
    return _kept(file, Finding("RM901", 1, "", "not parsed: the parser died of it"))


def _kept(file: Found, finding: Finding) -> Change:
    return Change(file.path, file.data, file.data, Counter(), (finding,))


# --- writing ----------------------------------------------------------------------------------


def refuse_dirty(path: Path) -> None:
    """
    Changes that no commit holds could not be told from ours.

    Raises:
        ConfigurationError: git knows of such changes at or below the path.
    """
    dirty = git.changed(root_of(path))
    if dirty:
        raise ConfigurationError(
            f"The tree has changes that are not committed: `{shown(dirty[0])}`"
            f"{f' and {len(dirty) - 1} more' if len(dirty) > 1 else ''}.",
            "Commit or stash them, so that this rewriting stands alone; or `--allow-dirty`.",
        )


def write(rewriting: Rewriting, tell: Tell = lambda _done, _all: None) -> tuple[Journal, list[str]]:
    """
    Write the changes, each recorded before it is made.

    Returns:
        The journal, and the files that changed in the meantime or could not be written: they
        are left as they are.
    """
    home = home_of(rewriting.report.root)
    journal = Journal.begin(home, rewriting.phase)
    one_more, skipped = counting(tell, len(rewriting.changes)), []
    for change in rewriting.changes:
        relative = change.path.relative_to(home).as_posix()
        if not _is_as_it_was(change):
            skipped.append(f"{shown(relative)}: changed in the meantime")
        else:
            journal.record(Entry(relative, change.before, change.after))
            try:
                replace(change.path, change.after)
            except OSError as error:
                skipped.append(f"{shown(relative)}: {error.strerror}")
        one_more()
    journal.end()
    return journal, skipped


def _is_as_it_was(change: Change) -> bool:
    try:
        return not change.path.is_symlink() and read(change.path) == change.before
    except UnreadableError:
        return False


def diff(change: Change, root: Path) -> str:
    """One change as a unified diff."""
    name = shown(change.path.relative_to(root).as_posix())
    before, after = (_lines(data) for data in (change.before, change.after))
    return "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}"))


def _lines(data: bytes) -> list[str]:
    lines = decode(data).utf8.decode().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


def is_left(finding: Finding, phase: str) -> bool:
    """Whether a finding is one that a phase leaves to a person."""
    return finding.kind != NOTE and finding.phase == phase
