"""Memory: bytes that one more open scope costs."""

from __future__ import annotations

import gc
import tracemalloc
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

import attrs

from ringfence import child_context, current_context, user_context

from .asgi import REQUEST, receive, ringfence_around, send
from .cases import IDS, Floor
from .timing import drive

__all__ = ["Bytes", "bytes_per_request", "bytes_per_scope"]


@attrs.frozen
class Bytes:
    """What one more of something costs, in bytes, and in floor objects."""

    name: str
    title: str
    each: float
    x_floor: float


def bytes_per_scope(count: int) -> list[Bytes]:
    """
    Open `count` of each and divide; the ids given are shared and not counted.

    A child is the only one of its parent, so what the parent keeps for it is counted too.
    """
    floor = _each(count, Floor)
    kinds = [
        ("floor", "the floor object", floor),
        ("root", "a root scope, with its context", _each(count, lambda: user_context(**IDS))),
        ("child", "a child scope, with its context", _each_child(count)),
    ]
    return [Bytes(name, title, each, each / floor) for name, title, each in kinds]


def bytes_per_request(count: int) -> list[Bytes]:
    """
    What one more request costs that is suspended in its application: behind the middleware, less
    the same without it, its coroutine, its Context and the server's dict, which all have.
    """
    bare = _each_request(count, _suspended)
    floor = _each(count, Floor)
    ours = _each_request(count, ringfence_around(_suspended)) - bare
    read = _each_request(count, ringfence_around(_suspended_reader)) - bare
    return [
        Bytes("request", "what an open request adds", ours, ours / floor),
        Bytes("request-read", "the same, its context read", read, read / floor),
    ]


@types.coroutine
def _for_ever() -> Generator[None, None, None]:
    yield


async def _suspended(scope: Any, receive: Any, send: Any) -> None:
    await _for_ever()


async def _suspended_reader(scope: Any, receive: Any, send: Any) -> None:
    current_context()
    await _for_ever()


def _each_request(count: int, app: Any) -> float:
    requests: list[Any] = [None] * count

    def measured() -> float:
        began = _traced()
        for number in range(count):
            context = Context()
            coroutine = context.run(app, dict(REQUEST), receive, send)
            requests[number] = (context, coroutine)
            context.run(coroutine.send, None)
        grown = _traced() - began
        for context, coroutine in requests:
            context.run(coroutine.close)
        return grown / count

    return _tracing(measured)


def _each(count: int, make: Callable[[], Any]) -> float:
    def measured() -> float:
        blocks: list[Any] = [None] * count
        began = _traced()
        for number in range(count):
            block = blocks[number] = make()
            drive(block.__aenter__())
        grown = _traced() - began
        for block in reversed(blocks):
            drive(block.__aexit__(None, None, None))
        return grown / count

    return _tracing(lambda: Context().run(measured))


def _each_child(count: int) -> float:
    parents = [(Context(), user_context(**IDS)) for _ in range(count)]
    children: list[Any] = [None] * count

    def measured() -> float:
        for context, parent in parents:
            context.run(drive, parent.__aenter__())
        began = _traced()
        for number, (context, _) in enumerate(parents):
            child = children[number] = context.run(child_context, "search")
            context.run(drive, child.__aenter__())
        grown = _traced() - began
        for (context, parent), child in zip(parents, children, strict=True):
            context.run(drive, child.__aexit__(None, None, None))
            context.run(drive, parent.__aexit__(None, None, None))
        return grown / count

    return _tracing(measured)


def _tracing(measured: Callable[[], float]) -> float:
    tracemalloc.start()
    try:
        return measured()
    finally:
        tracemalloc.stop()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
