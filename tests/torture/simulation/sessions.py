"""A database that is none: three connections, and sessions that `@owned` guards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ringfence import RequestScope, owned

__all__ = ["FakeDatabase", "Pool", "Session", "SessionClosed"]

Sleep = Callable[[float], Awaitable[None]]

PATIENCE = 1.0
"""Seconds that a session waits for a connection: nested ones may wait for each other."""


class Connection:
    """Remembers for whom it was taken, as a setting on a real one would be."""

    user: str | None = None


class Pool:
    """Few connections for many. Lives as long as its world."""

    def __init__(self, sleep: Sleep, size: int = 3, patience: float = PATIENCE) -> None:
        self.sleep = sleep
        self.size = size
        self.patience = patience
        self.idle = [Connection() for _ in range(size)]
        self._free = anyio.Semaphore(size, fast_acquire=True)

    async def take(self) -> Connection:
        with anyio.fail_after(self.patience):
            await self._free.acquire()
        return self.idle.pop()

    def give(self, connection: Connection) -> None:
        connection.user = None
        self.idle.append(connection)
        self._free.release()


class Wire:
    """What a session holds; nobody but the session reaches it. Lives as long as that."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.connection: Connection | None = None
        self.statements = 0
        self.is_closed = False

    async def close(self) -> None:
        """Refuse new statements, wait for those under way, give the connection back."""
        self.is_closed = True
        while self.statements:
            await self.pool.sleep(0.005)
        connection, self.connection = self.connection, None
        if connection is not None:
            self.pool.give(connection)


@owned
class Session:
    """
    A session of one scope: takes a connection when it is first used, keeps it until it closes.

    Whose it is, is judged by ringfence at each use of an attribute, and by nothing else.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def execute(self, user: str) -> str | None:
        """Run a statement for `user`; the user whose rows it would have shown."""
        wire = self.wire
        if wire.is_closed:
            raise SessionClosed
        wire.statements += 1
        try:
            if wire.connection is None:
                await self._connect(wire, user)
            connection: Any = wire.connection
            await wire.pool.sleep(0)
            shown: str | None = connection.user
            return shown
        finally:
            wire.statements -= 1

    async def _connect(self, wire: Wire, user: str) -> None:
        connection = await wire.pool.take()
        try:
            assert self.wire is wire  # judged again: the request may have ended meanwhile
        except BaseException:
            wire.pool.give(connection)
            raise
        if wire.connection is not None:  # another task of the tree was faster
            wire.pool.give(connection)
        else:
            connection.user = user
            wire.connection = connection


class SessionClosed(Exception):
    """A child's session, used by another task of the tree after the child has ended."""


class FakeDatabase:
    """A `SessionSource`. Lives as long as its world's fence."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.is_settled: dict[RequestScope, int] = {}

    def open_session(self, scope: RequestScope) -> Session:
        wire = Wire(self.pool)
        scope.callback(wire.close)
        return Session(wire)

    def adopt_session(self, scope: RequestScope, session: Any) -> None:
        """The library's registry owns it; it stays its giver's to close."""

    def serve(self, root: RequestScope) -> None:
        self.is_settled[root] = 0

    async def before_response(self, root: RequestScope, status: int) -> None:
        await self.pool.sleep(0)
        self.is_settled[root] = status

    async def start(self) -> None:
        await self.pool.sleep(0)
