"""`event_socket`: the current user's events over a WebSocket."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..current import current_scope
from ..errors import RingfenceError
from ..events import Event, EventHub, Resync, Subscription
from ..events.envelope import notice
from ._cut_off import cut_off, cut_off_later
from ._event_delivery import (
    AWAY,
    ENDED,
    EXPIRED,
    REFUSALS,
    UNREAD,
    Delivery,
    Ending,
    refusal_status,
)
from ._exchange import CLOSE_CODES, answer
from .problems import problem_of

__all__ = ["event_socket"]

logger = logging.getLogger("ringfence.events")

_LONGEST_FRAME = 1024
_BINARY, _POLICY, _TOO_LARGE = 1003, 1008, 1009


def event_socket(
    hub: EventHub,
    *,
    origins: Collection[str] = (),
    heartbeat: float = 20.0,
    send_timeout: float = 10.0,
) -> Callable[[WebSocket], Awaitable[None]]:
    """
    An endpoint at which a WebSocket gets the current user's events, as JSON.

    Lives as long as the application; under `UserContextMiddleware`, which says whose they are::

        routes = [WebSocketRoute("/events", event_socket(hub))]

    A client that comes back sends the id of the last event it got as `?last_event_id=`, and gets
    what it missed. First of all it is sent a `ready` message with its `client_id`, which a
    request may name as its `websocket_client_id`, and the id to resume from until there is an
    event. It has nothing to say itself: a message closes the connection.

    Refused with 403: a page of another origin. 400: what is no id of an event. 429, or 4429: too
    many connections. Closed with 4401: the identity has expired. 1013: the application is
    shutting down; connect again.

    Args:
        hub: the application's.
        origins: whose pages may connect, besides those of the same host.
        heartbeat: seconds of silence after which a `heartbeat` message is sent.
        send_timeout: seconds that a client may take for one message; then it is cut off.

    Raises:
        ConfigurationError: `origins` or seconds that cannot be.
    """
    delivery = Delivery(hub, origins, heartbeat, send_timeout)

    async def events(websocket: WebSocket) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                subscription, client_id = delivery.subscription(
                    websocket.scope, websocket.headers, websocket.query_params
                )
                await stack.enter_async_context(subscription)
            except REFUSALS as error:
                await _refuse(websocket, error)
                return
            await websocket.accept()
            await _Socket(websocket, delivery, subscription).serve(client_id)

    return events


async def _refuse(websocket: WebSocket, error: RingfenceError) -> None:
    request_id, status = current_scope().request_id, refusal_status(error)
    logger.info("Request `%s` was refused: %d, %s.", request_id, status, error.code)
    await websocket.receive()  # the client's wish to connect
    send: Any = websocket.send
    await answer(problem_of(error, status), request_id, websocket.scope, send)


class _Socket:
    """One connection, from its acceptance to its end."""

    def __init__(self, websocket: WebSocket, delivery: Delivery, events: Subscription) -> None:
        self._websocket = websocket
        self._delivery = delivery
        self._events = events
        self._code: int | None = None
        self._error: Exception | None = None
        self._is_unread = False

    async def serve(self, client_id: str) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope)
            try:
                ending = await self._send_all(client_id)
                self._code, self._is_unread = _code_of(ending), ending is UNREAD
            except WebSocketDisconnect:
                pass
            except Exception as error:  # alone, not in a group
                self._error = error
            tasks.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        if self._is_unread:
            await cut_off(self._websocket)
        elif self._code is not None:
            await self._close(self._code)
            cut_off_later(self._websocket, self._delivery.send_timeout)

    async def _send_all(self, client_id: str) -> Ending:
        websocket = self._websocket

        async def send(event: Event | Resync) -> None:
            await websocket.send_text(event.json())

        async def beat() -> None:
            await websocket.send_text(notice("heartbeat", self._events.position))

        ready = notice("ready", self._events.position, client_id=client_id)
        await websocket.send_text(ready)
        return await self._delivery.pump(self._events, send, beat)

    async def _watch(self, stop: anyio.CancelScope) -> None:
        """Notice that the client leaves, or says what it has no business to say."""
        try:
            message = await self._websocket.receive()
        except RuntimeError:  # closed meanwhile
            return
        if message["type"] == "websocket.receive":
            self._code = _code_for(message)
        stop.cancel()

    async def _close(self, code: int) -> None:
        reason = "Unauthorized" if code == CLOSE_CODES[401] else ""
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        with anyio.move_on_after(self._delivery.send_timeout):
            try:
                await self._websocket.close(code, reason)
            except (WebSocketDisconnect, RuntimeError):
                pass


def _code_of(ending: Ending) -> int | None:
    """What to close with; `None` where nobody would read it."""
    again = CLOSE_CODES[503]
    return {EXPIRED: CLOSE_CODES[401], ENDED: again, AWAY: again}.get(ending)


def _code_for(message: Any) -> int:
    text = message.get("text")
    if text is None:
        return _BINARY
    return _TOO_LARGE if len(text) > _LONGEST_FRAME else _POLICY
