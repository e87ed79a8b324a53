"""Each server in a process of its own: how it is started, signalled, and what it wrote down."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from .wire import GRACE, HOST, Wire, request

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Configuration:
    """One way to run a server."""

    server: str
    loop: str = "asyncio"
    http: str = "h11"
    ws: str = "auto"

    def __str__(self) -> str:
        parts = [self.server, self.loop]
        return " ".join([*parts, self.http, self.ws] if self.server == "uvicorn" else parts)

    @property
    def missing(self) -> list[str]:
        """What would have to be installed."""
        needed = {self.server, self.loop, self.http}
        if self.ws != "auto":
            needed.add(self.ws.partition("-")[0])
        if self.server != "uvicorn":
            needed.discard("h11")
        return sorted(name for name in needed if importlib.util.find_spec(name) is None)


CONFIGURATIONS = [
    *(
        Configuration("uvicorn", loop, http, ws)
        for loop in ("asyncio", "uvloop")
        for http in ("h11", "httptools")
        for ws in ("websockets", "websockets-sansio", "wsproto")
    ),
    *(Configuration("hypercorn", loop) for loop in ("asyncio", "uvloop", "trio")),
    *(Configuration("granian", loop) for loop in ("asyncio", "uvloop")),
]


# --- in the server's process ------------------------------------------------------------------


def run_uvicorn(options: argparse.Namespace, listener: socket.socket) -> None:
    import uvicorn

    from .applications import Application

    # One of the three is deprecated; it is what `--ws auto` means all the same.
    warnings.filterwarnings("ignore", "The `websockets` implementation is deprecated")
    grace = None if options.grace is None else int(options.grace)
    config = uvicorn.Config(
        Application(options), http=options.http, loop=options.loop, ws=options.ws, lifespan="on",
        log_level="critical", timeout_graceful_shutdown=grace,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def run_hypercorn(options: argparse.Namespace, listener: socket.socket) -> None:
    from hypercorn.config import Config

    from .applications import Application

    app = Application(options)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    if options.grace is not None:  # by itself it gives three seconds
        config.graceful_timeout = options.grace
    if options.loop == "trio":
        import trio
        from hypercorn.trio import serve as serve_on_trio

        async def on_trio() -> None:
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hear_on_trio, stop)
                await serve_on_trio(app, config, shutdown_trigger=stop.wait)
                nursery.cancel_scope.cancel()

        trio.run(on_trio)
        return
    import asyncio

    from hypercorn.asyncio import serve as serve_on_asyncio

    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve_on_asyncio(app, config))


async def _hear_on_trio(stop: Any) -> None:
    import trio

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()


def run_granian(options: argparse.Namespace, listener: socket.socket) -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    from .applications import Application

    port = listener.getsockname()[1]
    listener.close()  # it binds by itself, in Rust
    server = Granian(
        "-", address=HOST, port=port, interface=Interfaces.ASGI, loop=Loops(options.loop),
        log_enabled=False, workers_kill_timeout=options.grace,
    )  # fmt: skip
    server.serve(target_loader=lambda: Application(options), wrap_loader=False)


RUN: dict[str, Callable[[argparse.Namespace, socket.socket], None]] = {
    "uvicorn": run_uvicorn,
    "hypercorn": run_hypercorn,
    "granian": run_granian,
}


def main() -> None:
    """Serve until the signal; until standard input ends, so that nothing outlives the tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--loop", required=True)
    parser.add_argument("--http", required=True)
    parser.add_argument("--ws", required=True)
    parser.add_argument("--journal", required=True, type=Path)
    parser.add_argument("--drain", required=True, type=float)
    parser.add_argument("--grace", type=float)
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        RUN[options.server](options, listener)


def _end_with_the_tests() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


# --- in the tests' process --------------------------------------------------------------------


class Served:
    """A server that runs. Lives until it is stopped, or the block of `serve` ends."""

    def __init__(
        self, configuration: Configuration, process: subprocess.Popen[str], port: int, file: Path
    ) -> None:
        self.configuration = configuration
        self.port = port
        self._process = process
        self._file = file

    def wire(self) -> Wire:
        return Wire(self.port)

    def journal(self, what: str, request: str | None = None) -> list[dict[str, Any]]:
        """What was written so far, of one kind, and perhaps of one request."""
        text = self._file.read_text() if self._file.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [
            line for line in lines
            if line["what"] == what and request in (None, line.get("request"))
        ]  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What is open now, and all counters."""
        with self.wire() as wire:
            wire.send(request("/state"))
            found: dict[str, Any] = wire.answer()[1]
            return found

    def stop(self) -> bool:
        """Signal it, and wait; whether it ended by itself."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return False
        return True


def until(condition: Callable[[], Any], seconds: float = GRACE) -> bool:
    """Whether it comes true; looked at often."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def serve(
    configuration: Configuration,
    *,
    grace: float | None = None,
    drain: float = 5,
    is_control: bool = False,
) -> Iterator[Served]:
    """A server that runs within the block."""
    with tempfile.TemporaryDirectory(prefix="servers-") as folder:
        journal = Path(folder, "journal")
        command = [sys.executable, "-m", "tests.integration.servers"]
        for name, value in attrs.asdict(configuration).items():
            command += [f"--{name}", value]
        command += ["--journal", str(journal), "--drain", str(drain)]
        command += [] if grace is None else ["--grace", str(grace)]
        command += ["--control"] if is_control else []
        with (
            Path(folder, "errors").open("w+") as errors,
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline() or 0)
                served = Served(configuration, process, port, journal)
                if not until(lambda: served.journal("started") or process.poll() is not None, 30):
                    raise TimeoutError(f"{configuration} does not start")
                if process.returncode is not None:
                    raise RuntimeError(Path(errors.name).read_text())
                yield served
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
