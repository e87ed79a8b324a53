"""Events: from emitting to what a connection is sent, beside others on the same Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import random
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import NamedTuple

from ringfence.errors import ConfigurationError
from ringfence.testing.valkey import ValkeyServer, valkey_server

from .honesty import Check
from .layers import LAYERS, OURS, PACKAGES, PLAIN, Ends, Open
from .report import Row, spread_of

__all__ = ["TITLE", "Size", "event_checks", "event_rows", "event_server"]

TITLE = "from emitting an event to its delivery, beside other libraries' layers; wall time"
GATES = {"channels": 2.0, "socketio": 6.0}
"""Median by median. Far off: what others on the machine do shows in wall time."""

PATIENCE = 10.0
SETTLE = 0.0005  # seconds for a receiver to be waiting again

Layers = Mapping[str, tuple[str, Open]]
Taken = dict[str, list[list[float]]]


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    events: int


@contextlib.contextmanager
def event_server() -> Iterator[ValkeyServer | Row]:
    """A Valkey for all of them, or the row that says that there is none."""
    with contextlib.ExitStack() as stack:
        try:
            server: ValkeyServer | Row = stack.enter_context(valkey_server())
        except ConfigurationError as error:
            server = Row(name="events", title=TITLE, verdict=f"skipped: {error.fact}")
        yield server


# --- honesty ----------------------------------------------------------------------------------


def event_checks(server: ValkeyServer, layers: Layers = LAYERS) -> list[Check]:
    """That each of them delivers, what was sent, in order, and to nobody else."""
    return [
        Check(f"{name} delivers to its user alone, in order", _fault(server, opened))
        for name, (_, opened) in layers.items()
        if not _missing(name)
    ]


def _fault(server: ValkeyServer, opened: Open) -> str | None:
    async def look() -> str | None:
        async with opened(server.url, _prefix()) as ends, asyncio.timeout(PATIENCE):
            for number in range(5):
                await ends.send("ann", number)
            await ends.send("bob", 17)
            got = [await ends.receive("ann") for _ in range(5)]
            if got != [0, 1, 2, 3, 4]:
                return f"ann was sent 0 to 4, and got {got}"
            other = await ends.receive("bob")
            return None if other == 17 else f"bob was sent 17, and got {other}"

    try:
        return asyncio.run(look())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _missing(name: str) -> str | None:
    """What would have to be installed."""
    package = PACKAGES.get(name, "redis")
    return None if importlib.util.find_spec(package) else f"no `{package}` is installed"


def _prefix() -> str:
    return f"bench:{secrets.token_hex(4)}:"


# --- timing -----------------------------------------------------------------------------------


def event_rows(
    server: ValkeyServer, size: Size, seed: int, *, is_judged: bool, layers: Layers = LAYERS
) -> list[Row]:
    """One row for the median of each, one for the 99th percentile, and what ours is beside them."""
    missing = {name: _missing(name) for name in layers}
    here = {name: layers[name] for name in layers if missing[name] is None}
    taken = asyncio.run(_take(server, here, size, random.Random(seed)))
    rows = [
        Row(name=f"events-{name}", title=f"events: {layers[name][0]}", verdict=f"skipped: {what}")
        for name, what in missing.items()
        if what is not None
    ]
    for name, (title, _) in here.items():
        for what, middle in (("median", statistics.median), ("99th percentile", _worst)):
            rows.append(_row(name, f"events, {what}: {title}", what, middle, taken))
    for name in here:
        if name not in (OURS, PLAIN):
            rows.append(_beside(name, taken, is_judged))
    return rows


async def _take(server: ValkeyServer, layers: Layers, size: Size, order: random.Random) -> Taken:
    """Seconds, in rounds: every layer once in each, in random order."""
    taken: Taken = {name: [] for name in layers}
    names = list(layers)
    async with contextlib.AsyncExitStack() as stack:
        ends = {
            name: await stack.enter_async_context(opened(server.url, _prefix()))
            for name, (_, opened) in layers.items()
        }
        for name in names:
            await delivered(ends[name], 20)  # the first time connections and caches are made
        for _ in range(size.rounds):
            order.shuffle(names)
            for name in names:
                gc.collect()
                taken[name].append(await delivered(ends[name], size.events))
    return taken


async def delivered(ends: Ends, count: int) -> list[float]:
    """The seconds that each of so many events took; raises if one is not the one that was sent."""
    took = []
    async with _stamped(ends) as stamps:
        for number in range(count):
            await asyncio.sleep(SETTLE)
            began = time.perf_counter()
            await ends.send("ann", number)
            async with asyncio.timeout(PATIENCE):
                found, at = await stamps.get()
            if found != number:
                raise RuntimeError(f"{number} was sent, and {found} was delivered.")
            took.append(at - began)
    return took


@contextlib.asynccontextmanager
async def _stamped(ends: Ends) -> AsyncIterator[asyncio.Queue[tuple[int, float]]]:
    """What ann gets, and when; in a task, which waits before it is sent."""
    stamps: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def receive() -> None:
        while True:
            number = await ends.receive("ann")
            stamps.put_nowait((number, time.perf_counter()))

    receiving = asyncio.create_task(receive())
    try:
        yield stamps
    finally:
        receiving.cancel()
        await asyncio.wait([receiving])


def _worst(took: Sequence[float]) -> float:
    return sorted(took)[len(took) * 99 // 100]


def _row(name: str, title: str, what: str, middle: object, taken: Taken) -> Row:
    assert callable(middle)
    ratios = [
        middle(ours) / middle(plain) for ours, plain in zip(taken[name], taken[PLAIN], strict=True)
    ]
    return Row(
        name=f"events-{name}-{'p50' if what == 'median' else 'p99'}",
        title=title,
        ns=middle([each for took in taken[name] for each in took]) * 1e9,
        ratio=statistics.median(ratios),
        of="pub/sub alone",
        spread=spread_of(ratios),
    )


def _beside(name: str, taken: Taken, is_judged: bool) -> Row:
    pairs = zip(taken[OURS], taken[name], strict=True)
    ratios = [statistics.median(ours) / statistics.median(other) for ours, other in pairs]
    ratio, gate = statistics.median(ratios), GATES.get(name)
    verdict = "info"
    if is_judged and gate is not None:
        verdict = "ok" if ratio <= gate else "FAIL"
    return Row(
        name=f"events-beside-{name}",
        title=f"events, median: ringfence beside {name}",
        ns=statistics.median([each for took in taken[OURS] for each in took]) * 1e9,
        ratio=ratio,
        of=name,
        spread=spread_of(ratios),
        gate=gate,
        verdict=verdict,
    )
