"""Requests that come in by the ASGI middleware, called in process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringfence import Identity, current_context, current_context_or_none
from ringfence.integrations.asgi import Connection, UserContextMiddleware

from .blocks import afterwards
from .oracle import Life, World

__all__ = ["boundary_of", "exchange"]

ORACLE = "oracle"
"""Where the ASGI dict carries the world and the life of its request, beside what ringfence does."""


def boundary_of(world: World) -> UserContextMiddleware:
    """The application of a world, behind the middleware."""

    async def identify(connection: Connection) -> Identity | None:
        if current_context_or_none() is not None:
            world.violation("whoever is being identified is somebody already")
        if world.likely(0.5):
            await world.pause()
        user = connection.headers.get("x-user")
        return None if user is None else Identity(user)

    return UserContextMiddleware(_application, fence=world.fence, identify=identify)


async def _application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    world: World = scope[ORACLE][0]
    life: Life = scope[ORACLE][1]
    try:
        world.reads(life)
        await world.work(life)
        await receive()
        await send({"type": "http.response.start", "status": 200})
        body = current_context().user_id.encode()
        await send({"type": "http.response.body", "body": body})
        await world.pause()
        world.reads(life)
    finally:
        life.is_ending = True


async def exchange(world: World, app: UserContextMiddleware, user: str, born: Life | None) -> None:
    """A client's request, and what the server's task may be afterwards: nobody, or who it was."""
    life = Life(user)
    life.can_fail = False
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await world.pause()
        return {"type": "http.disconnect" if world.likely(0.1) else "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)
        await world.pause()

    world.tally["exchanges"] += 1
    if born is not None:
        world.tally["pipelined births"] += 1
    try:
        await app(_scope_of(world, user, life), receive, send)
    finally:
        life.is_ending = life.is_over = True
        _judge(world, life, said)
    await afterwards(world, life, born)


def _scope_of(world: World, user: str, life: Life) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"x-user", user.encode())],
        ORACLE: (world, life),
    }


def _judge(world: World, life: Life, said: list[dict[str, Any]]) -> None:
    for message in said:
        if message["type"] == "http.response.start" and message["status"] not in (200, 503):
            world.violation(f"{life.user} was answered with {message['status']}")
        elif message["type"] == "http.response.start" and message["status"] == 503:
            if not world.is_draining:
                world.violation(f"{life.user} was refused although nothing was draining")
            return
        elif message["type"] == "http.response.body" and message["body"] != life.user.encode():
            world.violation(f"{life.user} was answered {message['body']!r}")
    world.must_have_run(life)
