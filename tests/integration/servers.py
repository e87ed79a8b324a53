"""Each server in a process of its own: how it is asked for, signalled, and what it wrote down."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .launcher import kill
from .options import Configuration, Options
from .wire import GRACE, Wire, request

ROOT = Path(__file__).parents[2]


class Served:
    """A server that runs. Lives until it is stopped, or the block of `serve` ends."""

    def __init__(self, options: Options) -> None:
        self.configuration = options.configuration
        self._journal = options.journal
        if not until(lambda: self.journal("forked"), 30):
            raise TimeoutError("nothing was forked")
        self.pid, self.port = (self.journal("forked")[0][name] for name in ("pid", "port"))

    def wire(self) -> Wire:
        return Wire(self.port)

    def journal(self, what: str, request: str | None = None) -> list[dict[str, Any]]:
        """What was written so far, of one kind, and perhaps of one request."""
        text = self._journal.read_text() if self._journal.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [
            line
            for line in lines
            if line["what"] == what and request in (None, line.get("request"))
        ]

    def state(self) -> dict[str, Any]:
        """What is open now, and all counters."""
        with self.wire() as wire:
            wire.send(request("/state"))
            found: dict[str, Any] = wire.answer()[1]
            return found

    @property
    def has_ended(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def stop(self) -> bool:
        """Signal it, and wait; whether it ended by itself."""
        os.kill(self.pid, signal.SIGTERM)
        return until(lambda: self.has_ended)

    def await_start(self) -> None:
        """Wait until it serves; fail with what it printed if it does not."""
        until(lambda: self.journal("started") or self.has_ended, 30)
        if not self.journal("started"):
            raise RuntimeError(Path(f"{self._journal}.errors").read_text())


def until(condition: Callable[[], Any], seconds: float = GRACE) -> bool:
    """Whether it comes true; looked at often."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@functools.cache
def _launcher() -> subprocess.Popen[str]:
    """Lives as long as the tests: its standard input ends with them."""
    command = [sys.executable, "-m", "tests.integration.launcher"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True)


_lock = threading.Lock()


@contextlib.contextmanager
def serve(configuration: Configuration, **more: Any) -> Iterator[Served]:
    """A server that runs within the block; further arguments are those of `Options`."""
    with tempfile.TemporaryDirectory(prefix="servers-") as folder:
        options = Options(configuration, Path(folder, "journal"), **more)
        with _lock:
            forks = _launcher().stdin
            assert forks is not None
            forks.write(options.dump() + "\n")
            forks.flush()
        served = Served(options)
        try:
            served.await_start()
            yield served
        finally:
            kill(served.pid)
