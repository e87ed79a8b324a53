"""Ending the transactions of guarded sessions, for their owners."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from .. import counters
from ._session_guard import SessionGuard, guard_of, own_session_of

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["close_settled", "discard", "own_sessions", "roll_back_all", "settle", "until_idle"]


def own_sessions(root: RequestScope) -> list[tuple[RequestScope, AsyncSession, SessionGuard]]:
    """The sessions that are open in a tree, given ones apart, each with its scope."""
    found = []
    scopes = [root]
    for scope in scopes:
        scopes.extend(scope.children)
        session = own_session_of(scope)
        own = None if session is None else guard_of(session.sync_session)
        if session is not None and own is not None:
            found.append((scope, session, own))
    return found


async def settle(session: AsyncSession, own: SessionGuard, commits: bool) -> None:
    """Commit or roll back, if there is anything."""
    with own.served():
        if session.in_transaction():
            await (session.commit() if commits else session.rollback())


async def roll_back_all(
    sessions: list[tuple[AsyncSession, SessionGuard]], error: Exception
) -> None:
    """Roll back all of them, whatever one of them raises; that is noted on `error`."""
    for session, own in sessions:
        try:
            await settle(session, own, False)
        except Exception as failed:
            error.add_note(f"ringfence: a session could not be rolled back either: {failed!r}")


async def until_idle(own: SessionGuard, limit: float) -> None:
    """Wait for a call that a task of the scope has left under way, as `gather` does."""
    deadline = asyncio.get_running_loop().time() + limit
    while own.is_busy and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)  # the end of a greenlet cannot be awaited
    if own.is_busy:
        raise TimeoutError("A call on the session was still under way.")


async def close_settled(session: AsyncSession, own: SessionGuard) -> bool:
    """Close it; false if it holds a connection still, as a commit that was cancelled may."""
    with own.served():
        await session.close()
    return not own.held()


async def discard(session: AsyncSession, own: SessionGuard) -> None:
    """Close a session whose connection is in an unknown state: the pool drops it."""
    counters.count("session.invalidated")
    held = own.held()
    with contextlib.suppress(Exception):
        await session.invalidate()
    for connection in held:
        with contextlib.suppress(Exception):
            await session.run_sync(_drop, connection)


def _drop(_session: Session, connection: Connection) -> None:
    if not connection.closed:
        connection.invalidate()
        connection.close()
