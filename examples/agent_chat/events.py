"""`/events`: the current user's events, over a WebSocket and as server-sent events."""

from __future__ import annotations

from fastapi import APIRouter

from ringfence.events import EventHub
from ringfence.integrations.fastapi import event_socket, event_stream


def router_of(hub: EventHub) -> APIRouter:
    router = APIRouter()
    router.add_api_websocket_route("/events", event_socket(hub))
    router.add_api_route("/events", event_stream(hub), methods=["GET"])
    return router
