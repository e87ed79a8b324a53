"""What git knows of a tree; everything works without it too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["changed", "files"]


def _asked(folder: Path, *words: str) -> str | None:
    """What git answers; `None` if there is no git, or no repository."""
    program = shutil.which("git")
    if program is None:
        return None
    done = subprocess.run(  # noqa: S603
        [program, "-C", str(folder), *words],
        capture_output=True,
        check=False,
    )
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def files(folder: Path) -> list[str] | None:
    """The files that git tracks or would track below a folder, relative to it."""
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    listed = _asked(folder, *words)
    return None if listed is None else sorted({name for name in listed.split("\0") if name})


def changed(folder: Path) -> list[str] | None:
    """The files below a folder with changes that no commit holds."""
    listed = _asked(folder, "status", "--porcelain", "-z", "--no-renames", "--", ".")
    return None if listed is None else [entry[3:] for entry in listed.split("\0") if entry]
