"""Step (h) of the demo: two users watch their agents at work, and one loses the connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from . import screen
from .serving import serve
from .stage import USERS, Failed, Stage, require
from .wire import exchange, request

PATIENCE = 2  # seconds

Event = dict[str, Any]


async def h_watching(stage: Stage) -> None:
    screen.title("h", "ann and bob watch their agents at work, from two windows each")
    async with serve(stage.app("watching")) as port, contextlib.AsyncExitStack() as stack:
        watchers = Watchers(stage, port)
        windows = {
            user: [await stack.enter_async_context(watchers.window(user)) for _ in range(2)]
            for user in USERS
        }
        last = await _at_once(watchers, windows)
        await _cut_off(watchers, windows["ann"], last["ann"])
        await _with_another_s_id(watchers, windows["bob"], last["ann"])
        screen.good("every event went to its own user's windows, once, and to no other's")


class Watchers:
    def __init__(self, stage: Stage, port: int) -> None:
        self.stage = stage
        self.port = port

    @contextlib.asynccontextmanager
    async def window(self, user: str, last: str = "") -> AsyncIterator[ClientConnection]:
        protocols: Any = ["ringfence.bearer", self.stage.tokens[user]]
        uri = f"ws://127.0.0.1:{self.port}/events?last_event_id={last}"
        # With a bound, what is left unread would hold up the goodbye.
        async with connect(uri, subprotocols=protocols, max_queue=None) as socket:
            ready = await told(socket, user)
            require(ready["kind"] == "ready", f"{user}'s window was told {ready}")
            yield socket

    async def ask(self, user: str, run: str) -> None:
        said = self.stage.said(user, run, words=3)
        token = self.stage.tokens[user]
        (answer,) = await exchange(self.port, request("POST", "/agent/chat", token, said))
        require(answer.status == 200, f"{run} got {answer.status}")


async def told(socket: ClientConnection, user: str) -> Event:
    try:
        text = await asyncio.wait_for(socket.recv(), PATIENCE)
    except TimeoutError:
        raise Failed(f"{user}'s window was told nothing more") from None
    found: Event = json.loads(text)
    return found


async def events_of(socket: ClientConnection, user: str, run: str) -> list[Event]:
    """Up to the one with which the run has ended."""
    found: list[Event] = []
    while not found or (found[-1]["kind"], found[-1]["depth"]) != ("agent_completed", 1):
        found.append(await told(socket, user))
        whose = found[-1].get("run_id")
        require(whose == run, f"{user}'s window was told of {whose}: {found[-1]['kind']}")
    return found


def _ids(events: list[Event]) -> list[str]:
    return [event["id"] for event in events]


async def _at_once(
    watchers: Watchers, windows: dict[str, list[ClientConnection]]
) -> dict[str, str]:
    """Both ask at once; the ids of the last events that they were told."""
    await asyncio.gather(*(watchers.ask(user, f"{user}-run-h1") for user in USERS))
    last = {}
    for user in USERS:
        both = [await events_of(socket, user, f"{user}-run-h1") for socket in windows[user]]
        require(_ids(both[0]) == _ids(both[1]), f"{user}'s windows were told different things")
        begun = [event["data"]["name"] for event in both[0] if event["kind"] in BEGINNINGS]
        require(len(begun) == 5, f"{user} was told of the beginnings of {begun}")
        screen.line(f"{user}: {len(both[0])} events in both, of {', '.join(begun)}")
        last[user] = both[0][-1]["id"]
    return last


BEGINNINGS = ("agent_started", "tool_executing")


async def _cut_off(watchers: Watchers, windows: list[ClientConnection], last: str) -> None:
    first, second = windows
    first.transport.abort()
    await watchers.ask("ann", "ann-run-h2")
    missed = await events_of(second, "ann", "ann-run-h2")
    async with watchers.window("ann", last) as again:
        await watchers.ask("ann", "ann-run-h3")
        heard = await events_of(again, "ann", "ann-run-h2")
        heard += await events_of(again, "ann", "ann-run-h3")
    missed += await events_of(second, "ann", "ann-run-h3")
    require(_ids(heard) == _ids(missed), f"ann was told {_ids(heard)}, and not {_ids(missed)}")
    screen.line("one of ann's is cut, she asks, and comes back with the id of her last event")
    screen.line(f"  ->  all {len(heard)} events since, in order, each once")


async def _with_another_s_id(
    watchers: Watchers, windows: list[ClientConnection], last: str
) -> None:
    async with watchers.window("bob", last) as window:
        first = await told(window, "bob")
        require(first["kind"] == "resync", f"with ann's id, bob was told {first}")
        await events_of(window, "bob", "bob-run-h1")
    await watchers.ask("bob", "bob-run-h4")
    for socket in windows:  # where anything of ann's would come before it
        await events_of(socket, "bob", "bob-run-h4")
    screen.line("bob comes with the id of ann's last event")
    screen.line("  ->  resync, and then his own events")
