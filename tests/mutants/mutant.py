"""What a mutant is."""

from __future__ import annotations

import attrs


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
