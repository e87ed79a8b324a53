"""What a mutant is, and a copy of the library that has one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]


class Stale(Exception):
    """A line to break is not there (any more), or cannot be broken like this."""


@attrs.frozen
class Mutant:
    """
    One defect.

    Attributes:
        name: what it breaks, beginning with the law.
        edits: `(file below src/ringfence, text that occurs once, its replacement)`; several only
            where layers cover each other.
        tests: what must fail, as pytest arguments.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


def mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    """A mutant of one line."""
    return Mutant(name, ((file, old, new),), tests)


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[Path]:
    """A copy of `src` with the mutant in it, for the path; it lives as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for file, old, new in mutant.edits:
            path = source / "ringfence" / file
            text = path.read_text()
            if text.count(old) != 1:
                raise Stale(f"{file}: {text.count(old)} times: {old!r}")
            broken = text.replace(old, new)
            try:
                compile(broken, file, "exec")
            except SyntaxError as error:  # any test would fail, whatever it tests
                raise Stale(f"{file}: no Python any more: {error}") from None
            path.write_text(broken)
        yield source
