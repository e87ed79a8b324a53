"""
The servers' side: one process that has imported the application, and forks a server at each order.

Importing takes a second, and there are dozens of servers. It has started nothing when it forks.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .journal import Journal
from .options import Options
from .wire import HOST

Run = Callable[[Any, Options, socket.socket], None]


def run_uvicorn(app: Any, options: Options, listener: socket.socket) -> None:
    import uvicorn

    # One of the three is deprecated; it is what `--ws auto` means all the same.
    warnings.filterwarnings("ignore", "The `websockets` implementation is deprecated")
    chosen = options.configuration
    config = uvicorn.Config(
        app, http=chosen.http, loop=chosen.loop, ws=chosen.ws, lifespan="on",
        log_level="critical", timeout_graceful_shutdown=options.grace,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def run_hypercorn(app: Any, options: Options, listener: socket.socket) -> None:
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    if options.grace is not None:  # by itself it gives three seconds
        config.graceful_timeout = options.grace
    if options.configuration.loop == "trio":
        _run_on_trio(app, config)
        return
    from hypercorn.asyncio import serve

    factory = None
    if options.configuration.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(app, config))


def _run_on_trio(app: Any, config: Any) -> None:
    import trio
    from hypercorn.trio import serve

    async def stopped() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)

    async def run() -> None:
        await serve(app, config, shutdown_trigger=stopped)

    trio.run(run)


def run_granian(app: Any, options: Options, listener: socket.socket) -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    port = listener.getsockname()[1]
    listener.close()  # it binds by itself, in Rust
    server = Granian(
        "-", address=HOST, port=port, interface=Interfaces.ASGI, log_enabled=False,
        loop=Loops(options.configuration.loop), workers_kill_timeout=options.grace,
    )  # fmt: skip
    server.serve(target_loader=lambda: app, wrap_loader=False)


def run_daphne(app: Any, options: Options, listener: socket.socket) -> None:
    from daphne.server import Server  # first: it installs Twisted's reactor for asyncio
    from twisted.internet import reactor

    port = listener.getsockname()[1]
    listener.close()  # it knows no socket that is open already
    server = Server(app, endpoints=[f"tcp:{port}:interface={HOST}"], verbosity=0)
    lifespan = Lifespan(app)
    twisted: Any = reactor
    twisted.callWhenRunning(lifespan.start)
    twisted.addSystemEventTrigger("before", "shutdown", lifespan.stop)
    server.run()


class Lifespan:
    """What daphne leaves out: the application's start and end, in tasks of the reactor's loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._stopping = asyncio.Event()
        self._said: list[dict[str, str]] = [{"type": "lifespan.startup"}]

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._app({"type": "lifespan"}, self._next, self._done))

    def stop(self) -> Any:
        """Fires once the application has ended; the reactor waits for it."""
        from twisted.internet.defer import Deferred

        self._stopping.set()
        return Deferred.fromFuture(self._task)

    async def _next(self) -> dict[str, str]:
        if self._said:
            return self._said.pop()
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _done(self, message: Any) -> None:
        """Nobody waits for the start, and the end is that of the task."""


RUN: dict[str, Run] = {
    "uvicorn": run_uvicorn,
    "hypercorn": run_hypercorn,
    "granian": run_granian,
    "daphne": run_daphne,
}


def main() -> None:
    """Fork a server for each line of standard input; end all of them when it ends."""
    from . import applications

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    forked = []
    for line in sys.stdin:
        forked.append(pid := os.fork())
        if pid == 0:
            try:
                _serve(applications.Application, Options.load(line))
            finally:
                os._exit(0)
    for pid in forked:
        kill(pid)


def _serve(make: Callable[[Options], Any], options: Options) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.disable()  # what only the collector would give back is left open
    with Path(f"{options.journal}.errors").open("w") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    try:
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
            Journal(options.journal).write("forked", pid=os.getpid(), port=port)
            RUN[options.configuration.server](make(options), options, listener)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()


def kill(pid: int) -> None:
    """End a server, and what it has forked."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
