"""uvicorn on a free loopback port, in this process, so that the demo can look inside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, grace: Any = None) -> AsyncIterator[int]:
    """
    Serve `app` within the block, which gets the port. Leaving it is what SIGTERM does.

    `grace`: seconds after which uvicorn cancels the requests that still run.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    # Nothing but this and the logging differs from uvicorn's defaults.
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=grace)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                raise RuntimeError("uvicorn did not start")
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()
