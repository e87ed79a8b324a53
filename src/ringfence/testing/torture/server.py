"""A real uvicorn with the observer in it: in a process of its own, or in a thread of this one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import IO, Any, Protocol, cast

import attrs
import uvicorn

from ...errors import ConfigurationError
from .canaries import Canaries
from .observer import Observer

__all__ = ["SERVERS", "Server", "default_servers", "served"]

SERVERS: dict[str, dict[str, str]] = {
    "asyncio-h11": {"loop": "asyncio", "http": "h11", "ws": "wsproto"},
    "asyncio-httptools": {"loop": "asyncio", "http": "httptools", "ws": "wsproto"},
    "uvloop-h11": {"loop": "uvloop", "http": "h11", "ws": "auto"},
    "uvloop-httptools": {"loop": "uvloop", "http": "httptools", "ws": "auto"},
}
"""uvicorn's event loops and parsers; they hand down context variables on different ways."""

START = 30.0  # seconds that an application may take to start
GRACE = 2  # that requests may take to end when the server stops
STOP = 5.0  # that it may take to end; then it is killed


def default_servers() -> list[str]:
    """asyncio with h11, and uvloop with httptools where they are installed."""
    names = ["asyncio-h11"]
    if find_spec("uvloop") and find_spec("httptools"):
        names.append("uvloop-httptools")
    return names


class Server(Protocol):
    """A server that was started. Lives as long as the block of `served`."""

    port: int
    token: str

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        ...

    def said(self) -> str:
        """The last that it printed."""
        ...


@contextlib.contextmanager
def served(app: Any, name: str, options: Mapping[str, Any], canaries: Canaries) -> Iterator[Server]:
    """
    Serve `app`: `module:name` in a process of its own, an object in a thread of this process.

    Raises:
        ConfigurationError: there is no such server, or the application did not start.
    """
    if name not in SERVERS:
        raise ConfigurationError(
            f"There is no server `{name}`.", "There are " + ", ".join(f"`{n}`" for n in SERVERS)
        )
    given = {**SERVERS[name], "timeout_graceful_shutdown": GRACE, **options}
    if isinstance(app, str):
        with _process(app, given, canaries) as server:
            yield server
    else:
        with _thread(app, given, canaries) as server:
            yield server


# --- in a process of its own ------------------------------------------------------------------


@attrs.define
class _Process:
    """uvicorn in a process of its own."""

    process: subprocess.Popen[bytes]
    token: str
    port: int = 0
    _lines: deque[str] = attrs.field(factory=lambda: deque(maxlen=200))
    _has_port: threading.Event = attrs.field(factory=threading.Event)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return "".join(self._lines)

    def read(self) -> None:
        """Keep the last lines that it prints; runs in a thread until it ends."""
        for line in cast(IO[bytes], self.process.stdout):
            text = line[:2000].decode("utf-8", "replace")
            word, _, port = text.partition(f"{self.token} port ")
            if port and not word:
                self.port = int(port)
                self._has_port.set()
            else:
                self._lines.append(text)
        self._has_port.set()

    def wait(self) -> None:
        """Until it has told its port."""
        self._has_port.wait(START)
        if not self.port:
            raise not_started(self)


@contextlib.contextmanager
def _process(app: str, options: dict[str, Any], canaries: Canaries) -> Iterator[_Process]:
    token = secrets.token_hex(8)
    orders = {
        "app": app, "options": options, "token": token, "seed": canaries.seed,
        "users": canaries.users, "path": sys.path,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ringfence.testing.torture.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
    )
    stdin = cast(IO[bytes], process.stdin)  # open as long as we live: the server ends with it
    server = _Process(process, token)
    reader = threading.Thread(target=server.read, daemon=True)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(orders).encode() + b"\n")
            stdin.flush()
        server.wait()
        yield server
    finally:
        _end(process)
        reader.join(STOP)
        cast(IO[bytes], process.stdout).close()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()


def _environment() -> dict[str, str]:
    """Where this process found ringfence, the server finds it too."""
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def not_started(server: Server) -> ConfigurationError:
    """The error for an application that did not start, with what the server printed."""
    return ConfigurationError(
        f"The application did not start within {START:g} s, or ended.",
        f"The server's own words:\n{server.said().strip() or '(none)'}",
    )


# --- in a thread ------------------------------------------------------------------------------


@attrs.define
class _Thread:
    """uvicorn in a thread of this process."""

    uvicorn: uvicorn.Server
    thread: threading.Thread
    token: str
    port: int

    @property
    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def said(self) -> str:
        return ""


@contextlib.contextmanager
def _thread(app: Any, options: dict[str, Any], canaries: Canaries) -> Iterator[_Thread]:
    token = secrets.token_hex(8)
    observer = Observer(app, canaries, token)
    config = uvicorn.Config(observer, log_config=None, access_log=False, **options)
    running = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    observer.listen()
    try:
        thread.start()
        yield _Thread(running, thread, token, listener.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join(STOP)
        running.force_exit = True
        thread.join(STOP)
        listener.close()
        observer.stop()
