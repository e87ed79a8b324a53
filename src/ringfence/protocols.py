"""What scope and fence know of the layers above them, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .scope import RequestScope
    from .settings import Settings

__all__ = [
    "AuditSink",
    "EventSink",
    "Held",
    "Recipes",
    "Resolver",
    "RowSecurity",
    "SessionSource",
    "WebSocketManager",
]


class SessionSource(Protocol):
    """Opens and guards database sessions, as `integrations.sqlalchemy.Database` does."""

    def open_session(self, scope: RequestScope) -> Any:
        """A new session of this scope, which registers its own closing with the scope."""

    def adopt_session(self, scope: RequestScope, session: Any) -> None:
        """Guard a session that was given explicitly, until the root of `scope` closes."""

    def serve(self, root: RequestScope) -> None:
        """Note that this root is that of an HTTP request."""

    async def before_response(self, root: RequestScope, status: int) -> None:
        """Settle the tree's open sessions before a response with this status starts."""

    async def start(self) -> None:
        """See that the database is fit to serve; called before the fence opens."""


class RowSecurity(Protocol):
    """Tells the database whose rows a session may touch, as `integrations.postgres` does."""

    def bind(self, scope: RequestScope, session: Any) -> None:
        """Have each transaction of a sync session answer for the root of `scope` only."""

    def release(self, session: Any) -> None:
        """Have it answer for nobody any more."""

    async def start(self, engines: Sequence[Any]) -> None:
        """Refuse databases that would not keep users apart."""


class Resolver(Protocol):
    """Provides objects by type, as `injection.Container` does."""

    async def resolve(self, scope: RequestScope, wanted: Any) -> Any:
        """The object of that type which lives in this scope."""

    def resolve_now(self, scope: RequestScope, wanted: Any) -> Any:
        """The same, for what needs no `await`."""

    def fill(
        self, scope: RequestScope, wanted: Sequence[tuple[str, Any]], kwargs: dict[str, Any]
    ) -> bool:
        """Put what is there already among the arguments, by name; whether that is all."""
        ...

    def lacks(self, scope: RequestScope, wanted: Any) -> bool:
        """Whether it is something that scopes have, and this one has not."""
        ...

    def keeper_of(self, obj: object) -> str | None:
        """Which of the application's objects keeps one of a shorter lifetime, if one does."""
        ...

    async def release(self, scope: RequestScope, wanted: Any) -> None:
        """Finalise that object of this scope before its turn."""

    async def start(self, settings: Settings) -> None:
        """Refuse what cannot be provided; called before the fence opens."""

    async def aclose(self) -> None:
        """Finalise what lives longer than a scope; called when no scope is left."""


class Held(Protocol):
    """The objects that were made for one scope, as `injection` keeps them."""

    def disown(self) -> None:
        """Give them up in the registry: the scope has ended."""


class EventSink(Protocol):
    """Takes events for the current user's own connections, as `events.EventHub` does."""

    async def emit(
        self, kind: str, data: Mapping[str, Any] | None = None, *, only_origin: bool = False
    ) -> str:
        """Deliver one event to the user of the context that is open here; returns its id."""
        ...

    def stop(self) -> None:
        """The application begins to shut down: end what waits for events."""

    async def aclose(self) -> None:
        """The application has shut down: give up connections."""


class AuditSink(Protocol):
    """Keeps audit records."""

    async def record(self, scope: RequestScope, kind: str, detail: dict[str, Any]) -> None:
        """Keep one record; raise if it cannot be kept."""


@runtime_checkable
class WebSocketManager(Protocol):
    """What a legacy WebSocket manager offers: sending to the user it was made for."""

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        """Send one message."""


class Recipes(Protocol):
    """What a scope asks of its fence, `ringfence.Ringfence`."""

    @property
    def settings(self) -> Settings:
        """The application's settings."""
        ...

    @property
    def database(self) -> SessionSource | None:
        """Where sessions come from, if anywhere."""

    @property
    def events(self) -> EventSink | None:
        """Where events go, if anywhere."""

    @property
    def services(self) -> Resolver | None:
        """Where objects come from, if anywhere."""

    @property
    def is_open(self) -> bool:
        """Whether all was checked that is to be, and somebody will wait for what is opened."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether new roots are refused."""
        ...

    @property
    def is_on_trio(self) -> bool:
        """Whether it was opened on trio, where only a cancel scope can stop a request."""
        ...
