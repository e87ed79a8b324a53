"""`event_stream`: the current user's events as server-sent events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..current import current_scope
from ..events import Event, EventHub, Resync, Subscription
from ..events.envelope import notice
from ._cut_off import cut_off, cut_off_later
from ._event_delivery import REFUSALS, UNREAD, Delivery, Ending, refusal_status
from .problems import problem_of, send_problem

__all__ = ["event_stream"]

logger = logging.getLogger("ringfence.events")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
]
_RETRY = 3000  # milliseconds after which a browser connects again


def event_stream(
    hub: EventHub,
    *,
    origins: Collection[str] = (),
    heartbeat: float = 20.0,
    send_timeout: float = 10.0,
) -> Callable[[Request], Awaitable[Response]]:
    """
    An endpoint at which an `EventSource` gets the current user's events, as JSON.

    Lives as long as the application; under `UserContextMiddleware`, which says whose they are::

        routes = [Route("/events", event_stream(hub))]

    A browser that comes back sends the id of the last event it got as `Last-Event-ID` by itself;
    others may, or as `?last_event_id=`. First of all there is a `ready` message, as with
    `event_socket`. The stream ends when the identity expires, and when the application shuts
    down.

    Refused with 403: a page of another origin. 400: what is no id of an event. 429: too many
    connections.

    Args:
        hub: the application's.
        origins: whose pages may connect, besides those of the same host; they need CORS headers
            too.
        heartbeat: seconds of silence after which a comment is sent.
        send_timeout: seconds that a client may take for one message; then it is cut off.

    Raises:
        ConfigurationError: `origins` or seconds that cannot be.
    """
    delivery = Delivery(hub, origins, heartbeat, send_timeout)

    async def events(request: Request) -> Response:
        return _EventStream(delivery, request)

    return events


class _EventStream(Response):
    """The response: it opens the subscription when it is sent, in the request's own scope."""

    def __init__(self, delivery: Delivery, request: Request) -> None:
        super().__init__(media_type="text/event-stream")
        self._delivery = delivery
        self._request = request

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = self._request
        async with contextlib.AsyncExitStack() as stack:
            try:
                subscription, client_id = self._delivery.subscription(
                    scope, request.headers, request.query_params
                )
                if request.method != "HEAD":
                    await stack.enter_async_context(subscription)
            except REFUSALS as error:
                request_id, status = current_scope().request_id, refusal_status(error)
                logger.info("Request `%s` was refused: %d, %s.", request_id, status, error.code)
                await send_problem(send, problem_of(error, status), request_id)
                return
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            if request.method != "HEAD":
                await self._serve(subscription, client_id, receive, send)
            else:
                await send({"type": "http.response.body", "body": b""})

    async def _serve(self, events: Subscription, client_id: str, receive: Any, send: Any) -> None:
        error: Exception | None = None
        is_over = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, receive, tasks.cancel_scope)
            try:
                is_over = await self._send_all(events, client_id, send) is not UNREAD
            except ClientDisconnect:
                pass
            except Exception as other:  # alone, not in a group
                error = other
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        if not is_over:
            await cut_off(self._request)
        else:
            with anyio.move_on_after(self._delivery.send_timeout), contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b""})
            cut_off_later(self._request, self._delivery.send_timeout)

    async def _send_all(self, events: Subscription, client_id: str, send: Any) -> Ending:
        async def write(text: str) -> None:
            body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
            try:
                await send(body)
            except OSError:  # not to be taken for one of the log's
                raise ClientDisconnect from None

        async def tell(event: Event | Resync) -> None:
            await write(f"id: {event.id}\ndata: {event.json()}\n\n")

        async def beat() -> None:
            await write(": heartbeat\n\n")

        ready = notice("ready", events.position, client_id=client_id)
        await write(f"retry: {_RETRY}\nid: {events.position}\ndata: {ready}\n\n")
        return await self._delivery.pump(events, tell, beat)


async def _watch(receive: Any, stop: anyio.CancelScope) -> None:
    """Notice that the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stop.cancel()
