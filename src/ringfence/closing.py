"""Closing a scope: what is beneath it, then its finalisers, then what it has to raise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import CodeType
from typing import TYPE_CHECKING

import attrs

from . import counters, isolation
from .errors import ConfigurationError, ScopeCloseError
from .finalisers import FinaliserReport
from .state import CLOSED, CLOSING, OPEN, _get, _set
from .tasks import Signal, spawn, wait_out

if TYPE_CHECKING:
    from .scope import RequestScope, _Extras

__all__ = ["leave", "release"]


async def leave(
    scope: RequestScope, exc: BaseException | None, code: CodeType, instruction: int
) -> bool:
    """
    End a scope's block, whose body ended with `exc`.

    Returns false, so that the body's own exception passes; or raises what comes instead of it:
    a cancellation that arrived meanwhile, a base exception of a finaliser, `TimeoutError`, or
    `ScopeCloseError` if the body succeeded. See `RequestScope`.
    """
    extras = scope._more()
    if scope._state is not OPEN:
        return await _rejoin(scope, extras, exc)
    scope._state = CLOSING
    extras.exc = exc
    cancelled = None
    finalisers = extras.finalisers
    if extras.children or (finalisers is not None and not finalisers.run_inline()):
        extras.closed_event = Signal()
        if isinstance(exc, GeneratorExit):
            _finish_elsewhere(scope, exc, code, instruction)
            return False
        cancelled = await run_finalisers(scope, exc)
    _finish(scope, code, instruction)
    return _settle(scope, extras, exc, cancelled)


async def run_finalisers(scope: RequestScope, exc: BaseException | None) -> BaseException | None:
    """Close what is beneath, then our own; the last cancellation that arrived meanwhile."""
    extras = scope._more()
    cancelled = None
    for child in reversed(list(extras.children)):
        cancelled = await _close_with_parent(child, exc) or cancelled
    if extras.finalisers is not None:
        cancelled = await extras.finalisers.run(exc) or cancelled
    return cancelled


async def _close_with_parent(
    scope: RequestScope, exc: BaseException | None
) -> BaseException | None:
    extras = scope._more()
    if scope._state is CLOSING and extras.closed_event is not None:
        return await wait_out(extras.closed_event, None)  # each finaliser is bounded
    scope._state = CLOSING
    extras.exc = exc
    extras.parent_closed = True
    counters.count("scope.parent_closed")
    extras.closed_event = Signal()
    cancelled = await run_finalisers(scope, exc)
    _finish(scope, None, 0)
    parent = scope._parent
    if extras.finalisers is not None and parent is not None:
        parent._finalisers().report.extend(
            attrs.evolve(report, kind="child") for report in extras.finalisers.report
        )
    return cancelled


def _finish_elsewhere(
    scope: RequestScope, exc: BaseException, code: CodeType, instruction: int
) -> None:
    """A coroutine that is being destroyed cannot await: the rest runs in a task of its own."""

    async def finish() -> None:
        await run_finalisers(scope, exc)
        _finish(scope, code, instruction)

    context = scope._own_context()
    if _get() is scope:  # it is over here; only its clean-up goes on
        _set(scope._below)
    try:
        spawn(finish, "ringfence closer", context)
    except RuntimeError:  # no event loop is left to run it
        counters.count("finaliser.abandoned")
        _finish(scope, code, instruction)


def _finish(scope: RequestScope, code: CodeType | None, instruction: int) -> None:
    release(scope)
    scope._end(code, instruction)
    extras = scope._more()
    if extras.finalisers is not None:
        extras.finalisers.forget()
    if extras.closed_event is not None:
        extras.closed_event.set()


def release(scope: RequestScope) -> None:
    """Give up what the scope owns in the registry."""
    extras = scope._extras
    if extras is None:
        return
    if extras.held is not None:
        extras.held.disown()
    if extras.claimant is not None:
        isolation.registry.release(extras.claimant)
        extras.claimant = None


async def _rejoin(scope: RequestScope, extras: _Extras, exc: BaseException | None) -> bool:
    """A second exit: wait for the first, and leave what only this task can leave."""
    cancelled = None
    if scope._state is CLOSING and extras.closed_event is not None:
        cancelled = await wait_out(extras.closed_event, None)
    if scope._state is CLOSED and _get() is scope:
        _set(scope._below)
    return _settle(scope, extras, exc, cancelled, errors=())


def _settle(
    scope: RequestScope,
    extras: _Extras,
    exc: BaseException | None,
    cancelled: BaseException | None,
    errors: Sequence[FinaliserReport] | None = None,
) -> bool:
    """Raise what this block has to raise, or let the body's own exception pass."""
    final = exc if cancelled is None else cancelled
    if extras.timeout_block is not None:
        final = _leave_timeout(scope, extras, final)
    failed = [r for r in (scope.report if errors is None else errors) if r.error is not None]
    fatal = next((r.error for r in failed if not isinstance(r.error, Exception)), None)
    if fatal is not None:
        final = fatal
    if final is None:
        if failed:
            raise ScopeCloseError(
                f"Request `{scope.request_id}` succeeded, but {len(failed)} of its finalisers "
                "did not.",
                [r.error for r in failed if isinstance(r.error, Exception)],
                scope.request_id,
            )
        return False
    for report in failed:
        if report.error is not final:
            final.add_note(f"ringfence: finaliser `{report.name}` failed: {report.error!r}")
    if final is exc:
        return False
    raise final


def _leave_timeout(
    scope: RequestScope, extras: _Extras, final: BaseException | None
) -> BaseException | None:
    """Leave the cancel scope of `timeout=`, which only the task that entered it can."""
    block, extras.timeout_block = extras.timeout_block, None
    try:
        block.__exit__(None if final is None else type(final), final, None)
    except TimeoutError as late:
        return late
    except RuntimeError as foreign:
        extras.cancel_scope.deadline = math.inf
        wrong = ConfigurationError(
            f"The block of request `{scope.request_id}` has a `timeout`, and was left by another "
            "task than the one that entered it.",
            "Leave it where it was entered, or leave the time-out to `anyio.fail_after`.",
        )
        wrong.__cause__ = foreign
        return final or wrong
    return final
