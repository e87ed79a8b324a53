"""The Python files of a tree: git's own list where there is one, else all of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from . import git
from .config import Config
from .paths import matches

__all__ = ["find", "root_of"]

NEVER = frozenset({"__pycache__", "node_modules", "site-packages"})
UNTRACKED = frozenset({"build", "dist", "env", "venv"})
"""Left out where git does not say what is tracked."""


def root_of(path: Path) -> Path:
    """The folder that a run is about: that of a single file, or the path itself."""
    resolved = path.resolve()
    return resolved.parent if resolved.is_file() else resolved


def find(path: Path, config: Config) -> list[Path]:
    """
    The Python files at or below a path, sorted; absolute.

    What git ignores is left out, and symbolic links are not followed: where they lead inside the
    tree, the file itself is found.
    """
    root = root_of(path)
    if path.is_file():
        return [path.resolve()]
    listed = git.files(root)
    found = _walked(root) if listed is None else (root / name for name in listed)
    return sorted(file for file in found if _is_ours(root, file, config))


def _walked(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in NEVER | UNTRACKED and name[:1] != "."]
        yield from (Path(folder, name) for name in files)


def _is_ours(root: Path, file: Path, config: Config) -> bool:
    relative = file.relative_to(root)
    if file.suffix not in (".py", ".pyi", ".pyw") or NEVER.intersection(relative.parts):
        return False
    if any(part.startswith(".") for part in relative.parts[:-1]):
        return False
    if matches(relative.as_posix(), config.exclude) or _is_behind_link(root, relative):
        return False
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False  # git lists what has been deleted too


def _is_behind_link(root: Path, relative: Path) -> bool:
    return any((root / parent).is_symlink() for parent in relative.parents)
