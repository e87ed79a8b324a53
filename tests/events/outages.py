"""A real Valkey of a test's own, to be stopped in the middle of something."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.testing.valkey import _free_port, _wait_for, find_server


class Server:
    """A server that can be held, let go and killed. Lives as long as the block of `own_server`."""

    def __init__(self, folder: str) -> None:
        found = find_server()
        if found is None:
            pytest.skip("there is no Valkey to be stopped")
        self._binary = str(found[0])
        self._folder = folder
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it, as empty as it was first."""
        log = Path(self._folder) / "log"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._binary, *options, "--dir", self._folder], stdout=output, stderr=output
            )
        _wait_for(self._process, self.port, log)

    def hold(self) -> None:
        """It takes connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It takes no connection."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def own_server() -> Iterator[Server]:
    """A server that runs, killed in the end."""
    with tempfile.TemporaryDirectory(prefix="ringfence-valkey-") as folder:
        server = Server(folder)
        try:
            yield server
        finally:
            server.kill()
