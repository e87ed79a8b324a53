"""ManagedEvents: events to a hub, and to the WebSocket managers that an application has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from .. import counters
from ..current import current_scope
from ..errors import ConfigurationError
from ..identifiers import generate_id
from .websocket import WebSocketRegistry, _Connected, _message

if TYPE_CHECKING:
    from ..context import UserExecutionContext
    from ..protocols import EventSink, WebSocketManager

__all__ = ["ManagedEvents"]

logger = logging.getLogger("ringfence.agents")


class ManagedEvents(WebSocketRegistry):
    """
    A registry of WebSocket managers that no manager can hold up. Lives as long as you keep it.

    Args:
        events: a hub that every event goes to first.
        send_timeout: seconds that a manager may take for one event; half of
            `Settings.finaliser_timeout` at most.
    """

    def __init__(self, events: EventSink | None, send_timeout: float) -> None:
        super().__init__()
        self._hub = events
        self._send_timeout = send_timeout

    async def set_websocket_manager(
        self, manager: WebSocketManager, context: UserExecutionContext
    ) -> None:
        """
        Send the events of a request through `manager`, until its scope ends.

        The fence's events have to come through this registry: `Ringfence(events=registry)`; with
        a hub beside it, `AgentRegistry(events=hub)`. A manager that raises, or takes longer than
        `send_timeout`, is given up: what runs does not fail because somebody closed a page.

        Raises:
            ConfigurationError: the fence's events go elsewhere, or nowhere.
            NoContextError: no scope is open here, or it belongs to nobody.
            WrongTypeError: no manager, or no context.
            ContextMismatchError: a context of another user than the one whose scope is open.
            OwnershipError: another user's manager, or a context of another open request.
            ContextClosedError: the context's own scope has ended.
        """
        recipes = current_scope()._recipes
        if recipes is None or recipes.events is not self:
            raise ConfigurationError(
                "The events of this application do not come through this registry.",
                "Write `Ringfence(events=registry)`, and `AgentRegistry(events=hub)` for a hub.",
            )
        await super().set_websocket_manager(manager, context)

    async def emit(
        self, kind: str, data: Mapping[str, Any] | None = None, *, only_origin: bool = False
    ) -> str:
        """
        Tell the current user: by the hub, if there is one, and by the manager nearest above.

        Returns the event's id.

        Raises:
            NoContextError, ContextClosedError: nobody is current here.
            InvalidContextError: of the hub, a kind or data that cannot be.
        """
        scope = current_scope()
        context, connected = scope.context, self._nearest(scope)
        if self._hub is None:
            event_id = generate_id()
        else:
            event_id = await self._hub.emit(kind, data, only_origin=only_origin)
        if connected is not None:
            message = _message(context, event_id, kind, data)
            # Less than what the telling of a beginning or an end may take: a manager that is
            # stuck is to be given up, and not to end the run.
            limit = min(self._send_timeout, scope.settings.finaliser_timeout / 2)
            await self._send(connected, context.user_id, message, limit)
        elif self._hub is None:
            counters.count("agents.event_undelivered")
        return event_id

    async def _send(
        self, connected: _Connected, user_id: str, message: dict[str, Any], seconds: float
    ) -> None:
        with anyio.move_on_after(seconds) as limit:
            try:
                await connected.manager.send_to_user(user_id, message)
            except Exception:
                logger.exception("A WebSocket manager failed, and is given up.")
                self._give_up(connected)
        if limit.cancelled_caught:
            logger.error("A WebSocket manager took too long, and is given up.")
            self._give_up(connected)

    def _give_up(self, connected: _Connected) -> None:
        counters.count("agents.manager_given_up")
        self._forget(connected, {connected.context.request_id, connected.scope.request_id})

    def stop(self) -> None:
        """The application begins to shut down."""
        if self._hub is not None:
            self._hub.stop()

    async def aclose(self) -> None:
        """The application has shut down. Managers are their makers' to close."""
        if self._hub is not None:
            await self._hub.aclose()
