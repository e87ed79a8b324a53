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
        await _conversations(opened + 3)
        for user in USERS:  # last, so that they are there when the requests are gone
            await exchange(port, request("POST", "/notes/summary", stage.tokens[user]))
        await _conversations(opened + 5)
        screen.line("under way: a stream, a WebSocket, a slow request, two detached jobs")
    # At this moment, not later: a process would be gone.
    report, left, goodbyes = app.state.fence.drain_report, stage.left(), model.closed - closed
    ends = await asyncio.wait_for(asyncio.gather(*clients), PATIENCE)

    require(goodbyes == 5, f"of 5 connections to the model, {goodbyes} were closed")
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
    """Ask for what takes longer than the server will live. The tasks tell how each one ended."""

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
    return [asyncio.create_task(end) for end in ends]


async def _conversations(count: int) -> None:
    """Wait until so many have begun, in all."""
    for _ in range(100 * PATIENCE):
        if model.opened == count:
            return
        await asyncio.sleep(0.01)
    require(False, f"{model.opened} conversations with the model have begun, not {count}")


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
