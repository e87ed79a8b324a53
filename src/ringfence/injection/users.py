"""Users: what is kept for each user across requests, how much of it, and for how long."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

import anyio

from .. import counters, isolation
from ..errors import ContextClosedError, UnreachableProviderError
from ..finalisers import Finalisers
from ..identity import Identity
from ..isolation import Claimant
from ..state import CLOSED, CLOSING, OPEN, State, _get
from ..tasks import Job, is_on_trio, wait_out
from .holders import AppHolder, Holder, apart, close, not_open
from .pending import PAUSE

if TYPE_CHECKING:
    from ..scope import RequestScope
    from .plans import Plan

__all__ = ["Leaving", "UserHolder", "Users"]

logger = logging.getLogger("ringfence.injection")

Key = tuple[str, str | None]

_inside: ContextVar[UserHolder | None] = ContextVar("ringfence_user", default=None)
"""Whose objects are made or finalised here: they may use one another, though no scope is open."""


class UserHolder(Holder):
    """
    The objects of one user of one tenant.

    Lives across requests: until it was idle for too long, makes room for others, or the
    application stops. While a request of the user has it, it stays. Its objects are made in a
    context in which no scope is open: they belong to no request.

    Attributes:
        before: the same user's of before, which is being finalised: nothing is made until it has
            gone, so that there is one of each.
        is_given_up: it was waited for, and did not come to its end.
    """

    def __init__(self, key: Key, request_id: str, app: AppHolder) -> None:
        super().__init__(request_id)  # of the request that it was made in: messages name no user
        self.key = key
        self.app = app
        self.made = {}
        self.requests: set[RequestScope] = set()
        self.idle_since = 0.0
        self.before: UserHolder | None = None
        self.is_given_up = False
        self._state: State = OPEN
        self._finalisers = Finalisers(app.limit, self.own_context)

    @property
    def has_clean_up(self) -> bool:
        """Whether closing it may have something to await."""
        return self._finalisers.is_needed

    @property
    def identity(self) -> Identity:
        """Who it is, without what changes from request to request."""
        return Identity(*self.key)

    def of_user(self) -> UserHolder:
        """Itself."""
        return self

    def require_open(self) -> None:
        """See `Holder`."""
        if self._state is not OPEN:
            raise self._closed_error()
        if self.before is not None:
            if not self.before.has_gone:
                raise Leaving(self.before)
            self.before = None

    @property
    def has_gone(self) -> bool:
        """Whether there may be another in its place."""
        return self._state is CLOSED or self.is_given_up

    async def wait_until_gone(self) -> None:
        """Wait until it is finalised; not for ever: the event loop that does it may be gone."""
        bound = 2 * self.app.limit * (len(self._finalisers.entries) + 1)
        with anyio.move_on_after(bound) as waiting:
            while not self.has_gone:  # noqa: ASYNC110 - who waits may be on another event loop
                await anyio.sleep(PAUSE)
        self.is_given_up = self.is_given_up or waiting.cancelled_caught

    def is_here(self) -> bool:
        """See `Claimant`."""
        return _inside.get() is self and _get() is None

    def own_context(self) -> Context:
        """See `Holder`."""
        context = apart()
        context.run(_inside.set, self)
        return context

    def clean_up(self) -> Finalisers:
        """See `Holder`."""
        if not self.app.has_closer:
            raise not_open()
        return self._finalisers

    def keep(self, plan: Plan, value: Any) -> Any:
        """See `Holder`; it belongs to this user's requests, and to no other's."""
        if type(value) is not plan.kind:
            plan.learn(type(value))
        if plan.is_ownable:
            isolation.registry.adopt(value, self)
            isolation.stamp(value, self)
        return self.made.setdefault(plan, value)

    def admits(self, scope: RequestScope) -> bool:
        """See `Claimant`."""
        return self._state is not CLOSED and scope.has_user and _key_of(scope) == self.key

    def is_kin(self, other: Claimant) -> bool:
        """See `Claimant`."""
        return any(root._more().claimant is other for root in self.requests)

    def _closed_error(self) -> ContextClosedError:
        return ContextClosedError(
            f"What was kept for the user of request `{self.request_id}` has been closed.",
            "Ask the scope for it in each request: it stays as long as a request has it.",
            request_id=self.request_id,
        )

    async def aclose(self) -> list[BaseException]:
        """Finalise everything; what went wrong."""
        self._state = CLOSING
        failed = await close(self._finalisers)
        self._state = CLOSED
        self.disown()
        self.made.clear()
        self.owners = None
        return failed


class Leaving(Exception):
    """Nothing new is made while what was kept for the same user is being finalised; wait for it."""

    def __init__(self, holder: UserHolder) -> None:
        super().__init__(holder)
        self.holder = holder

    async def wait(self) -> None:
        """Wait until the way is free; what is being finalised itself would wait for ever."""
        if _inside.get() is self.holder:
            raise self.refusal()
        await self.holder.wait_until_gone()

    def refusal(self) -> UnreachableProviderError:
        """The error for who cannot wait."""
        return UnreachableProviderError(
            "What was kept for this user is being finalised at the moment.",
            "Ask for it with `await scope.get(...)` or in an async function, which waits for that.",
        )


class Users:
    """
    What is kept for each user. Lives as long as its container.

    Args:
        app: what lives longer.
        limit: how many users at most, but for those whose requests are open.
        idle: seconds without a request after which a user's objects are closed.
    """

    def __init__(self, app: AppHolder, limit: int, idle: float) -> None:
        self.app = app
        self.limit = limit
        self.idle = idle
        self.holders: OrderedDict[Key, UserHolder] = OrderedDict()
        self.leaving: dict[Key, UserHolder] = {}
        self._lock = threading.Lock()  # plain handlers of a framework run in threads
        self._closing: list[Job] = []
        self._failed: list[BaseException] = []
        self._sweeper: Job | None = None
        self._stop: anyio.Event | None = None

    # --- who is here --------------------------------------------------------------------------

    def enter(self, root: RequestScope) -> UserHolder:
        """
        The objects of the user whose request this root is, kept while it is open.

        Raises:
            NoContextError: it belongs to nobody.
        """
        key = _key_of(root)
        with self._lock:
            holder = self.holders.get(key)
            if holder is None:
                holder = self.holders[key] = UserHolder(key, root.request_id, self.app)
                holder.before = self.leaving.get(key)
            holder.requests.add(root)
        root._finalisers().add(lambda: self._leave(holder, root), "what is kept for the user")
        self.sweep()
        return holder

    def _leave(self, holder: UserHolder, root: RequestScope) -> None:
        with self._lock:
            holder.requests.discard(root)
            holder.idle_since = time.monotonic()
            if self.holders.get(holder.key) is holder:
                self.holders.move_to_end(holder.key)
        self.sweep()

    # --- who has to go ------------------------------------------------------------------------

    def sweep(self) -> None:
        """Close what was idle for too long, and what is too much, least recently used first."""
        with self._lock:
            leaving = list(self._take_out())
        for holder in leaving:
            self._close(holder)

    def _take_out(self) -> Iterator[UserHolder]:
        before = time.monotonic() - self.idle
        for key, holder in list(self.holders.items()):
            if holder.requests or (holder.has_clean_up and not _has_loop()):
                continue
            if len(self.holders) <= self.limit and holder.idle_since > before:
                return  # the rest was used later
            del self.holders[key]
            if holder.has_clean_up:
                self.leaving[key] = holder
            yield holder

    def _close(self, holder: UserHolder) -> None:
        counters.count("injection.user_closed")

        async def work() -> None:
            failed = await holder.aclose()
            with self._lock:
                if self.leaving.get(holder.key) is holder:
                    del self.leaving[holder.key]
            self._failed += failed
            for error in failed:
                logger.error("What was kept for a user was not closed well.", exc_info=error)

        if holder.has_clean_up:
            self._closing = [job for job in self._closing if not job.done.is_set()]
            self._closing.append(Job(work, "ringfence user closer", Context()))
        else:
            holder._state = CLOSED
            holder.disown()
            holder.made.clear()

    def start(self) -> None:
        """Look from now on, now and then, who was idle for too long."""
        self._stop = stop = anyio.Event()
        pause = max(self.idle / 4, 0.01)

        async def watch() -> None:
            while not stop.is_set():
                await wait_out(stop, pause)
                self.sweep()

        self._sweeper = Job(watch, "ringfence user sweeper", Context(), None, stop.set)

    async def aclose(self) -> list[BaseException]:
        """Close everybody's; what went wrong."""
        cancelled = None
        if self._stop is not None and self._sweeper is not None:
            self._stop.set()
            cancelled = await wait_out(self._sweeper.done, None)
        self._stop = self._sweeper = None
        for holder in self.holders.values():
            self._close(holder)
        self.holders.clear()
        for job in self._closing:
            cancelled = await wait_out(job.done, None) or cancelled
        failed, self._failed = self._failed, []
        return failed if cancelled is None else [*failed, cancelled]


def _has_loop() -> bool:
    """Whether there is somewhere to finalise: a request of `run_as` may end without."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return is_on_trio()
    return True


def _key_of(scope: RequestScope) -> Key:
    context = scope.context
    return context.user_id, context.tenant_id
