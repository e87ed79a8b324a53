"""The corpus: what each small file is before and after a phase, and what is left to a person."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from ringfence.migrate.config import Config, parse

CORPUS = Path(__file__).parent / "corpus"
SECTION = re.compile(r"^-- (\w+) --\n", re.MULTILINE)


class Case(NamedTuple):
    """
    One file of the corpus.

    Its head names the phase, the path (which decides relative imports) and lines of the
    configuration. Sections: `before`, `after` (as before if there is none), `left` and `notes`,
    each a rule and a line.
    """

    name: str
    head: dict[str, list[str]]
    sections: dict[str, str]

    @property
    def phase(self) -> str:
        return self.head["phase"][0]

    @property
    def path(self) -> Path:
        return Path("/project", *self.head.get("path", ["app/file.py"])[0].split("/"))

    @property
    def config(self) -> Config:
        return parse(tomllib.loads("\n".join(self.head.get("config", []))))

    @property
    def before(self) -> str:
        return self.sections["before"]

    @property
    def after(self) -> str:
        return self.sections.get("after", self.before)

    def sites(self, section: str) -> list[str]:
        return self.sections.get(section, "").splitlines()


def read(path: Path) -> Case:
    head_text, *rest = SECTION.split(path.read_text())
    head: dict[str, list[str]] = {}
    for line in head_text.splitlines():
        key, _, value = line.partition(": ")
        head.setdefault(key, []).append(value)
    return Case(path.stem, head, dict(zip(rest[::2], rest[1::2], strict=True)))


CASES = [read(path) for path in sorted(CORPUS.glob("*.case"))]
