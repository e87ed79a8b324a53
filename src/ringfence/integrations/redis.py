"""RedisLog: the last events of each user in a Redis or Valkey that several processes share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Disconnected
    from redis.exceptions import RedisError, ResponseError
    from redis.exceptions import TimeoutError as Late
except ImportError as missing:
    raise ImportError(
        'This needs redis-py. Install it with `pip install "ringfence[redis]"`.'
    ) from missing

from .. import counters
from ..errors import ConfigurationError, EventLogError
from ..events.log import Entry, Page, UserKey
from ..events.position import Position, gap_after
from ..isolation import Infrastructure
from ..tasks import is_on_trio
from ._doorbell import Doorbell
from ._redis_scripts import APPEND, READ

__all__ = ["RedisLog"]

_ATTEMPTS = 4
_PAUSE = 0.05  # seconds before the second attempt; twice as long before each further one


class RedisLog(Infrastructure):
    """
    The last events of each user, in a Redis or Valkey (6.2 or later) that processes share.

    Lives as long as its hub; connects when it is first used, in the event loop that uses it. A
    stream is the truth; pub/sub only rings for it, so that a lost connection loses nothing. An
    event is appended by one call, and once: a call that is repeated because its answer was lost
    finds what it had done. A server that stays away, or refuses, is an `EventLogError`, within
    `call_timeout` seconds::

        hub = EventHub(RedisLog("redis://localhost/0"))

    Whoever can write to that server can tell users anything: give it to ringfence alone, or
    restrict others by ACL to keys and channels that do not begin with `prefix`.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        prefix: of all keys and channels.
        max_events, max_bytes: kept of each user.
        idle_timeout: seconds after which a user without events and connections is forgotten;
            three times `poll_interval` at least, since to look is what keeps those connected.
        poll_interval: seconds after which connections look for events even if no bell rang.
        max_connections: to the server, of this process, two at least; half of them are for events
            that are added, so that clients who all come back at once hold up nobody who emits. One
            more is for the bells.
        call_timeout: seconds for one event to be added, repetitions included; looking for events
            takes four times that at most.
        options: for redis-py's connections, such as `ssl_ca_certs`.

    Raises:
        ConfigurationError: a limit that is not above 0, an `idle_timeout` that is too short, or
            an option that makes texts of answers; or, when it is used, this is trio.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "ringfence:events:",
        max_events: int = 1000,
        max_bytes: int = 1024 * 1024,
        idle_timeout: float = 3600.0,
        poll_interval: float = 30.0,
        max_connections: int = 32,
        call_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        limits = (max_events, max_bytes, idle_timeout, poll_interval, max_connections, call_timeout)
        if not min(limits) > 0:
            raise ConfigurationError(
                "A limit of the log is not above 0.", "Leave it out for the usual one."
            )
        if idle_timeout < 3 * poll_interval:  # one round of looking may take two
            raise ConfigurationError(
                "Users would be forgotten while they are connected: `idle_timeout` is below three "
                "times `poll_interval`.",
                "Make the one longer, or the other shorter.",
            )
        if options.get("decode_responses") or parse_url(url).get("decode_responses"):
            raise ConfigurationError(
                "The log reads bytes, and `decode_responses` makes texts of them.", "Leave it out."
            )
        self._url = url
        self._prefix = prefix
        self._limits = (int(idle_timeout * 1000), max_events, max_bytes)
        self._poll_interval = poll_interval
        self._max_connections = max_connections
        self._call_timeout = call_timeout
        self._options = options
        self._link: _Link | None = None

    async def append(self, user: UserKey, record: bytes, to: str | None) -> Position:
        """Add an event at the end, drop what is too old, and ring the user's bells."""
        state, log, bell = self._names(user)
        nonce = os.urandom(8)
        given = (os.urandom(8).hex(), *self._limits, record, to or "", nonce, bell)
        epoch, sequence = await self._run(APPEND, (state, log), given)
        return Position(epoch.decode(), sequence)

    async def read(self, user: UserKey, after: Position | None, limit: int) -> Page:
        """What comes after a position, `limit` events at most; `None` stands for the end."""
        state, log, _ = self._names(user)
        place = ("", "") if after is None else (after.epoch, after.sequence)
        given = (os.urandom(8).hex(), self._limits[0], *place, limit)
        epoch, first, last, rows = await self._run(READ, (state, log), given)
        epoch = epoch.decode()
        start, gap = (last, None) if after is None else gap_after(after, epoch, first, last)
        return Page(Position(epoch, start), gap, [_entry(row) for row in rows])

    async def listen(self, user: UserKey, ring: Callable[[], None]) -> None:
        """Have `ring` called for whatever is appended from now on."""
        await self._connected().doorbell.add(self._names(user)[2], ring)

    def unlisten(self, user: UserKey, ring: Callable[[], None]) -> None:
        """No more of that."""
        if self._link is not None:
            self._link.doorbell.remove(self._names(user)[2], ring)

    async def aclose(self) -> None:
        """Give up connections. What is kept stays, and may be used again."""
        link, self._link = self._link, None
        if link is not None and link.is_here():
            await link.aclose()

    # --- inside -------------------------------------------------------------------------------

    def _names(self, user: UserKey) -> tuple[str, str, str]:
        """
        The keys of a user, and their channel.

        The length makes them unambiguous, whatever the ids hold; the braces keep a user's keys
        on one node of a cluster.
        """
        tenant, user_id = user
        who = f":{user_id}" if tenant is None else f"{len(tenant)}:{tenant}:{user_id}"
        key = f"{self._prefix}{{{who}}}"
        return f"{key}:state", f"{key}:log", f"{key}:bell"

    async def _run(self, script: str, keys: tuple[str, ...], given: tuple[Any, ...]) -> Any:
        """Run a script, within bounds; whatever the server and its client raise is one error."""
        call = _Call(script, keys, given)
        self._connected()  # on trio there is nothing to wait with
        try:
            async with asyncio.timeout(self._call_timeout * (1 if script is APPEND else 4)):
                return await self._repeat(call)
        except TimeoutError as error:
            raise _away("did not answer in time", call) from error
        except (*_LOST, RedisError) as error:
            lost = isinstance(error, _LOST)
            raise _away("is away" if lost else "refused a call", call) from error

    async def _repeat(self, call: _Call) -> Any:
        """Run it, again if the connection is lost: the script is told which attempt it is."""
        for attempt in range(_ATTEMPTS):
            link = self._connected()
            try:
                async with link.turns[call.script]:
                    return await call.attempt(link.scripts[call.script], attempt)
            except _LOST:
                counters.count("events.connection_lost")
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_PAUSE * 2**attempt)
        raise RuntimeError  # not reached

    def _connected(self) -> _Link:
        link = self._link
        if link is None or not link.is_here():
            if is_on_trio():
                raise ConfigurationError(
                    "redis-py runs on asyncio only.", "Use a `MemoryLog` on trio."
                )
            link = self._link = _Link(self)
        return link


