"""MemoryLog: the last events of each user, in this process, within bounds."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from ..errors import ConfigurationError
from ..isolation import Infrastructure
from .log import Entry, Page, UserKey
from .position import Position, gap_after

__all__ = ["MemoryLog"]

_OVERHEAD = 150
"""Bytes that an entry takes besides its record: tuple, number, the record's own head."""


class _Stream:
    """One user's log, from their first event or connection until it is dropped."""

    __slots__ = ("bells", "bytes", "entries", "epoch", "last", "used")

    def __init__(self, now: float) -> None:
        self.epoch = os.urandom(8).hex()
        self.last = 0
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        self.bells: set[Callable[[], None]] = set()
        self.used = now

    @property
    def first(self) -> int:
        return self.last - len(self.entries) + 1


class MemoryLog(Infrastructure):
    """
    The last events of each user, in this process.

    Lives as long as its hub, and what it keeps as long as the process: a client that reconnects
    after a restart is told to reload. For one event loop at a time.

    Args:
        max_events, max_bytes: kept of each user.
        max_users: who have no connection, the least recently used are forgotten first.
        max_total_bytes: of all users; those without a connection are forgotten first, and then
            the events of whoever has had none for longest.
        idle_timeout: seconds after which a user without a connection is forgotten.

    Raises:
        ConfigurationError: a limit that is not above 0.
    """

    def __init__(
        self,
        *,
        max_events: int = 1000,
        max_bytes: int = 1024 * 1024,
        max_users: int = 10_000,
        max_total_bytes: int = 256 * 1024 * 1024,
        idle_timeout: float = 3600.0,
    ) -> None:
        limits = (max_events, max_bytes, max_users, max_total_bytes, idle_timeout)
        if not all(limit > 0 for limit in limits):
            raise ConfigurationError(
                "A limit of the log is not above 0.", "Leave it out for the usual one."
            )
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_users = max_users
        self._max_total_bytes = max_total_bytes
        self._idle_timeout = idle_timeout
        self._bytes = 0
        self._watched: dict[UserKey, _Stream] = {}
        self._idle: OrderedDict[UserKey, _Stream] = OrderedDict()  # the least recently used first
        self._written: OrderedDict[_Stream, None] = OrderedDict()  # of those watched, with events

    # --- what a hub asks ----------------------------------------------------------------------

    async def append(self, user: UserKey, record: bytes, to: str | None) -> Position:
        """Add an event at the end, drop what is too old, and ring the user's bells."""
        stream = self._stream(user)
        stream.last += 1
        stream.entries.append(Entry(stream.last, record, to))
        if stream.bells:
            self._written[stream] = None
            self._written.move_to_end(stream)
        self._count(stream, len(record) + _OVERHEAD)
        while len(stream.entries) > self._max_events or stream.bytes > self._max_bytes:
            if not self._trim(stream):
                break
        self._forget_idle(stream)
        for ring in tuple(stream.bells):
            ring()
        place = Position(stream.epoch, stream.last)
        await cancel_shielded_checkpoint()  # a burst lets its readers run, and is not cut in two
        return place

    async def read(self, user: UserKey, after: Position | None, limit: int) -> Page:
        """What comes after a position, `limit` events at most; `None` stands for the end."""
        await checkpoint()  # whoever reads without ever waiting lets others run
        stream = self._stream(user)
        if after is None:
            return Page(Position(stream.epoch, stream.last), None, [])
        start, gap = gap_after(after, stream.epoch, stream.first, stream.last)
        entries, skip = stream.entries, start - stream.first + 1
        found = [entries[i] for i in range(skip, min(skip + limit, len(entries)))]
        return Page(Position(stream.epoch, start), gap, found)

    async def listen(self, user: UserKey, ring: Callable[[], None]) -> None:
        """Have `ring` called for whatever is appended from now on."""
        stream = self._stream(user)
        self._idle.pop(user, None)
        self._watched[user] = stream
        stream.bells.add(ring)
        if stream.entries:
            self._written[stream] = None

    def unlisten(self, user: UserKey, ring: Callable[[], None]) -> None:
        """No more of that."""
        stream = self._watched.get(user)
        if stream is None:
            return
        stream.bells.discard(ring)
        if not stream.bells:
            del self._watched[user]
            self._written.pop(stream, None)
            self._idle[user] = stream
            stream.used = time.monotonic()
            self._forget_idle(stream)

    async def aclose(self) -> None:
        """Nothing to give up."""

    # --- bounds -------------------------------------------------------------------------------

    def _stream(self, user: UserKey) -> _Stream:
        stream = self._watched.get(user)
        if stream is not None:
            return stream
        now = time.monotonic()
        stream = self._idle.get(user)
        if stream is None or now - stream.used > self._idle_timeout:
            self._drop(user)
            stream = self._idle[user] = _Stream(now)
        stream.used = now
        self._idle.move_to_end(user)
        return stream

    def _count(self, stream: _Stream, size: int) -> None:
        stream.bytes += size
        self._bytes += size

    def _trim(self, stream: _Stream) -> bool:
        """Drop the oldest event, unless it is the only one."""
        if len(stream.entries) <= 1:
            return False
        self._drop_oldest(stream)
        return True

    def _drop_oldest(self, stream: _Stream) -> None:
        self._count(stream, -len(stream.entries.popleft().record) - _OVERHEAD)
        if not stream.entries:
            self._written.pop(stream, None)

    def _drop(self, user: UserKey) -> None:
        stream = self._idle.pop(user, None)
        if stream is not None:
            self._bytes -= stream.bytes

    def _forget_idle(self, current: _Stream) -> None:
        """Forget whoever is beyond the bounds; each call has little to do if every call does it."""
        oldest = time.monotonic() - self._idle_timeout
        while self._idle:
            user, stream = next(iter(self._idle.items()))
            is_over = len(self._idle) > self._max_users or self._bytes > self._max_total_bytes
            if stream is current or not (is_over or stream.used < oldest):
                break
            self._drop(user)
        while self._bytes > self._max_total_bytes:
            quietest = next(iter(self._written), current) if current.bells else current
            if quietest is not current:
                self._drop_oldest(quietest)
            elif not self._trim(current):
                break
