"""Shutdown: what is in flight when an application stops is waited for, then cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import anyio
import attrs

from . import counters
from .state import _current, _get, roots
from .tasks import holders_of, is_on_trio, wait_out

if TYPE_CHECKING:
    from .fence import Detached
    from .protocols import Recipes
    from .scope import RequestScope

__all__ = ["DrainReport", "drain"]

logger = logging.getLogger("ringfence.fence")

PAUSE = 0.01  # seconds between two looks


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


Work = dict[str, Callable[[], object]]
"""What is in flight: by request id, what cancels it."""


async def drain(
    fence: Recipes, detached: Iterable[Detached], given_up: set[str], limit: float
) -> tuple[DrainReport, BaseException | None]:
    """
    Wait `limit` seconds for everything of `fence`; cancel the rest, and wait as long again.

    What was abandoned is not waited for again: it is kept in `given_up`. Returns the report, and
    the last cancellation that arrived meanwhile, for the caller to raise.
    """

    def in_flight() -> Work:
        work: Work = {root.request_id: _canceller(root) for root in _roots_of(fence)}
        work |= {each.request_id: each.cancel for each in detached if not each.is_done}
        return {name: cancel for name, cancel in work.items() if name not in given_up}

    first = in_flight()
    late, cancelled = await _watch(in_flight, limit)
    for cancel in late.values():
        cancel()
    stuck, cancelled_again = await _watch(in_flight, limit) if late else (late, None)
    report = DrainReport(len(first) - len(late), len(late) - len(stuck), tuple(stuck))
    given_up.update(stuck)
    _tell(report)
    return report, cancelled_again or cancelled


async def _watch(in_flight: Callable[[], Work], limit: float) -> tuple[Work, BaseException | None]:
    """What is in flight after `limit` seconds at most."""
    deadline, cancelled = anyio.current_time() + limit, None
    while (work := in_flight()) and anyio.current_time() < deadline:
        cancelled = await wait_out(anyio.Event(), PAUSE) or cancelled
    return work, cancelled


def _roots_of(fence: Recipes) -> list[RequestScope]:
    """Its open roots, but for those that the fence itself was opened in."""
    around = set()
    scope = _get()
    while scope is not None:
        around.add(scope.root)
        scope = scope._below
    return [root for root in list(roots) if root._recipes is fence and root not in around]


def _canceller(root: RequestScope) -> Callable[[], object]:
    def cancel() -> None:
        root._more().is_cut_short = True
        cancel_scope = roots.get(root)
        if cancel_scope is not None:
            cancel_scope.cancel()
        elif not is_on_trio():
            for task in holders_of(_current, root._opened_code, lambda here: _is_of(root, here)):
                task.cancel()

    return cancel


def _is_of(root: RequestScope, scope: RequestScope | None) -> bool:
    return scope is not None and scope.root is root


def _tell(report: DrainReport) -> None:
    if report.cancelled:
        counters.count("drain.cancelled", report.cancelled)
    if report.abandoned:
        counters.count("drain.abandoned", len(report.abandoned))
        logger.warning("Shutdown abandoned what would not stop: %s.", ", ".join(report.abandoned))
    logger.info("Shutdown drained %d, cancelled %d.", report.drained, report.cancelled)
