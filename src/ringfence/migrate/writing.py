"""Replacing a file's contents: at once or not at all, mode and owner kept."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["replace"]

SUFFIX = ".ringfence-new"


def replace(path: Path, data: bytes) -> None:
    """Write a new file beside the old one and put it in its place; never through a link."""
    new = path.with_name(path.name + SUFFIX)
    new.unlink(missing_ok=True)  # of a run that was killed
    before = path.lstat()
    try:
        with new.open("xb") as file:
            with contextlib.suppress(PermissionError, AttributeError):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            # the mode last: a new owner takes some of it away
            os.fchmod(file.fileno(), before.st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
