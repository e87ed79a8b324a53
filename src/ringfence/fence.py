"""Ringfence: the recipes of one application, and its lifespan."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from weakref import WeakSet

from . import counters
from .context import UserExecutionContext
from .current import (
    NobodyOptions,
    UserContextOptions,
    current_scope,
    nobody,
    user_context,
)
from .drafts import is_plain
from .errors import ConfigurationError, ContextClosedError
from .identity import Identity
from .isolation import Infrastructure
from .refusals import draining
from .scope import RequestScope
from .settings import Settings, default_settings
from .shutdown import DrainReport, drain
from .starting import refuse_unfit
from .tasks import Job, is_cancellation, is_on_trio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .protocols import AuditSink, EventSink, Resolver, SessionSource

__all__ = ["Detached", "DrainReport", "Ringfence"]

logger = logging.getLogger("ringfence.fence")


class Detached:
    """
    Work that outlives its request: a handle on it.

    Lives until the work is done; the application owns it and drains it at shutdown.

    Attributes:
        request_id: of the new root that the work runs in.
        error: what it raised, once it is done.
    """

    _job: Job  # given by `detach` once it is made: an eager task may have run by then

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    @property
    def is_done(self) -> bool:
        """Whether the work has ended."""
        return self._job.done.is_set()

    @property
    def error(self) -> BaseException | None:
        """What it raised; `None` while it runs, and if it succeeded."""
        return self._job.error

    async def wait(self) -> None:
        """
        Wait until the work has ended, and raise what it raised.

        Raises:
            ContextClosedError: it was cancelled.
        """
        await self._job.done.wait()
        error = self._job.error
        if self._job.is_void or is_cancellation(error):
            raise ContextClosedError(
                f"The detached work of request `{self.request_id}` was cancelled.",
                "Start it again if it matters; what must not be lost belongs in a queue.",
                request_id=self.request_id,
            ) from error
        if error is not None:
            raise error

    def cancel(self) -> None:
        """Cancel the work; its finalisers run."""
        self._job.cancel()


class Ringfence(Infrastructure):
    """
    The recipes of one application: settings, database, services, events, audit.

    Made once, at import; opened by `lifespan` (or `async with fence:`) as long as the
    application serves, and may be opened again afterwards, in any event loop. Unopened it
    serves requests; only `detach` and row-level security need it open. Leaving it refuses new
    roots, waits `Settings.drain_timeout` seconds for requests in flight and detached work,
    cancels the rest, awaits their finalisers, and keeps a `drain_report`::

        fence = Ringfence(database=Database(async_sessionmaker(engine)))
        app = Starlette(routes, middleware=[...], lifespan=fence.lifespan)

    Args:
        settings: read from the environment if not given.
        database: where scopes get their sessions, such as `integrations.sqlalchemy.Database`.
        services, events, audit: a resolver, an event sink and an audit sink.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        database: SessionSource | None = None,
        services: Resolver | None = None,
        events: EventSink | None = None,
        audit: AuditSink | None = None,
    ) -> None:
        if type(database).__module__.partition(".")[0] == "sqlalchemy":
            raise ConfigurationError(
                f"`database` cannot be a `{type(database).__name__}`.",
                "Wrap it: `Database(async_sessionmaker(engine))`, from "
                "`ringfence.integrations.sqlalchemy`.",
            )
        self.settings = default_settings() if settings is None else settings
        _check_context_class(self.settings.context_class)
        self.database = database
        self.services = services
        self.events = events
        self.audit = audit
        self.is_open = False
        self.is_draining = False
        self.is_on_trio = False  # whether it was opened there
        self.drain_report: DrainReport | None = None
        self._detached: set[Detached] = set()
        self._given_up: WeakSet[RequestScope] = WeakSet()  # what earlier shutdowns abandoned

    # --- its life -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._refuse_to_open_twice()
        if self.database is not None:
            await self.database.start()
            self._refuse_to_open_twice()
        if self.services is not None:
            await self.services.start(self.settings)
            self._refuse_to_open_twice()
        self.is_open, self.is_draining, self.drain_report = True, False, None
        self.is_on_trio = is_on_trio()
        return self

    def _refuse_to_open_twice(self) -> None:
        if self.is_open:
            raise ConfigurationError(
                "This fence is open already.", "Open it once, around the whole application."
            )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_draining = True
        if self.events is not None:
            self.events.stop()  # what waits for events would be waited for
        detached, limit = list(self._detached), self.settings.drain_timeout
        try:
            self.drain_report, cancelled = await drain(self, detached, self._given_up, limit)
            await self._close_services(cancelled or exc)
        finally:
            self._detached.clear()
            self.is_open = self.is_draining = False
            if self.events is not None:
                await self.events.aclose()
        if cancelled is not None:
            raise cancelled

    async def _close_services(self, primary: BaseException | None) -> None:
        """Close what lives longer than a scope; what goes wrong does not hide what went before."""
        if self.services is None:
            return
        try:
            await self.services.aclose()
        except Exception as error:
            if primary is None:
                raise
            primary.add_note(f"ringfence: closing the container failed: {error!r}")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """
        Open the fence while the application serves; an ASGI lifespan.

        Nests in one of your own: `async with fence.lifespan(app): ...`.

        Raises:
            ConfigurationError: an integration sees that part of the application cannot work.
        """
        refuse_unfit(app)
        async with self:
            yield

    # --- scopes -------------------------------------------------------------------------------

    def user_context(
        self,
        user_id: str | UserExecutionContext | Identity,
        **options: Unpack[UserContextOptions],
    ) -> AbstractAsyncContextManager[UserExecutionContext]:
        """`ringfence.user_context` with this fence: for scripts, workers and tests."""
        if not options:  # to unpack nothing takes a quarter of a microsecond
            return user_context(user_id, fence=self)
        return user_context(user_id, fence=self, **options)

    def nobody(self, **options: Unpack[NobodyOptions]) -> AbstractAsyncContextManager[RequestScope]:
        """`ringfence.nobody` with this fence."""
        return nobody(fence=self, **options)

    def detach(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Detached:
        """
        Run `fn` beyond the end of this request, as the same user.

        It gets a new root scope with the same identity, thread and run, its own session and its
        own clean-up, and nothing else of this one; the application waits for it at shutdown.
        What it raises is logged, counted, and raised by `wait()`::

            fence.detach(index_document, document_id)

        Raises:
            NoContextError, ContextClosedError: there is no open scope to take the identity of.
            ConfigurationError: the fence is not open.
            DrainingError: the application is shutting down.
        """
        if not self.is_open:
            raise ConfigurationError(
                "This fence is not open: nobody would wait for detached work at shutdown.",
                "Give the application `lifespan=fence.lifespan`, or use `async with fence:`.",
            )
        if self.is_draining:
            raise draining()
        origin = current_scope()
        block, request_id = self._successor(origin)
        block._more().is_admitted = True  # draining may begin before its task does

        async def work() -> None:
            try:
                async with block:
                    await fn(*args, **kwargs)
            except Exception:
                counters.count("detach.error")
                logger.exception("Detached work of request `%s` failed.", request_id)
                raise

        def forget() -> None:
            self._detached.discard(detached)

        detached = Detached(request_id)
        name = f"ringfence detached {request_id}"
        detached._job = Job(work, name, Context(), forget, detached.cancel)
        if not detached.is_done:
            self._detached.add(detached)
        return detached

    def _successor(self, origin: RequestScope) -> tuple[Any, str]:
        """A new root for the same user, linked to where it came from."""
        if not origin.has_user:
            block: Any = nobody(fence=self)
            return block, block.request_id
        facts = origin.context
        block = user_context(
            facts.user_id,
            thread_id=facts.thread_id,
            run_id=facts.run_id,
            websocket_client_id=facts.websocket_client_id,
            tenant_id=facts.tenant_id,
            expires_at=facts.expires_at,
            client_request_id=facts.client_request_id,
            claims=origin.claims,
            audit_metadata={"detached_from": facts.request_id},
            fence=self,
        )
        return block, block.request_id


def _check_context_class(cls: Any) -> None:
    if cls is None or (issubclass(cls, UserExecutionContext) and is_plain(cls)):
        return
    raise ConfigurationError(
        "`context_class` must be a subclass of `UserExecutionContext` without fields of its own.",
        "Correct `Settings.context_class`; such a class has `__slots__ = ()`.",
    )
