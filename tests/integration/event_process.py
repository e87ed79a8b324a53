"""
One of several processes that share a log of events: `python -m tests.integration.event_process`.

Its arguments are the address of a Valkey and a prefix; it prints the port that it serves.
"""

from __future__ import annotations

import socket
import sys
import warnings

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from ringfence import Identity, Ringfence
from ringfence.agents import agent_run, tool_call
from ringfence.events import EventHub, emit
from ringfence.integrations.redis import RedisLog
from ringfence.integrations.starlette import UserContextMiddleware, event_socket, event_stream


async def run(request: Request) -> JSONResponse:
    """An agent that tells of each step."""
    first, count = (int(request.query_params[name]) for name in ("first", "count"))
    async with agent_run("triage"), tool_call("count"):
        for number in range(first, first + count):
            await emit("counted", {"n": number})
    return JSONResponse({})


def application(url: str, prefix: str) -> Starlette:
    hub = EventHub(RedisLog(url, prefix=prefix, poll_interval=600))
    fence = Ringfence(events=hub)
    return Starlette(
        routes=[
            WebSocketRoute("/socket", event_socket(hub)),
            Route("/stream", event_stream(hub)),
            Route("/run", run, methods=["POST"]),
        ],
        middleware=[
            Middleware(
                UserContextMiddleware,
                fence=fence,
                identify=lambda connection: Identity(connection.headers["x-user"]),
            )
        ],
        lifespan=fence.lifespan,
    )


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(application(*sys.argv[1:]), log_level="error", lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
