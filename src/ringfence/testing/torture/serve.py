"""Run as a process: imports the application, puts the observer around it, and serves it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from typing import Any

import uvicorn
from uvicorn.importer import ImportFromStringError, import_from_string

from .canaries import Canaries
from .observer import Observer


def main() -> None:
    """Serve by the orders that are the first line of stdin, until stdin ends."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_kit, daemon=True).start()
    sys.path[:] = orders["path"]
    options = orders["options"]
    try:
        app = import_from_string(orders["app"])
    except ImportFromStringError as error:
        sys.exit(f"{orders['app']}: {error}")
    if options.pop("factory", False):
        app = app()
    observer = Observer(app, Canaries(orders["seed"], orders["users"]), orders["token"])
    config = uvicorn.Config(observer, access_log=False, **options)
    observer.listen()  # after uvicorn has set up logging
    listener = socket.create_server(("127.0.0.1", 0))
    line = f"{orders['token']} port {listener.getsockname()[1]}\n"
    os.write(1, line.encode())  # the application may have its own mind about sys.stdout
    uvicorn.Server(config).run(sockets=[listener])


def _end_with_the_kit() -> None:
    """A kit that was killed cannot stop its server."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
