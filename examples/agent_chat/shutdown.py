"""Step (g) of the demo: the server is told to stop while it is at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ringfence import Settings

from . import screen
from .agent import converse
from .language_model import model
from .serving import serve
from .stage import PATIENCE, USERS, Left, Stage, require
from .wire import Answer, Stream, exchange, request

GRACE = 0.2  # seconds that uvicorn waits for requests before it cancels them
DRAIN = Settings(drain_timeout=1)  # seconds that ringfence waits for what is left, then cancels

router = APIRouter()


@router.get("/slow")
async def slow() -> None:
    """Takes 20 seconds, if it is let."""
    conversation = await converse()
    async for _ in conversation.say("word " * 1_000):
        pass


async def g_shutdown(stage: Stage) -> None:
    screen.title("g", "the server is told to stop while it works for both users")
    app = stage.app("shutdown", router, settings=DRAIN)
    opened, closed = model.opened, model.closed
    async with serve(app, GRACE) as port:
        clients = await _begin(stage, port)
        talking = model.opened - opened
        require(talking == 5, f"of 5 under way, {talking} talked to the model")
        screen.line("under way: a stream, a WebSocket, a slow request, two detached jobs")
    ends = await asyncio.wait_for(asyncio.gather(*clients), PATIENCE)

    report, left, goodbyes = app.state.fence.drain_report, stage.left(), model.closed - closed
    require(goodbyes == talking, f"of {talking} connections to the model, {goodbyes} were closed")
    require(left == Left(0, 0, 0), f"something is left: {left}")
    require(not any("done" in end for end in ends), f"stopped, and yet: {ends}")
    answers = stage.rows("SELECT user_id, run_id FROM notes WHERE tool = 'answer'")
    require(not answers, f"half answers were kept: {answers}")
    owners = stage.rows("SELECT user_id FROM summaries")
    require(owners == [("ann",)], f"the summaries are those of {owners}")
    require(report.cancelled == 1 and not report.abandoned, f"the report says {report}")
    require(report.drained >= 1, f"the report says {report}")
    for what, end in zip(("stream", "WebSocket", "slow request"), ends, strict=True):
        screen.line(f"{what:<26} ->  {end}")
    screen.line("ann's job, of 0.7 seconds  ->  waited for, 1 row")
    screen.line("bob's job, of four         ->  cancelled, no row")
    screen.line(str(report))
    screen.good(f"goodbyes to the model {goodbyes}; {left}")


async def _begin(stage: Stage, port: int) -> list[asyncio.Task[str]]:
    """Start what takes longer than the server will live. The tasks tell how each request ended."""

    def asked(user: str, method: str, path: str, body: Any = None) -> bytes:
        return request(method, path, stage.tokens[user], body)

    for user, words in (("ann", 30), ("bob", 180)):  # what their jobs will go through
        said = stage.said(user, f"{user}-run-g", words)
        await exchange(port, asked(user, "POST", "/agent/chat", said))
    said = stage.said("bob", "bob-run-stream", 180)
    stream = await Stream.open(port, asked("bob", "POST", "/agent/stream", said))
    protocols: Any = ["ringfence.bearer", stage.tokens["bob"]]
    websocket = await connect(f"ws://127.0.0.1:{port}/agent/ws", subprotocols=protocols)
    await websocket.send(json.dumps(stage.said("bob", "bob-run-websocket", 180)))
    slow_one = exchange(port, asked("ann", "GET", "/slow"))
    ends = [_end_of_stream(stream), _end_of_websocket(websocket), _end_of_slow(slow_one)]
    clients = [asyncio.create_task(end) for end in ends]
    await asyncio.sleep(0.1)  # all are at work; the jobs begin last, to be there at the end
    for user in USERS:
        await exchange(port, asked(user, "POST", "/notes/summary"))
    await asyncio.sleep(0.05)
    return clients


async def _end_of_stream(stream: Stream) -> str:
    try:
        words = [data async for event, data in stream if event == "token"]
    except ConnectionError:
        return "cut"
    return f"done, {len(words)} words"


async def _end_of_websocket(websocket: ClientConnection) -> str:
    with contextlib.suppress(ConnectionClosed):
        async for text in websocket:
            if "done" in json.loads(text):
                return "done"
    return f"closed with {websocket.close_code}"


async def _end_of_slow(answer: Coroutine[Any, Any, list[Answer]]) -> str:
    try:
        (found,) = await answer
    except (asyncio.IncompleteReadError, ConnectionError):
        return "cut"
    return "done" if found.status == 200 else f"answered with {found.status}"
