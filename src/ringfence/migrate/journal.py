"""The journal of a rewriting: what each file was, written down before it is changed."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigurationError

__all__ = ["Entry", "Journal", "digest", "home_of", "runs"]

FOLDER = Path(".ringfence", "migrate")
VERSION = 1


def digest(data: bytes) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def home_of(path: Path) -> Path:
    """The project that a path belongs to: where its journals are kept."""
    folder = path.resolve()
    folder = folder.parent if folder.is_file() else folder
    for place in (folder, *folder.parents):
        if any((place / name).exists() for name in ("pyproject.toml", ".git", FOLDER)):
            return place
    return folder


@attrs.frozen
class Entry:
    """One file of a run: its path relative to the project, its bytes before and after."""

    path: str
    before: bytes
    after: bytes

    def to_json(self) -> dict[str, Any]:
        """The line of the journal."""
        return {
            "path": self.path,
            "before": digest(self.before),
            "after": digest(self.after),
            "before_bytes": _packed(self.before),
            "after_bytes": _packed(self.after),
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Entry:
        """Back from a line, whose hashes have to be right."""
        entry = cls(line["path"], _unpacked(line["before_bytes"]), _unpacked(line["after_bytes"]))
        if (digest(entry.before), digest(entry.after)) != (line["before"], line["after"]):
            raise ValueError(f"the bytes kept of {entry.path} are not those of its hash")
        return entry


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


@attrs.define
class Journal:
    """
    One run. Its file is only ever added to.

    Attributes:
        file: where it is kept.
        home: the project; paths are relative to it.
        phase: what the run did.
        begun: when, in ISO 8601.
        entries: its files, in the order they were written.
        is_complete: whether the run came to its end.
        is_rolled_back: whether everything of it has been restored.
    """

    file: Path
    home: Path
    phase: str = ""
    begun: str = ""
    entries: list[Entry] = attrs.field(factory=list)
    is_complete: bool = False
    is_rolled_back: bool = False

    @classmethod
    def begin(cls, home: Path, phase: str) -> Journal:
        """A new one, on disk."""
        now = dt.datetime.now(dt.UTC)
        folder = home / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / ".gitignore").write_text("*\n")  # else it would make the tree dirty
        name = f"{now:%Y%m%dT%H%M%S.%f}-{phase}-{secrets.token_hex(2)}.jsonl"
        journal = cls(folder / name, home, phase, now.isoformat(timespec="seconds"))
        journal._add({"version": VERSION, "phase": phase, "begun": journal.begun})
        return journal

    def record(self, entry: Entry) -> None:
        """Keep what a file was; on disk when this returns, so before the file is changed."""
        self._add(entry.to_json())
        self.entries.append(entry)

    def end(self) -> None:
        """The run came to its end."""
        self._add({"ended": True})
        self.is_complete = True

    def rolled_back(self) -> None:
        """Everything of it has been restored."""
        with self.file.open("r+b") as file:  # a line without an end would spoil the next
            file.truncate(file.read().rfind(b"\n") + 1)
        self._add({"rolled_back": True})
        self.is_rolled_back = True

    def _add(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, file: Path, home: Path) -> Journal:
        """
        The run that a file tells of.

        A last line without an end is of a run that was killed before it changed that file.

        Raises:
            ConfigurationError: it is no journal, or it was changed.
        """
        journal = cls(file, home)
        try:
            *lines, _ = file.read_text(encoding="utf-8").split("\n")
            for number, line in enumerate(lines):
                journal._take(json.loads(line), number)
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise ConfigurationError(
                f"The journal `{file}` cannot be read: {error}.",
                "Restore the tree from version control, and remove the journal.",
            ) from None
        return journal

    def _take(self, line: dict[str, Any], number: int) -> None:
        if number == 0:
            if line["version"] != VERSION:
                raise ValueError(f"version {line['version']}")
            self.phase, self.begun = line["phase"], line["begun"]
        elif "path" in line:
            self.entries.append(Entry.from_json(line))
        else:
            self.is_complete |= "ended" in line
            self.is_rolled_back |= "rolled_back" in line


def runs(home: Path) -> list[Journal]:
    """Every run of a project that is not rolled back, the newest first."""
    files = sorted((home / FOLDER).glob("*.jsonl"), reverse=True)
    journals = [Journal.load(file, home) for file in files if file.stat().st_size]
    return [journal for journal in journals if not journal.is_rolled_back]
