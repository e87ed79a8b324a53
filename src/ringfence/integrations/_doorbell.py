"""Doorbell: one pub/sub connection that rings for all users who are connected to this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as Late

from .. import counters

__all__ = ["Doorbell"]

logger = logging.getLogger("ringfence.events")

_EXPECTED = (Disconnected, Late, OSError)
_PATIENCE = 2.0  # seconds for the server to confirm a channel; without it, polling finds events
_PAUSE = 0.1  # seconds before connecting again; twice as long each time, up to
_LONGEST_PAUSE = 5.0
_LOOKS, _SHORTEST_LOOK = 100, 0.05  # that a round of looking takes, and seconds for one

Ring = Callable[[], None]


class Doorbell:
    """
    Rings when something is published. Lives as long as a log's connection.

    A bell carries nothing. Whatever goes wrong with the connection, another one is made and all
    bells are rung: something may have come meanwhile.
    """

    def __init__(self, client: Redis, poll_interval: float) -> None:
        self._client = client
        self._poll_interval = poll_interval
        self._looks = max(1, min(_LOOKS, int(poll_interval / _SHORTEST_LOOK)))
        self._next_look = asyncio.get_running_loop().time() + poll_interval / self._looks
        self._to_look = deque[bytes]()
        self._share = 0
        self._looks_left = self._looks
        self._rings: dict[bytes, set[Ring]] = {}
        self._confirmed: dict[bytes, asyncio.Event] = {}
        self._pubsub: PubSub | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None

    async def add(self, channel: str, ring: Ring) -> None:
        """Ring `ring` for whatever is published from now on."""
        name = channel.encode()
        self._rings.setdefault(name, set()).add(ring)
        if self._listener is None:
            self._listener = self._spawn(self._listen())
        confirmed = self._confirmed.get(name)
        if confirmed is None:
            confirmed = self._confirmed[name] = asyncio.Event()
            self._spawn(self._say("subscribe", name))  # others wait for it if this one leaves
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await confirmed.wait()

    def remove(self, channel: str, ring: Ring) -> None:
        """No more."""
        name = channel.encode()
        rings = self._rings.get(name)
        if rings is None:
            return
        rings.discard(ring)
        if not rings:
            del self._rings[name]
            self._confirmed.pop(name, None)
            self._spawn(self._say("unsubscribe", name))

    async def aclose(self) -> None:
        """Give up the connection."""
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            # redis-py loses some, until Python 3.12; not sooner: they close their connections.
            await asyncio.wait(tasks, timeout=1)
        self._listener = None

    # --- inside -------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In nobody's context: it works for all users."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _say(self, verb: str, name: bytes) -> None:
        """Tell the server about a channel, unless it is otherwise by now."""
        async with self._lock:
            is_wanted = name in self._rings
            if self._pubsub is None or is_wanted is not (verb == "subscribe"):
                return  # the listener subscribes to all when it connects
            with contextlib.suppress(Exception):  # whatever it is, the listener notices, too
                await getattr(self._pubsub, verb)(name)

    async def _listen(self) -> None:
        pause = _PAUSE
        while True:
            try:
                async with self._connection() as pubsub:
                    pause = _PAUSE
                    await self._hear(pubsub)
            except Exception as error:  # whatever it is: without a listener no bell would ring
                counters.count("events.bell_lost")
                level = logging.INFO if isinstance(error, _EXPECTED) else logging.ERROR
                logger.log(level, "The connection for bells was lost: %r.", error)
            self._look_if_due()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pubsub: Any = self._client.pubsub()
        try:
            async with self._lock:
                if self._rings:
                    await pubsub.subscribe(*self._rings)
                else:
                    await pubsub.connect()
                self._pubsub = pubsub
            self._ring_all()
            yield pubsub
        finally:
            self._pubsub = None
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()

    async def _hear(self, pubsub: PubSub) -> None:
        while True:
            wait = self._next_look - asyncio.get_running_loop().time()
            message = await pubsub.get_message(timeout=max(wait, 0.001))
            self._look_if_due()
            if message is None:
                continue
            name = message["channel"]
            if message["type"] == "message":
                self._ring(name)
            elif message["type"] == "subscribe" and name in self._confirmed:
                self._confirmed[name].set()

    def _look_if_due(self) -> None:
        """
        Ring in vain, now and then: a bell may be lost, or there is no connection for them.

        For a few users at a time: ten thousand who look at once would hold up whoever emits.
        """
        now = asyncio.get_running_loop().time()
        self._next_look = max(self._next_look, now - self._poll_interval)
        while self._next_look <= now:  # more than once, if there was no connection for a while
            self._next_look += self._poll_interval / self._looks
            self._look()

    def _look(self) -> None:
        self._looks_left -= 1
        if self._looks_left <= 0:
            self._looks_left = self._looks
            self._to_look.extend(self._rings)
            self._share = math.ceil(len(self._to_look) / self._looks)
        for _ in range(min(self._share, len(self._to_look))):
            self._ring(self._to_look.popleft())

    def _ring(self, name: bytes) -> None:
        for ring in tuple(self._rings.get(name, ())):
            ring()

    def _ring_all(self) -> None:
        for name in list(self._rings):
            self._ring(name)