class _Call:
    """One call of a script, and whether the server may have seen it."""

    def __init__(self, script: str, keys: tuple[str, ...], given: tuple[Any, ...]) -> None:
        self.script = script
        self.may_have_run = False
        self._keys = keys
        self._given = given

    async def attempt(self, run: Any, number: int) -> Any:
        before, self.may_have_run = self.may_have_run, True  # also if we are cancelled meanwhile
        cancels = _cancels()
        try:
            found = await run(keys=self._keys, args=(*self._given, number))
            if _cancels() > cancels:
                raise asyncio.CancelledError  # `asyncio.wait_for` loses some, until Python 3.12
            return found
        except (_Unreached, ResponseError):
            self.may_have_run = before
            raise


def _cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _Unreached(Disconnected):
    """There was no connection over which anything could be sent."""


class _Pool(BlockingConnectionPool):
    async def get_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            raise _Unreached(str(error)) from error


_LOST = (Disconnected, Late, OSError)


def _away(what: str, call: _Call) -> EventLogError:
    is_stored = call.script is APPEND and call.may_have_run
    fact = "it may have stored the event" if is_stored else "it has stored nothing"
    return EventLogError(
        f"The server of the event log {what}; {fact}.",
        "See that it runs and lets ringfence in. Clients resume once it is back.",
        may_be_stored=is_stored,
    )


class _Link:
    """What a log holds of the server, in one event loop: a pool, the scripts and the bells."""

    def __init__(self, log: RedisLog) -> None:
        self._loop = asyncio.get_running_loop()
        half = max(1, log._max_connections // 2)
        self._adding = _client(log, half)
        self._looking = _client(log, half)
        # Two tasks use it: redis-py connecting anew in one of them would take the other's away.
        self._bells = _client(log, 1, Retry(NoBackoff(), 0, supported_errors=()))
        self.scripts = {
            APPEND: self._adding.register_script(APPEND),
            READ: self._looking.register_script(READ),
        }
        # The pools block, too, but where thousands wait in one it does little but wake them.
        self.turns = {script: asyncio.Semaphore(half) for script in self.scripts}
        self.doorbell = Doorbell(self._bells, log._poll_interval)

    def is_here(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    async def aclose(self) -> None:
        await self.doorbell.aclose()
        for client in (self._bells, self._looking, self._adding):
            await client.aclose()


def _client(log: RedisLog, connections: int, retry: Retry | None = None) -> Redis:
    # Its own retries would append an event twice: it cannot tell the script of them.
    retry = retry or Retry(NoBackoff(), 0)
    options = {"socket_timeout": 5, "socket_connect_timeout": 5, **log._options}
    pool = _Pool.from_url(
        log._url,
        max_connections=connections,
        timeout=log._call_timeout,
        retry=retry,
        **options,
    )
    return Redis.from_pool(pool)


def _entry(row: Any) -> Entry:
    name, (_, record, _, to, _, _) = row
    return Entry(int(name.partition(b"-")[0]), record, to.decode() or None)
