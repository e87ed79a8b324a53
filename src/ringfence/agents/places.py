"""Places: how many runs there may be at once, of one user and in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ..errors import AgentLimitError

if TYPE_CHECKING:
    from ..events import UserKey

__all__ = ["Places"]


class _Waiter:
    __slots__ = ("event", "has_place", "user")

    def __init__(self, user: UserKey) -> None:
        self.user = user
        self.event = anyio.Event()
        self.has_place = False


class Places:
    """
    The places of one registry; lives as long as that. Whoever waits longest goes first.

    As many may wait as may run, of one user and in all: a queue without an end would only be
    another way to run out of memory.
    """

    def __init__(self, per_user: int, in_all: int, queue_timeout: float) -> None:
        self._per_user = per_user
        self._in_all = in_all
        self._queue_timeout = queue_timeout
        self._taken: dict[UserKey, int] = {}
        self._count = 0
        self._waiting: dict[_Waiter, None] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    async def take(self, user: UserKey) -> None:
        """
        Take a place, which is to be given back; wait for one if that is allowed.

        Raises:
            AgentLimitError: there is none, or none in time.
        """
        full = self._is_full_for(user)
        if full is None:
            self._add(user)
            return
        if not self._queue_timeout or self._has_too_many_waiting(user):
            raise _no_place(full)
        await self._wait(user)

    async def _wait(self, user: UserKey) -> None:
        waiter = _Waiter(user)
        self._waiting[waiter] = None
        try:
            with anyio.move_on_after(self._queue_timeout):
                await waiter.event.wait()
        except BaseException:
            if waiter.has_place:  # given just as the task was cancelled
                self.give_back(user)
            raise
        finally:
            self._waiting.pop(waiter, None)
        if not waiter.has_place:
            raise _no_place(self._is_full_for(user) or "max_running")

    def give_back(self, user: UserKey) -> None:
        """Give a place back, to whoever waits longest and may have it."""
        self._count -= 1
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]  # users who are gone are forgotten
        for waiter in self._waiting:
            if self._is_full_for(waiter.user) is None:
                del self._waiting[waiter]
                self._add(waiter.user)
                waiter.has_place = True
                waiter.event.set()
                return

    def _add(self, user: UserKey) -> None:
        self._count += 1
        self._taken[user] = self._taken.get(user, 0) + 1

    def _is_full_for(self, user: UserKey) -> str | None:
        """The limit that keeps a user from another run, if one does."""
        if self._taken.get(user, 0) >= self._per_user:
            return "max_running_per_user"
        return "max_running" if self._count >= self._in_all else None

    def _has_too_many_waiting(self, user: UserKey) -> bool:
        of_user = sum(waiter.user == user for waiter in self._waiting)
        return of_user >= self._per_user or len(self._waiting) >= self._in_all


def _no_place(full: str) -> AgentLimitError:
    whose = "of this user " if full == "max_running_per_user" else ""
    return AgentLimitError(
        f"As many agents {whose}run as may at once.",
        f"Try again when one has ended, or change `AgentRegistry({full}=, queue_timeout=)`.",
        limit=full,
    )
