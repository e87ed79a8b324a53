"""How long a session's connection was held, and how long of that nothing went over it."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from .. import counters

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["ConnectionTimes"]

logger = logging.getLogger("ringfence.sqlalchemy")


class ConnectionTimes:
    """
    The clock of one connection, from when a session took it until it was given back.

    Statements, commits and rollbacks are work, waiting for a lock included; all else is idle.
    What follows a statement whose rows are streamed is not called idle, up to the next
    statement: SQLAlchemy does not say when rows are fetched.

    Counted once it was given back, in microseconds, so that short requests add up:
    `connection.held`, `connection.held_us`, `connection.idle_us`; and `connection.idle_warned`.
    """

    __slots__ = ("_began", "_has_warned", "_idle", "_idle_since", "_scope")

    def __init__(self, scope: RequestScope) -> None:
        self._scope = scope
        self._began: float | None = perf_counter()
        self._idle_since: float | None = self._began
        self._idle = 0.0
        self._has_warned = False

    def work(self) -> None:
        """Something goes over the connection from now on."""
        since, self._idle_since = self._idle_since, None
        if since is None:
            return
        stretch = perf_counter() - since
        self._idle += stretch
        limit = self._scope.settings.idle_connection_warning
        if limit and stretch > limit and not self._has_warned:
            self._warn(stretch)

    def rest(self) -> None:
        """It is idle from now on."""
        self._idle_since = perf_counter()

    def given_back(self) -> None:
        """It is the pool's again; calling this once more does nothing."""
        self.work()
        began, self._began = self._began, None
        if began is None:
            return
        counters.count("connection.held")
        counters.count("connection.held_us", round((perf_counter() - began) * 1e6))
        counters.count("connection.idle_us", round(self._idle * 1e6))

    def _warn(self, stretch: float) -> None:
        self._has_warned = True
        counters.count("connection.idle_warned")
        logger.warning(
            "Request `%s` held a database connection for %.1f s without using it. Give it back "
            "while something slow goes on: `async with released_connection():`.",
            self._scope.request_id,
            stretch,
        )
