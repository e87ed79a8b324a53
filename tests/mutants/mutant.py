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


def broken(mutant: Mutant) -> dict[str, str]:
    """
    The text of each file that it changes, with the defect in it.

    Raises:
        Stale: a line to break does not occur once, or what is left is no Python.
    """
    texts: dict[str, str] = {}
    for file, old, new in mutant.edits:
        text = texts.get(file) or (ROOT / "src" / "ringfence" / file).read_text()
        if text.count(old) != 1:
            raise Stale(f"{file}: {text.count(old)} times: {old!r}")
        texts[file] = text.replace(old, new)
        try:
            compile(texts[file], file, "exec")
        except SyntaxError as error:  # any test would fail, whatever it tests
            raise Stale(f"{file}: no Python any more: {error}") from None
    return texts


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[Path]:
    """A copy of `src` with the mutant in it, for the path; it lives as long as the block."""
    texts = broken(mutant)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in texts.items():
            (source / "ringfence" / file).write_text(text)
        yield source
