"""Delivery of events: who may connect, from where they resume, and how long it goes on."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import attrs

from .. import counters
from ..current import current_context, current_scope
from ..errors import (
    ConfigurationError,
    ContextLimitError,
    EventLogError,
    ForbiddenError,
    InvalidContextError,
    RingfenceError,
)
from ..events import Event, EventHub, Resync, Subscription
from ..identifiers import generate_id

__all__ = ["Delivery", "Ending", "refusal_status"]

logger = logging.getLogger("ringfence.events")

Headers = Any  # Starlette's
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_SECURE = frozenset({"https", "wss"})

Ending = str
ENDED: Ending = "ended"
"""The scope does, or the application is shutting down."""
EXPIRED: Ending = "expired"
AWAY: Ending = "away"
"""The log is."""
UNREAD: Ending = "unread"
"""The client did not take what it was sent."""


def _origins(origins: Collection[str]) -> frozenset[str]:
    if isinstance(origins, str) or not all(_is_origin(each) for each in origins):
        raise ConfigurationError(
            f"`origins` cannot be {origins!r}.",
            'Give a collection of origins, such as `["https://app.example"]`, without paths.',
        )
    return frozenset(each.lower() for each in origins)


def _is_origin(text: object) -> bool:
    if type(text) is not str:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that do not close
        return False
    return parts.scheme in ("http", "https") and text == f"{parts.scheme}://{parts.netloc}"


def _seconds(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(
            f"`{attribute.name}` must be seconds above 0, not {value!r}.", "Leave it out."
        )


@attrs.frozen
class Delivery:
    """
    How events are delivered at one endpoint. Lives as long as the endpoint.

    Args:
        hub: whose events they are.
        origins: whose pages may connect, besides those of the same host.
        heartbeat: seconds of silence after which the client is shown that all is well.
        send_timeout: seconds that a client may take for one message.
    """

    hub: EventHub
    origins: frozenset[str] = attrs.field(converter=_origins)
    heartbeat: float = attrs.field(validator=_seconds)
    send_timeout: float = attrs.field(validator=_seconds)

    def subscription(
        self, scope: Mapping[str, Any], headers: Headers, query: Mapping[str, str]
    ) -> tuple[Subscription, str]:
        """
        The subscription that a client asks for, to be entered, and the id of its connection.

        Raises:
            NoContextError: nobody is current here.
            ForbiddenError: the page that asks is of another origin.
            InvalidContextError: what it wants to resume from is no id of an event.
        """
        current_context()
        self._check_origin(scope, headers)
        last_id = headers.get("last-event-id") or query.get("last_event_id") or None
        client_id = query.get("client_id") or generate_id()
        return self.hub.subscribe(last_id, client_id=client_id), client_id

    def _check_origin(self, scope: Mapping[str, Any], headers: Headers) -> None:
        """Browsers send cookies with whatever page asks, and say which; others send no origin."""
        sent = headers.getlist("origin")
        if not sent:  # nor do browsers where the page could not read the answer
            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return
        elif len(sent) == 1 and self._is_allowed(sent[0].lower(), scope, headers):
            return
        counters.count("events.foreign_origin")
        raise ForbiddenError(
            "A page of another origin may not read events.",
            "Name it in `origins=` if it is one of yours.",
        )

    def _is_allowed(self, origin: str, scope: Mapping[str, Any], headers: Headers) -> bool:
        if origin in self.origins:
            return True
        if not _is_origin(origin):  # `null`, too
            return False
        page, here = urlsplit(origin), scope.get("scheme", "http")
        if here in _SECURE and page.scheme not in _SECURE:
            return False
        try:
            host = urlsplit(f"//{headers.get('host', '')}".lower())
            return bool(page.hostname) and (page.hostname, _port(page, page.scheme)) == (
                host.hostname,
                _port(host, page.scheme),  # a proxy may have taken off the encryption
            )
        except ValueError:  # a port that is none
            return False

    async def pump(
        self,
        events: Subscription,
        send: Callable[[Event | Resync], Awaitable[None]],
        beat: Callable[[], Awaitable[None]],
    ) -> Ending:
        """Send events and heartbeats until there is an end, and say which."""
        expires_at = current_context().expires_at
        while True:
            left = _seconds_until(expires_at)
            found = None
            try:
                with anyio.move_on_after(min(self.heartbeat, left)):
                    found = await anext(events)
            except StopAsyncIteration:
                return ENDED
            except EventLogError as error:
                logger.warning("Request `%s` is closed: %s", current_scope().request_id, error)
                return AWAY
            if _seconds_until(expires_at) <= 0:
                return EXPIRED
            if found is None and left < self.heartbeat:
                continue  # the clock that woke us is ahead of the one that it expires by
            with anyio.move_on_after(self.send_timeout) as limit:
                await (beat() if found is None else send(found))
            if limit.cancelled_caught:
                counters.count("events.unread")
                return UNREAD


def _port(parts: Any, scheme: str) -> int | None:
    port: int | None = parts.port
    return port or _DEFAULT_PORTS.get(scheme)


def _seconds_until(time: dt.datetime | None) -> float:
    if time is None:
        return float("inf")
    return max(0.0, (time - dt.datetime.now(dt.UTC)).total_seconds())


def refusal_status(error: RingfenceError) -> int:
    """What a client is told that asks in a way it must not, once too often, or in vain."""
    if isinstance(error, ForbiddenError):
        return 403
    if isinstance(error, EventLogError):
        return 503
    if isinstance(error, ContextLimitError) and error.field == "connections":
        return 429
    return 400


REFUSALS = (ForbiddenError, InvalidContextError, EventLogError)
"""What entering a subscription may raise that a client is told of in few words."""
