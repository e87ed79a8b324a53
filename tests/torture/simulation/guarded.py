"""A fake session with the real guard of `integrations.sqlalchemy`: whose it is, and who uses it."""

from __future__ import annotations

from sqlalchemy.util import greenlet_spawn
from sqlalchemy.util.concurrency import await_only

from ringfence import RequestScope
from ringfence.integrations._session_endings import until_idle
from ringfence.integrations._session_guard import SessionGuard

from .sessions import PATIENCE, FakeDatabase, Session, Wire

__all__ = ["GuardedDatabase"]


class GuardedSession:
    """
    Each call runs in a greenlet, as SQLAlchemy's do, and the guard judges it there.

    A call that is under way when the scope closes comes to its end, and is waited for.
    """

    def __init__(self, wire: Wire, scope: RequestScope) -> None:
        self._wire = wire
        self._guard = SessionGuard(scope, bool)

    async def execute(self, user: str) -> str | None:
        shown: str | None = await greenlet_spawn(self._execute, user)
        return shown

    def _execute(self, user: str) -> str | None:
        self._guard.check()
        wire = self._wire
        if wire.statements:
            raise AssertionError("two tasks use one session at once")
        if wire.is_closed:
            raise AssertionError("a session is used after it was closed")
        wire.statements += 1
        try:
            if wire.connection is None:
                wire.connection = await_only(wire.pool.take())
                wire.connection.user = user
            await_only(wire.pool.sleep(0))
            return wire.connection.user
        finally:
            wire.statements -= 1

    async def close(self) -> None:
        self._guard.close()
        await until_idle(self._guard, 2 * PATIENCE)
        self._guard.forget()
        if self._wire.statements:
            raise AssertionError("a session is closed while a task uses it")
        await self._wire.close()


class GuardedDatabase(FakeDatabase):
    """Gives every second scope a session with the real guard; asyncio's only, as that is."""

    _count = 0

    def open_session(self, scope: RequestScope) -> Session | GuardedSession:  # type: ignore[override]
        self._count += 1
        if self._count % 2:
            return super().open_session(scope)
        session = GuardedSession(Wire(self.pool), scope)
        scope.callback(session.close)
        return session
