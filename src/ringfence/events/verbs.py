"""`emit` and `subscribe`: with the hub of the application that the current scope belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..current import current_scope
from ..errors import ConfigurationError
from ..protocols import EventSink
from .hub import EventHub
from .subscription import Subscription

__all__ = ["emit", "subscribe"]


async def emit(
    kind: str, data: Mapping[str, Any] | None = None, *, only_origin: bool = False
) -> str:
    """
    `EventHub.emit` of the fence that is open here: tell the current user's connections::

        await emit("order_placed", {"order": 17})

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ConfigurationError: the fence has no hub.
        InvalidContextError: a kind or data that cannot be.
        EventLogError: the log is away; its `may_be_stored` says whether the event may arrive.
    """
    return await _sink().emit(kind, data, only_origin=only_origin)


def subscribe(last_id: str | None = None, *, client_id: str | None = None) -> Subscription:
    """
    `EventHub.subscribe` of the fence that is open here: the current user's events::

        async with subscribe(last_id) as events:
            async for event in events:
                print(event.kind)

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ConfigurationError: the fence has no hub.
        InvalidContextError: `last_id` is no id of an event.
    """
    sink = _sink()
    if not isinstance(sink, EventHub):
        raise ConfigurationError(
            f"A `{type(sink).__name__}` takes events, and gives none.",
            "Give the fence an `EventHub`.",
        )
    return sink.subscribe(last_id, client_id=client_id)


def _sink() -> EventSink:
    scope = current_scope()
    scope.context  # noqa: B018 (nobody has no events)
    recipes = scope._recipes
    if recipes is None or recipes.events is None:
        raise ConfigurationError(
            "There is no hub for events here.",
            "Give the fence one: `Ringfence(events=EventHub())`.",
        )
    return recipes.events
