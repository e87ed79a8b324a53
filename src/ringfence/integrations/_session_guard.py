"""The guard on one database session: whose it is, and which task is using it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..errors import ConcurrentSessionError, SessionIsolationError
from ..refusals import foreign_session, nothing_open
from ..state import CLOSED, _get

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["GUARD", "SessionGuard", "guard_of", "own_session_of", "session_of"]

GUARD = "_ringfence_guard"
"""Where a guarded session, and a connection that is watched, keep their guard."""

_numbers = itertools.count()


class SessionGuard:
    """
    Whose a session is, which task is using it, and which connections it holds.

    Lives on the sync session, from `guard` to `unguard`; or, once its scope has closed the
    session, for ever: a closed session stays refused.

    Attributes:
        scope: the scope that the session was made for, or that it was given to.
        owner: the root of that scope; its whole tree may use the session.
        number: greater than that of every session that was guarded before.
        failed_on: the connection that has said no since its last commit, if any.
    """

    __slots__ = (
        "_admitted", "_greenlet", "_held", "_servant", "_task", "_written_on", "failed_on",
        "is_read_only", "number", "owner", "scope",
    )  # fmt: skip

    def __init__(self, scope: RequestScope, is_read_only: Callable[[], bool]) -> None:
        self.scope = scope
        self.owner = scope.root
        self.is_read_only = is_read_only
        self.number = next(_numbers)
        self._admitted: RequestScope | None = self.owner
        self._servant: asyncio.Task[Any] | None = None
        self._greenlet: Any = None  # of the last call; true while that has not ended
        self._task: asyncio.Task[Any] | None = None
        self._held: list[Connection] = []
        self._written_on: Connection | None = None
        self.failed_on: Connection | None = None

    # --- who may use it -----------------------------------------------------------------------

    def check(self) -> None:
        """
        Let the code that runs here use the session, and note that it does.

        SQLAlchemy runs each awaited call in a greenlet, which is alive until the call ends: that
        is how a second task is noticed, without anything to undo when a call is cancelled.

        Raises:
            SessionIsolationError: it belongs to another request.
            ContextClosedError: its scope has ended, or the one that is current here.
            NoContextError: no scope is open here.
            ConcurrentSessionError: another task is using it.
        """
        current = getcurrent()
        if self._greenlet is current:
            return
        here = _get()
        if here is None or here._root is not self._admitted or here._state is CLOSED:
            self._refuse_strangers(here)
        if self._greenlet:
            if self._task is not _current_task():
                raise self._in_use()
        elif getattr(current, "__sqlalchemy_greenlet_provider__", False):
            self._greenlet, self._task = current, _current_task()

    def _refuse_strangers(self, here: RequestScope | None) -> None:
        if self._servant is not None and self._servant is _current_task():
            return
        if self._admitted is None:
            raise self.scope._closed_error()
        if self.owner._state is CLOSED:
            raise self.owner._closed_error()
        if here is None:
            raise nothing_open()
        if here._state is CLOSED:
            raise here._closed_error()
        raise self.foreign(here)

    def foreign(self, here: RequestScope) -> SessionIsolationError:
        """The error for this session met in the request of `here`."""
        return foreign_session(self.owner, here)

    def _in_use(self) -> ConcurrentSessionError:
        return ConcurrentSessionError(
            f"The session of request `{self.scope.request_id}` is in use by another task.",
            "Await one call before the next, or open a `child_context` for each parallel "
            "operation: it has a session of its own.",
            owner_request_id=self.owner.request_id,
            request_id=self.scope.request_id,
        )

    @contextmanager
    def served(self) -> Iterator[None]:
        """A block in which this task settles the session for its owner, whatever is current."""
        before, self._servant = self._servant, _current_task()
        try:
            yield
        finally:
            self._servant = before

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._greenlet)

    @property
    def is_closed(self) -> bool:
        """Whether its scope is closing the session, or has."""
        return self._admitted is None

    def close(self) -> None:
        """Admit nobody any more, but a call that is under way, to its end."""
        self._admitted = None

    def forget(self) -> None:
        """Let go of whoever used it; a call that is still under way is refused from now on."""
        self._greenlet = self._task = None

    # --- what it holds ------------------------------------------------------------------------

    def ancestors(self) -> Iterator[tuple[RequestScope, SessionGuard]]:
        """The scopes above that have a guarded session of their own, nearest first."""
        scope = self.scope.parent
        while scope is not None:
            session = session_of(scope)
            other = None if session is None else guard_of(session.sync_session)
            if other is not None and other is not self:
                yield scope, other
            scope = scope.parent

    def held(self) -> list[Connection]:
        """The pooled connections that the session holds."""
        self._held = [connection for connection in self._held if not connection.closed]
        return self._held

    def holds(self, engine: Engine) -> bool:
        """Whether one of them is of this engine."""
        return any(connection.engine is engine for connection in self.held())

    def took(self, connection: Connection) -> None:
        """Note a connection that was checked out."""
        self._held.append(connection)

    def wrote(self, connection: Connection) -> None:
        """Note that something was written, or locked, in the open transaction."""
        self._written_on = connection

    @property
    def written_on(self) -> Connection | None:
        """The connection on which the open transaction has written, if it has."""
        if self._written_on is not None and self._written_on.closed:
            self._written_on = None
        return self._written_on


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return None


# --- looking up -------------------------------------------------------------------------------


def guard_of(sync_session: Session) -> SessionGuard | None:
    """The guard of a session, if it has one."""
    return vars(sync_session).get(GUARD)


def session_of(scope: RequestScope) -> AsyncSession | None:
    """The session of `scope` itself, the given one or its own, if it is open; opens none."""
    context = scope._context
    given = None if context is None else context._session
    return own_session_of(scope) if given is None else _if_session(given)


def own_session_of(scope: RequestScope) -> AsyncSession | None:
    """The session that was opened for `scope`, if it is open; opens none."""
    return None if scope._extras is None else _if_session(scope._extras.session)


def _if_session(candidate: Any) -> AsyncSession | None:
    # By its type: `isinstance` believes what a mock says of itself.
    return candidate if issubclass(type(candidate), AsyncSession) else None
