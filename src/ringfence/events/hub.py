"""EventHub: events of the current user, to that user's own connections and to nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import counters
from ..current import current_context
from ..errors import ConfigurationError, ContextLimitError, InvalidContextError
from ..isolation import Infrastructure
from .envelope import record_of
from .log import EventLog, UserKey
from .memory import MemoryLog
from .position import Position
from .subscription import Subscription

if TYPE_CHECKING:
    from ..context import UserExecutionContext

__all__ = ["EventHub"]


class EventHub(Infrastructure):
    """
    Takes events of the current user, and gives them to that user's own connections.

    Lives as long as the application: `Ringfence(events=EventHub())`. Whose events they are is
    never said: it is the user, and tenant, of the context that is open::

        async with hub.subscribe() as events:
            await hub.emit("order_placed", {"order": 17})
            assert (await anext(events)).data == {"order": 17}

    Args:
        log: where they are kept; a `MemoryLog` if not given. With more than one process, one
            that they share, such as `integrations.redis.RedisLog`.
        max_event_bytes: of one event.
        max_connections_per_user: subscriptions that one user may have open in this process.
        max_connections: subscriptions of all users in this process.

    Raises:
        ConfigurationError: a limit that is not above 0.
    """

    def __init__(
        self,
        log: EventLog | None = None,
        *,
        max_event_bytes: int = 64 * 1024,
        max_connections_per_user: int = 10,
        max_connections: int = 20_000,
    ) -> None:
        if not min(max_event_bytes, max_connections_per_user, max_connections) > 0:
            raise ConfigurationError(
                "A limit of the hub is not above 0.", "Leave it out for the usual one."
            )
        self.log: EventLog = MemoryLog() if log is None else log
        self.max_event_bytes = max_event_bytes
        self.max_connections_per_user = max_connections_per_user
        self.max_connections = max_connections
        self._subscriptions: dict[Subscription, None] = {}
        self._per_user: dict[UserKey, int] = {}

    async def emit(
        self, kind: str, data: Mapping[str, Any] | None = None, *, only_origin: bool = False
    ) -> str:
        """
        Tell the current user's connections that something happened; returns the event's id.

        It costs the same however many users there are, and however slowly they read.

        Args:
            kind: one of `envelope.KINDS`, or one of the application's own, such as `order_placed`.
            data: a dict of plain values, as JSON has them.
            only_origin: only to the connection that the request came from, its
                `websocket_client_id`.

        Raises:
            NoContextError, ContextClosedError: nobody is current here.
            InvalidContextError: a kind or data that cannot be, or `only_origin` where the
                request came from no connection.
            EventLogError: the log is away; its `may_be_stored` says whether the event may arrive.
        """
        context = current_context()
        record = record_of(context, kind, data, self.max_event_bytes)
        user = UserKey(context.tenant_id, context.user_id)
        to = _origin(context) if only_origin else None
        return str(await self.log.append(user, record, to))

    def subscribe(
        self, last_id: str | None = None, *, client_id: str | None = None
    ) -> Subscription:
        """
        The current user's events from now on, or after `last_id`; `async with` it.

        Args:
            last_id: of the last event that arrived, to get exactly what came after it.
            client_id: this connection's id among the user's own; the context's
                `websocket_client_id` if not given.

        Raises:
            InvalidContextError: `last_id` is no id of an event.
            NoContextError: on entering, nobody is current here.
            ContextLimitError: on entering, the user has too many connections, or all have.
            DrainingError: on entering, the application is shutting down.
            EventLogError: on entering, and whenever it is asked, the log is away.
        """
        return Subscription(self, None if last_id is None else Position.parse(last_id), client_id)

    def stop(self) -> None:
        """End the subscriptions whose application is shutting down, as the fence does."""
        for subscription in list(self._subscriptions):
            scope = subscription._scope
            if scope is not None and scope._recipes is not None and scope._recipes.is_draining:
                subscription._stop()

    async def aclose(self) -> None:
        """Give up the log's connections; the fence does when it is left."""
        await self.log.aclose()

    # --- limits -------------------------------------------------------------------------------

    def _admit(self, subscription: Subscription, user: UserKey) -> None:
        count = self._per_user.get(user, 0)
        if count >= self.max_connections_per_user or (
            len(self._subscriptions) >= self.max_connections
        ):
            counters.count("events.too_many_connections")
            raise ContextLimitError(
                "There are too many connections for events.",
                "Close one; limits are `EventHub(max_connections_per_user=, max_connections=)`.",
                field="connections",
                rule="length",
            )
        self._per_user[user] = count + 1
        self._subscriptions[subscription] = None

    def _release(self, subscription: Subscription, user: UserKey) -> None:
        if self._subscriptions.pop(subscription, self) is self:
            return  # it was not admitted
        left = self._per_user[user] - 1
        if left:
            self._per_user[user] = left
        else:
            del self._per_user[user]


def _origin(context: UserExecutionContext) -> str:
    if context.websocket_client_id is None:
        raise InvalidContextError(
            "This request came from no connection that an event could go back to.",
            "Open its context with `websocket_client_id=`, or emit to all of the user's.",
            field="websocket_client_id",
            rule="blank",
        )
    return context.websocket_client_id
