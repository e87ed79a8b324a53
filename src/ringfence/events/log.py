"""What a hub asks of a log: append, read from a position, and ring a bell for what is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import attrs

from .position import Position

__all__ = ["Entry", "EventLog", "Page", "UserKey"]


class UserKey(NamedTuple):
    """Whose log: users of two tenants are two users, whatever their ids."""

    tenant_id: str | None
    user_id: str


class Entry(NamedTuple):
    """One event as it is kept."""

    sequence: int
    record: bytes
    """JSON, without the id and the sequence, which the log gives."""
    to: str | None
    """The only `websocket_client_id` that gets it; `None` for every connection of the user."""


@attrs.frozen
class Page:
    """
    What one look into a log found.

    Attributes:
        start: where the entries begin; the end of the log if none were asked for.
        gap: why that is not where it was to begin, if it is not.
        entries: in order, without gaps.
    """

    start: Position
    gap: str | None
    entries: list[Entry]


class EventLog(Protocol):
    """
    Keeps the last events of each user in order. Lives as long as its hub.

    Rings bells for what is new. A bell may ring in vain, and late, but what it rings for can be
    read by then. A log that cannot be reached raises `EventLogError`: any other error is a fault.
    """

    async def append(self, user: UserKey, record: bytes, to: str | None) -> Position:
        """Add an event at the end, drop what is too old, and ring the user's bells."""
        ...

    async def read(self, user: UserKey, after: Position | None, limit: int) -> Page:
        """What comes after a position, `limit` events at most; `None` stands for the end."""
        ...

    async def listen(self, user: UserKey, ring: Callable[[], None]) -> None:
        """Have `ring` called for whatever is appended from now on."""

    def unlisten(self, user: UserKey, ring: Callable[[], None]) -> None:
        """No more of that."""

    async def aclose(self) -> None:
        """Give up connections. What is kept stays, and may be used again."""
