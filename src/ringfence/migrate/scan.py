"""Scanning a tree: what uses the old modules, file by file."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from .audited import is_undecided_write, waiting
from .config import Config
from .examine import examine, mentions, own_module
from .files import find, root_of
from .findings import FileReport, Finding
from .paths import shown
from .rules import NOTE, PHASES
from .source import UnreadableError, read
from .workers import spread

__all__ = ["Report", "scan"]

Tell = Callable[[int, int], None]
"""Told how many files of how many are done."""


@attrs.frozen
class Report:
    """
    What was found in a tree.

    Attributes:
        root: the folder; paths are relative to it.
        seen: how many files were looked at.
        files: those in which something was found, sorted by path.
    """

    root: Path
    seen: int
    files: tuple[FileReport, ...]

    def findings(self) -> Iterable[tuple[FileReport, Finding]]:
        """Every finding with its file."""
        return ((file, finding) for file in self.files for finding in file.findings)

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each (rule, priority) was found."""
        return Counter((finding.code, file.priority) for file, finding in self.findings())

    def left(self, phase: str = PHASES[-1]) -> list[tuple[FileReport, Finding]]:
        """What is legacy still, of this phase and those before it; notes are for review only."""
        upto = PHASES[: PHASES.index(phase) + 1]
        return [
            (file, finding)
            for file, finding in self.findings()
            if finding.kind != NOTE and finding.phase in upto
        ]


@attrs.frozen
class Found:
    """A file that may hold something: its path, its bytes, or why there are none."""

    path: Path
    data: bytes = b""
    error: str = ""


def candidates(path: Path, config: Config) -> tuple[int, list[Found]]:
    """How many files there are, and those worth parsing."""
    files = find(path, config)
    found = []
    for file in files:
        try:
            data = read(file)
        except UnreadableError as error:
            found.append(Found(file, error=error.reason))
            continue
        if mentions(data, config) or own_module(file.with_suffix("").parts[1:], config):
            found.append(Found(file, data))
    return len(files), found


def scan(path: Path, config: Config, tell: Tell = lambda _done, _all: None) -> Report:
    """
    What uses the old vocabulary at or below a path. Nothing is changed, and no file is fatal.

    Args:
        path: a folder or a file.
        config: what is legacy there; see `config.load`.
        tell: called with how many files of how many have been examined.
    """
    seen, found = candidates(path, config)
    results = spread(functools.partial(_examined, config=config), found, _died,
                     counting(tell, len(found)))  # fmt: skip
    return report(root_of(path), seen, found, results, config)


def counting(tell: Tell, count: int) -> Callable[[], None]:
    """A function that counts its calls and tells them."""
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        tell(done, count)

    return one_more


def report(
    root: Path, seen: int, found: list[Found], results: list[list[Finding]], config: Config
) -> Report:
    """The report of examined files."""
    place = undecided_write(root, found, results)
    files = []
    for file, findings in zip(found, results, strict=True):
        if findings:
            relative = file.path.relative_to(root).as_posix()
            told = tuple(waiting(findings, place) if place else findings)
            files.append(FileReport(shown(relative), config.priority(relative), told))
    return Report(root, seen, tuple(files))


def undecided_write(root: Path, found: list[Found], results: list[list[Finding]]) -> str:
    """Where the first write is that may put audited keys elsewhere; empty if there is none."""
    for file, findings in zip(found, results, strict=True):
        for finding in filter(is_undecided_write, findings):
            return f"{shown(file.path.relative_to(root).as_posix())}:{finding.line}"
    return ""


def _examined(file: Found, config: Config) -> list[Finding]:
    if file.error:
        return [Finding("RM902", 1, "", file.error)]
    return examine(file.path, file.data, config)


def _died(file: Found) -> list[Finding]:
    return [Finding("RM901", 1, "", "not parsed: the parser died of it")]
