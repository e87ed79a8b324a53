"""
Ten thousand connections: what each costs, and what an event costs while they are there.

    python -m tests.trials.events --connections 10000

In one process and without sockets: each connection is a task with a scope and a subscription of
its own, as under a server. Emitting is timed for one user while nobody else is there, while all
others wait, and while all others have events that they do not read. Then two users get a thousand
events each on three connections that are lost time and again, and everything that is wrong with
that is found: loss, doubles, another order, the other user's. With `--valkey`, the same on a real
Valkey, whose connections for bells are killed meanwhile; the time from emitting to delivery; and
how long so many connections take that come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from typing import Any

import attrs

from ringfence import user_context
from ringfence.events import Event, EventHub, MemoryLog

from ..events.readers import follow_and_emit

EVENTS = 500


@attrs.define
class Report:
    """Bytes, and microseconds."""

    connections: int = 0
    bytes_each: float = 0
    emit_alone: float = 0
    emit_among_waiting: float = 0
    emit_among_slow: float = 0
    delivered: int = 0
    lost: int = 0
    delivery: list[float] = attrs.field(factory=list, repr=False)


async def emit_cost(hub: EventHub, events: int = EVENTS) -> float:
    """The median of what one `emit` to ann takes, in microseconds, while nobody reads it."""
    took = []
    async with user_context("ann"):
        for number in range(events):
            began = time.perf_counter()
            await hub.emit("counted", {"n": number})
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


@contextlib.asynccontextmanager
async def connections(hub: EventHub, count: int) -> AsyncIterator[list[asyncio.Task[int]]]:
    """So many users who are connected and wait; each counts what it gets until `over`."""
    ready = asyncio.Semaphore(0)

    async def connection(number: int) -> int:
        async with user_context(f"user-{number}"), hub.subscribe() as events:
            ready.release()
            got = 0
            async for event in events:
                if event.kind == "over":
                    break
                got += 1
            return got

    tasks = [asyncio.create_task(connection(number)) for number in range(count)]
    for _ in range(count):
        await ready.acquire()
    await asyncio.sleep(0)  # the last one comes to wait, too
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def slow(hub: EventHub, count: int) -> AsyncIterator[None]:
    """So many users who are connected, and have events that they do not read."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            await stack.enter_async_context(user_context(f"user-{number}"))
            await stack.enter_async_context(hub.subscribe())
            await hub.emit("counted", {"text": "x" * 200})
        yield


async def trial(count: int) -> Report:
    """One run on the memory log."""
    report = Report(connections=count)
    hub = EventHub(MemoryLog(max_events=100), max_connections=count + 10)
    report.emit_alone = await emit_cost(hub)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    async with connections(hub, count) as tasks:
        gc.collect()
        report.bytes_each = (tracemalloc.get_traced_memory()[0] - before) / max(count, 1)
        tracemalloc.stop()
        report.emit_among_waiting = await emit_cost(hub)
        for number in range(count):
            async with user_context(f"user-{number}"):
                await hub.emit("counted")
                await hub.emit("over")
        report.delivered = sum(await asyncio.gather(*tasks))
    slow_ones = min(count, 1000)  # each is a block within the last: stacks are not that deep
    async with slow(hub, slow_ones):
        report.emit_among_slow = await emit_cost(hub)
    report.delivery = await deliveries(hub)
    report.lost = await disconnected(EventHub())
    return report


async def deliveries(hub: EventHub, events: int = EVENTS) -> list[float]:
    """Microseconds from emitting to delivery, of one event after the other."""
    took: list[float] = []
    async with user_context("bob"), hub.subscribe() as subscription:
        for number in range(events):
            waiting: asyncio.Task[Any] = asyncio.create_task(anext(subscription))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            began = time.perf_counter()
            await hub.emit("counted", {"n": number})
            event = await waiting
            took.append((time.perf_counter() - began) * 1e6)
            assert isinstance(event, Event)
            assert event.data == {"n": number}
    return sorted(took)


async def on_valkey(count: int) -> Iterable[str]:
    """Lines to print: the same by way of a real Valkey."""
    from ringfence.integrations.redis import RedisLog
    from ringfence.testing.valkey import valkey_server

    with valkey_server() as server:
        hub = EventHub(RedisLog(server.url), max_connections=count + 10)
        try:
            times = await deliveries(hub)
            lost, kills = await killed(hub, server.url)
            seconds = await all_at_once(hub, count)
        finally:
            await hub.aclose()
    return [
        _percentiles("the same by Valkey", times),
        f"two users, 1,000 events, 3 connections: whole, though {lost} were lost and {kills} "
        "connections for bells were killed",
        f"by Valkey, all of them connected at once: {seconds:.1f} s",
    ]


async def disconnected(hub: EventHub) -> int:
    """Two users, 1,000 events, three connections each; how often one was lost."""
    return await follow_and_emit(hub, ("ann", "bob"), count=1000, connections=3)


async def killed(hub: EventHub, url: str) -> tuple[int, int]:
    """The same while connections for bells are killed; how many were."""
    from redis.asyncio import Redis

    count = 0

    async def kill() -> None:
        nonlocal count
        async with Redis.from_url(url) as server:
            while True:
                await asyncio.sleep(0.02)
                count += await server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    killing = asyncio.create_task(kill())
    try:
        return await disconnected(hub), count
    finally:
        killing.cancel()
        await asyncio.wait([killing])


async def all_at_once(hub: EventHub, count: int) -> float:
    """Seconds until so many connections that come at the same time are there."""
    began = time.perf_counter()
    async with asyncio.timeout(120), connections(hub, count):
        return time.perf_counter() - began


def show(report: Report) -> Iterable[str]:
    """Lines to print."""
    yield f"connections                      {report.connections:>10,}"
    yield f"bytes each, scope and task too   {report.bytes_each:>10,.0f}"
    yield f"emit, nobody else there          {report.emit_alone:>10.1f} us"
    yield f"emit, all others waiting         {report.emit_among_waiting:>10.1f} us"
    yield f"emit, others who do not read     {report.emit_among_slow:>10.1f} us"
    yield f"delivered, one event each        {report.delivered:>10,}"
    yield _percentiles("emit to delivery", report.delivery)
    yield f"two users, 1,000 events, 3 connections: whole, though {report.lost} were lost"


def _percentiles(name: str, took: list[float]) -> str:
    return (
        f"{name}: median {took[len(took) // 2]:,.0f} us, "
        f"99th percentile {took[len(took) * 99 // 100]:,.0f} us"
    )


def main() -> int:
    """Run it, and print what was seen; 1 if an event was not delivered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--valkey", action="store_true")
    options = parser.parse_args()
    report = asyncio.run(trial(options.connections))
    print("\n".join(show(report)))
    if options.valkey:
        print("\n".join(asyncio.run(on_valkey(options.connections))))
    return 0 if report.delivered == options.connections else 1


if __name__ == "__main__":
    sys.exit(main())
