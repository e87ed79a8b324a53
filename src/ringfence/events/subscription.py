"""Subscription: the events of the current user, read from the log at the reader's own pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from ..current import current_scope
from ..errors import ConfigurationError, ContextClosedError
from ..isolation import Infrastructure
from ..refusals import draining
from .envelope import Event, Resync
from .log import Entry, Page, UserKey
from .position import Position

if TYPE_CHECKING:
    from ..scope import RequestScope
    from .hub import EventHub

__all__ = ["Subscription"]

_PAGE = 100
"""Events that are taken from the log at once: what a slow reader holds at most."""


class Subscription(Infrastructure):
    """
    The events of the current user, as an async context manager and iterator.

    Lives within one scope: it ends when its block, its scope or, at shutdown, the application
    does. It holds no queue: it reads from the log when its reader asks, and so a slow reader
    slows nobody. One that is too slow gets a `Resync`, and then what there is::

        async with hub.subscribe(last_id) as events:
            async for event in events:
                await send(event.json())

    For one task at a time. Not made by hand.
    """

    __slots__ = (
        "_after", "_client_id", "_entries", "_forget", "_has_news", "_hub", "_is_busy",
        "_is_stopped", "_resync", "_scope", "_user", "_wake",
    )  # fmt: skip

    def __init__(self, hub: EventHub, after: Position | None, client_id: str | None) -> None:
        self._hub = hub
        self._client_id = client_id
        self._after = after
        self._entries: deque[Entry] = deque()
        self._resync: Resync | None = None
        self._wake: anyio.Event | None = None
        self._has_news = True
        self._is_busy = False
        self._is_stopped = False
        self._scope: RequestScope | None = None
        self._user: UserKey | None = None
        self._forget: Callable[[], None] | None = None

    # --- the block ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise ConfigurationError(
                "This subscription was entered already.", "Call `subscribe(...)` again."
            )
        scope = current_scope()
        context = scope.context
        if scope._recipes is not None and scope._recipes.is_draining:
            raise draining()
        if self._client_id is None:
            self._client_id = context.websocket_client_id
        else:
            scope.settings.id_rules.check("websocket_client_id", self._client_id)
        self._user = UserKey(context.tenant_id, context.user_id)
        self._forget = scope.callback(self._stop)
        self._scope = scope
        try:
            self._hub._admit(self, self._user)
            await self._hub.log.listen(self._user, self._ring)
            self._take(await self._hub.log.read(self._user, self._after, _PAGE))
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._forget is not None:
            self._forget()
        self._stop()

    # --- reading ------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """What to resume from, to get what this subscription has not given yet."""
        return str(self._place)

    @property
    def _place(self) -> Position:
        if self._after is None:
            raise ConfigurationError("This subscription is not open.", "Use `async with` first.")
        return self._after

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Resync:
        """
        The next event; waits for it. A reader that gives up waiting has missed nothing.

        Raises:
            ContextClosedError: the scope it was opened in has ended, or its block.
            OwnershipError: asked by another request.
            EventLogError: the log is away. Nothing is lost: ask again, or resume later.
        """
        if self._scope is None:
            raise ConfigurationError("This subscription is not open.", "Use `async with` first.")
        if self._is_busy:
            raise ConfigurationError(
                "Two tasks ask one subscription at once.", "Give each its own `subscribe(...)`."
            )
        self._is_busy = True
        try:
            return await self._next(self._scope)
        finally:
            self._is_busy = False

    async def _next(self, scope: RequestScope) -> Event | Resync:
        while True:
            scope._require_here()
            if self._is_stopped:
                raise StopAsyncIteration
            if self._resync is not None:
                resync, self._resync = self._resync, None
                return resync
            while self._entries:
                entry = self._entries.popleft()
                self._after = Position(self._place.epoch, entry.sequence)
                if entry.to is None or entry.to == self._client_id:
                    return Event(self._after, entry.record)
            await self._more()

    async def _more(self) -> None:
        """Read what is new, or wait for the bell."""
        if not self._has_news:
            self._wake = anyio.Event()
            try:
                await self._wake.wait()
            finally:
                self._wake = None
            return
        self._has_news = False  # before reading: what comes meanwhile rings again
        try:
            page = await self._hub.log.read(self._user_key, self._after, _PAGE)
        except BaseException:
            self._has_news = True
            raise
        self._take(page)

    def _take(self, page: Page) -> None:
        self._after = page.start
        if page.gap is not None:
            self._resync = Resync(page.start, page.gap)
        self._entries.extend(page.entries)
        self._has_news = self._has_news or len(page.entries) > 0

    @property
    def _user_key(self) -> UserKey:
        if self._user is None:
            raise ContextClosedError("This subscription is not open.", "Use `async with` first.")
        return self._user

    # --- its end ------------------------------------------------------------------------------

    def _ring(self) -> None:
        self._has_news = True
        if self._wake is not None:
            self._wake.set()

    def _stop(self) -> None:
        """No more events: the block or the scope ends, or the application stops."""
        if self._is_stopped or self._user is None:
            return
        self._is_stopped = True
        self._entries.clear()
        self._hub.log.unlisten(self._user, self._ring)
        self._hub._release(self, self._user)
        self._ring()
