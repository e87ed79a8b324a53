"""Shutdown: what is in flight when an application stops is waited for, then cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import anyio
import attrs

from . import counters
from .state import CLOSED, _current, _get, roots
from .tasks import Signal, codes_of, context_of, is_on_trio, wait_out

if TYPE_CHECKING:
    from .fence import Detached
    from .protocols import Recipes
    from .scope import RequestScope

__all__ = ["DrainReport", "drain"]

logger = logging.getLogger("ringfence.fence")

PAUSE = 0.01  # seconds between two looks
STOPPED = "The application is shutting down."
"""The message of the cancellations that are shutdown's."""


@attrs.frozen
class DrainReport:
    """
    What became of requests in flight and detached work at shutdown; on `Ringfence.drain_report`.

    Attributes:
        drained: ended by itself within the time given.
        cancelled: ended, clean-up included, after it was cancelled.
        abandoned: request ids of what would not stop.
    """

    drained: int
    cancelled: int
    abandoned: tuple[str, ...]


class Work:
    """
    One request or piece of detached work, while it is in flight.

    Lives as long as the draining; equal only to itself, since two may have one request id.
    """

    def __init__(self, request_id: str, is_over: Callable[[], bool]) -> None:
        self.request_id = request_id
        self.is_over = is_over


async def drain(
    fence: Recipes, detached: Iterable[Detached], given_up: WeakSet[RequestScope], limit: float
) -> tuple[DrainReport, BaseException | None]:
    """
    Wait `limit` seconds for everything of `fence`; cancel the rest, and wait as long again.

    What was abandoned is not waited for again: it is kept in `given_up`. Returns the report, and
    the last cancellation that arrived meanwhile, for the caller to raise.
    """
    handles = [each for each in detached if not each.is_done]
    own = {each.request_id for each in handles}  # their roots: drained by their handles
    requests = [
        root for root in _roots_of(fence) if root not in given_up and root.request_id not in own
    ]
    work = [Work(root.request_id, _is_closed(root)) for root in requests]
    work += [Work(each.request_id, each._job.done.is_set) for each in handles]
    late, cancelled = await _watch(work, limit)
    if late:
        _cancel([root for root in requests if root._state is not CLOSED])
        for each in handles:
            if not each.is_done:
                each.cancel()
    stuck, cancelled_again = await _watch(late, limit)
    given_up.update(root for root in _roots_of(fence) if root._state is not CLOSED)
    report = DrainReport(
        len(work) - len(late), len(late) - len(stuck), tuple(each.request_id for each in stuck)
    )
    _tell(report)
    return report, cancelled_again or cancelled


async def _watch(work: list[Work], limit: float) -> tuple[list[Work], BaseException | None]:
    """What of it is in flight after `limit` seconds at most."""
    deadline, cancelled = anyio.current_time() + limit, None
    while left := [each for each in work if not each.is_over()]:
        if anyio.current_time() >= deadline:
            break
        cancelled = await wait_out(Signal(), PAUSE) or cancelled
    return left, cancelled


def _is_closed(root: RequestScope) -> Callable[[], bool]:
    return lambda: root._state is CLOSED


def _roots_of(fence: Recipes) -> list[RequestScope]:
    """Its open roots, but for those that the fence itself was opened in."""
    around = {scope.root for scope in _chain(_get())}
    return [root for root in list(roots) if root._recipes is fence and root not in around]


def _chain(scope: RequestScope | None) -> Iterator[RequestScope]:
    """A scope, and what was current when each was entered."""
    while scope is not None:
        yield scope
        scope = scope._below


def _cancel(requests: list[RequestScope]) -> None:
    """Cancel whatever runs the blocks of these roots, as far as it is known."""
    tasks = {} if is_on_trio() else _tasks_by_root()
    stoppers: set[Any] = set()  # one block may stand within another, in one task
    for root in requests:
        opener = roots.get(root)
        found = tasks.get(root, []) if opener is None else [opener]
        root._more().is_cut_short = bool(found)
        stoppers.update(found)
    for stopper in stoppers:
        if isinstance(stopper, asyncio.Task):
            stopper.cancel(STOPPED)
        else:
            stopper.cancel()


def _tasks_by_root() -> dict[RequestScope, list[asyncio.Task[Any]]]:
    """
    The tasks of this event loop by the root whose block they run.

    A task that has merely inherited the scope does not stand in the function that opened it.
    """
    found: dict[RequestScope, list[asyncio.Task[Any]]] = {}
    for task in asyncio.all_tasks():
        scopes = list(_chain(context_of(task).get(_current)))
        if scopes:
            codes = set(codes_of(task))
            for root in {scope.root for scope in scopes}:
                if root._opened_code in codes:
                    found.setdefault(root, []).append(task)
    return found


def _tell(report: DrainReport) -> None:
    if report.cancelled:
        counters.count("drain.cancelled", report.cancelled)
    if report.abandoned:
        counters.count("drain.abandoned", len(report.abandoned))
        logger.warning("Shutdown abandoned what would not stop: %s.", ", ".join(report.abandoned))
    logger.info("Shutdown drained %d, cancelled %d.", report.drained, report.cancelled)
