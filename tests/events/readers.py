"""Readers of events, as connections are: they take what comes, leave, and come back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio

from ringfence import user_context
from ringfence.events import Event, EventHub, Resync, Subscription

PATIENCE = 5


async def take(events: AsyncIterator[Event | Resync], count: int) -> list[Any]:
    """The next so many, an event as the number it was emitted with, a resync as its reason."""
    with anyio.fail_after(PATIENCE):
        return [plain(await anext(events)) for _ in range(count)]


def plain(found: Event | Resync) -> Any:
    return found.reason if isinstance(found, Resync) else found.data["n"]


@contextlib.asynccontextmanager
async def waiting(events: Subscription, count: int = 1) -> AsyncIterator[list[Any]]:
    """A block in which a reader waits for the bell; afterwards, what it took."""
    got: list[Any] = []

    async def wait() -> None:
        got.extend(await take(events, count))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.fail_after(PATIENCE):
            while events._wake is None:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        yield got


async def is_silent(events: AsyncIterator[Event | Resync]) -> bool:
    with anyio.move_on_after(0.05):
        await anext(events)
        return False
    return True


async def emit_numbers(hub: EventHub, *numbers: int, **options: Any) -> list[str]:
    return [await hub.emit("counted", {"n": n}, **options) for n in numbers]


async def follow_and_emit(hub: EventHub, users: Any, count: int, connections: int) -> int:
    """
    Emit to each of the users, whose connections are lost and come back time and again.

    Fails unless each connection got all of its user's events, in order and once, and none of
    anybody else's. Returns how often one was lost.
    """
    lost = 0
    got: dict[tuple[str, int], list[tuple[str, int]]] = {}
    ready = {user: anyio.Semaphore(0) for user in users}

    async def follow(user: str, number: int) -> None:
        nonlocal lost
        mine = got[user, number] = []
        last: str | None = None
        while len(mine) < count:
            async with user_context(user), hub.subscribe(last) as events:
                last = events.position if last is None else last
                ready[user].release()
                stay = 1 + (len(mine) * 7 + number * 31) % 97  # then the connection is lost
                async for event in events:
                    assert isinstance(event, Event), event
                    mine.append((event.data["user"], event.data["n"]))
                    last = event.id
                    stay -= 1
                    if len(mine) == count or not stay:
                        lost += not stay
                        break
                    if event.sequence % (11 * number + 5) == 0:
                        await anyio.sleep(0)

    async def produce(user: str) -> None:
        for _ in range(connections):
            await ready[user].acquire()
        for number in range(count):
            async with user_context(user):
                await hub.emit("counted", {"user": user, "n": number})
            if number % 10 == 0:
                await anyio.sleep(0)

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for user in users:
                for number in range(connections):
                    tasks.start_soon(follow, user, number)
                tasks.start_soon(produce, user)
    for (user, _), mine in got.items():
        assert mine == [(user, number) for number in range(count)]
    assert len(got) == len(users) * connections
    return lost
