"""Requests that come in by the ASGI middleware, called in process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringfence import Identity, current_context_or_none, current_scope
from ringfence.integrations.asgi import Connection, UserContextMiddleware

from .blocks import afterwards
from .oracle import Life, World
from .own import only_wait

__all__ = ["boundary_of", "exchange"]

ORACLE = "oracle"
"""Where the ASGI dict carries the world and the life of its request, beside what ringfence does."""
HEALTH = "/health"
NOBODY = b"nobody"


def boundary_of(world: World) -> UserContextMiddleware:
    """The application of a world, behind the middleware."""

    async def identify(connection: Connection) -> Identity | None:
        if current_context_or_none() is not None:
            world.violation("whoever is being identified is somebody already")
        if world.likely(0.5):
            await world.pause()
        user = connection.headers.get("x-user")
        return None if user is None else Identity(user)

    return UserContextMiddleware(
        _application, fence=world.fence, identify=identify, exclude=(HEALTH,)
    )


async def _application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    world: World = scope[ORACLE][0]
    life: Life = scope[ORACLE][1]
    try:
        if world.fence.is_draining:
            world.violation("a request was let in while all shuts down")
        world.reads(life)
        await (only_wait if life.user is None else World.work)(world, life)
        await receive()
        await send({"type": "http.response.start", "status": 200})
        here = current_scope()
        body = here.context.user_id.encode() if here.has_user else NOBODY
        await send({"type": "http.response.body", "body": body})
        await world.pause()
        world.reads(life)
    finally:
        life.is_ending = True


async def exchange(world: World, app: UserContextMiddleware, user: str, born: Life | None) -> None:
    """
    A client's request, and what the server's task may be afterwards: nobody, or who it was.

    Some come without credentials, and some for a path that is nobody's, whoever asks.
    """
    choice = world.chance.random()
    path = HEALTH if choice < 0.1 else "/"
    life = Life(user if choice >= 0.1 else None)
    life.can_fail = False
    headers = [] if choice >= 0.9 else [(b"x-user", user.encode())]
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
        await app(_scope_of(world, life, path, headers), receive, send)
    finally:
        life.is_ending = life.is_over = True
        _judge(world, life, said, 200 if headers or path == HEALTH else 401)
    await afterwards(world, life, born)


def _scope_of(world: World, life: Life, path: str, headers: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": headers,
        ORACLE: (world, life),
    }


def _judge(world: World, life: Life, said: list[dict[str, Any]], status: int) -> None:
    """What the client was told must be its own; a request that was cancelled is told nothing."""
    world.must_have_run(life)
    if not said:
        return
    told = said[0]["status"]
    if told == 503:
        world.drained()
    elif told != status:
        world.violation(f"{life.user} was answered with {told} instead of {status}")
    elif told == 401:
        world.tally["refused: without credentials"] += 1
    else:
        whole = b"".join(message["body"] for message in said[1:])
        if whole and whole != (NOBODY if life.user is None else life.user.encode()):
            world.violation(f"{life.user} was answered {whole!r}")
