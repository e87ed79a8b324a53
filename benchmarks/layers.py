"""Layers: how each library gets a message from one process to a user's connection in another."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs

from ringfence import user_context
from ringfence.events import EventHub

__all__ = ["LAYERS", "OURS", "PACKAGES", "PLAIN", "Ends", "Open"]

OURS, PLAIN = "ringfence", "plain"
TEXT = "x" * 200
USERS = ("ann", "bob")


@attrs.frozen
class Ends:
    """
    Both ends of a layer, as two processes would hold them.

    Attributes:
        send: a number to a user.
        receive: the next number that this user's connection would be sent, once it is there.
    """

    send: Callable[[str, int], Awaitable[object]]
    receive: Callable[[str], Awaitable[int]]


Open = Callable[[str, str], contextlib.AbstractAsyncContextManager[Ends]]


@contextlib.asynccontextmanager
async def plain(url: str, prefix: str) -> AsyncIterator[Ends]:
    """The least there could be: one `PUBLISH`, and whoever is there hears it."""
    client = importlib.import_module("redis.asyncio").Redis.from_url(url)
    async with client, contextlib.AsyncExitStack() as stack:
        heard = {}
        for user in USERS:
            heard[user] = await stack.enter_async_context(client.pubsub())
            await heard[user].subscribe(prefix + user)
            await heard[user].get_message(timeout=5)

        async def send(user: str, number: int) -> None:
            await client.publish(prefix + user, json.dumps({"n": number, "text": TEXT}))

        async def receive(user: str) -> int:
            while (message := await heard[user].get_message(timeout=5)) is None:
                pass
            return int(json.loads(message["data"])["n"])

        yield Ends(send, receive)


@contextlib.asynccontextmanager
async def ringfence(url: str, prefix: str) -> AsyncIterator[Ends]:
    """Ours: a log that is appended to, and a bell; from one hub to another."""
    log = importlib.import_module("ringfence.integrations.redis").RedisLog
    here, there = EventHub(log(url, prefix=prefix)), EventHub(log(url, prefix=prefix))
    events: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        for hub in (here, there):
            stack.push_async_callback(hub.aclose)
        for user in USERS:
            block = _Connection(there, user)
            events[user] = await stack.enter_async_context(block)

        async def send(user: str, number: int) -> None:
            async with user_context(user):
                await here.emit("counted", {"n": number, "text": TEXT})

        async def receive(user: str) -> int:
            return int(await events[user]())

        yield Ends(send, receive)


class _Connection:
    """A connection as under a server: a task with a scope and a subscription of its own."""

    def __init__(self, hub: EventHub, user: str) -> None:
        self._hub = hub
        self._user = user
        self._got: asyncio.Queue[str] = asyncio.Queue()

    async def __aenter__(self) -> Callable[[], Awaitable[int]]:
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._serve(ready))
        await ready.wait()
        return self._next

    async def __aexit__(self, *details: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _serve(self, ready: asyncio.Event) -> None:
        async with user_context(self._user), self._hub.subscribe() as events:
            ready.set()
            async for event in events:
                self._got.put_nowait(event.json())

    async def _next(self) -> int:
        return int(json.loads(await self._got.get())["data"]["n"])


def _channels(module: str, layer: str) -> Open:
    @contextlib.asynccontextmanager
    async def opened(url: str, prefix: str) -> AsyncIterator[Ends]:
        make = getattr(importlib.import_module(f"channels_redis.{module}"), layer)
        here, there = (make(hosts=[url], prefix=prefix.rstrip(":")) for _ in range(2))
        names = {user: await there.new_channel() for user in USERS}
        for user, name in names.items():
            await there.group_add(user, name)

        async def send(user: str, number: int) -> None:
            await here.group_send(user, {"type": "counted", "n": number, "text": TEXT})

        async def receive(user: str) -> int:
            return int((await there.receive(names[user]))["n"])

        try:
            yield Ends(send, receive)
        finally:
            for each in (here, there):
                await each.flush()
                if hasattr(each, "close_pools"):
                    await each.close_pools()

    return opened


@contextlib.asynccontextmanager
async def socketio(url: str, prefix: str) -> AsyncIterator[Ends]:
    """From its manager that only writes to a server; what that would send is taken there."""
    library = importlib.import_module("socketio")
    channel = f"{prefix}socketio"
    here = library.AsyncRedisManager(url, channel=channel, write_only=True)
    manager = library.AsyncRedisManager(url, channel=channel)
    server = library.AsyncServer(async_mode="asgi", client_manager=manager)
    got: dict[str, asyncio.Queue[Any]] = {user: asyncio.Queue() for user in USERS}

    async def take(connection: str, packet: Any) -> None:
        got[connection].put_nowait(packet.data)

    server._send_eio_packet = take
    manager.initialize()
    for user in USERS:
        await manager.enter_room(await manager.connect(user, "/"), "/", user)
    await asyncio.sleep(0.3)  # it does not say when it listens

    async def send(user: str, number: int) -> None:
        await here.emit("counted", {"n": number, "text": TEXT}, room=user)

    async def receive(user: str) -> int:
        text = await got[user].get()
        return int(json.loads(text[text.index("[") :])[1]["n"])

    try:
        yield Ends(send, receive)
    finally:
        manager.thread.cancel()
        await asyncio.wait([manager.thread])
        for each in (here, manager):
            if each.redis is not None:
                await each.redis.aclose()


LAYERS: dict[str, tuple[str, Open]] = {
    PLAIN: ("pub/sub alone, nothing kept", plain),
    OURS: ("ringfence: a log and a bell", ringfence),
    "channels": ("Django Channels: channels_redis.core", _channels("core", "RedisChannelLayer")),
    "channels-pubsub": (
        "Django Channels: channels_redis.pubsub",
        _channels("pubsub", "RedisPubSubChannelLayer"),
    ),
    "socketio": ("python-socketio: AsyncRedisManager", socketio),
}
"""What is timed: a title, and a block that opens it on a server, below a prefix."""

PACKAGES = {
    "channels": "channels_redis",
    "channels-pubsub": "channels_redis",
    "socketio": "socketio",
}
"""What a layer needs besides redis-py."""
