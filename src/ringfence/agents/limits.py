"""Limits that a run hands down: how deep, until when, how much; and what is left of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio
import anyio.from_thread
import attrs

from ..current import current_scope
from ..errors import AgentLimitError, InvalidContextError, WrongTypeError
from ..settings import Settings

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["Left", "Limits", "left", "limit", "refuse_too_deep", "spend"]


@attrs.frozen
class Left:
    """
    What an agent or a tool has left; a value, true when it was asked for.

    Attributes:
        depth: how many levels of agents and tools may be beneath it.
        seconds: until its deadline; `None` if it has none.
        budget: of each thing that a budget names, here or above: the least that is left.
    """

    depth: int
    seconds: float | None
    budget: Mapping[str, float]


@attrs.define(eq=False)
class Limits:
    """What a run was given. Lives as long as its scope."""

    deepest: int | None
    """The depth of the deepest context beneath it, if that was limited here or above."""
    budget: dict[str, float]
    """What is left of it; below 0 once more was spent than there was."""
    above: Limits | None


_given: WeakKeyDictionary[RequestScope, Limits] = WeakKeyDictionary()
_spending = threading.Lock()  # tools may run in threads


def left() -> Left:
    """
    What the agent or tool that runs here has left, so that it can plan::

        if left().budget.get("tokens", 0) < 1000:
            return "in short"

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
    """
    scope = current_scope()
    here = scope.context.operation_depth
    limits = _limits_of(scope)
    deepest = _deepest(limits, scope.settings)
    return Left(deepest - here, _seconds(scope), MappingProxyType(_budget(limits)))


def spend(**amounts: float) -> None:
    """
    Take from the budget of the run here, and of every run above it that has one.

    What was spent counts, even if it is more than there was: a model has used its tokens when
    this is told. What no budget names is not limited. Safe for parallel runs and for threads::

        spend(tokens=120, dollars=0.002)

    Raises:
        AgentLimitError: more than was left, here or above.
        InvalidContextError: no number, or one below 0.
        NoContextError, ContextClosedError: nobody is current here.
    """
    scope = current_scope()
    scope.context  # noqa: B018 (nobody spends nothing)
    for name, amount in amounts.items():
        _check(name, amount, "spent")
    with _spending:
        limits = _limits_of(scope)
        over = [name for name, amount in amounts.items() if _take(limits, name, amount)]
    if over:
        raise _used_up(over[0], scope)


# --- for runs -----------------------------------------------------------------------------------


def limit(
    scope: RequestScope,
    parent: RequestScope,
    budget: Mapping[str, float] | None,
    depth: int | None,
) -> None:
    """Give a run what it may use, and never more than is left above."""
    limits = _limits_of(parent)
    deepest = _deepest(limits, parent.settings)
    if depth is not None:
        _check_depth(depth)
        deepest = min(deepest, scope.context.operation_depth + depth)
    above = _budget(limits)
    asked = _asked(budget)
    own = {name: min(amount, above.get(name, amount)) for name, amount in asked.items()}
    _given[scope] = Limits(deepest, own, limits)


def refuse_too_deep(parent: RequestScope) -> None:
    """Refuse a run or a tool beneath `parent` that a `depth` above does not allow."""
    limits = _limits_of(parent)
    if limits is not None and limits.deepest is not None:
        if parent.context.operation_depth >= limits.deepest:
            raise AgentLimitError(
                "A run above allows no more agents or tools beneath this one.",
                "Hand back instead of calling deeper, or raise `depth=` of the run above.",
                limit="depth",
            )


def _limits_of(scope: RequestScope) -> Limits | None:
    """Those of the nearest run, from here upwards, that has any of its own."""
    if not _given:
        return None
    here: RequestScope | None = scope
    while here is not None:
        limits = _given.get(here)
        if limits is not None:
            return limits
        here = here.parent
    return None


def _deepest(limits: Limits | None, settings: Settings) -> int:
    if limits is None or limits.deepest is None:
        return settings.max_depth
    return min(limits.deepest, settings.max_depth)


def _budget(limits: Limits | None) -> dict[str, float]:
    found: dict[str, float] = {}
    while limits is not None:
        for name, amount in limits.budget.items():
            found[name] = max(0, min(amount, found.get(name, amount)))
        limits = limits.above
    return found


def _asked(budget: Mapping[str, float] | None) -> Mapping[str, float]:
    if budget is None:
        return {}
    if not isinstance(budget, Mapping):
        raise WrongTypeError(
            f"`budget` is no mapping, but a `{type(budget).__name__}`.",
            'Name what is limited: `budget={"tokens": 10_000}`.',
            field="budget",
            rule="type",
        )
    for name, amount in budget.items():
        _check(name, amount, "in a budget")
    return budget


def _take(limits: Limits | None, name: str, amount: float) -> bool:
    """Take it everywhere; whether that was more than there was anywhere."""
    is_over = False
    while limits is not None:
        if name in limits.budget:
            limits.budget[name] -= amount
            is_over = is_over or limits.budget[name] < 0
        limits = limits.above
    return is_over


def _seconds(scope: RequestScope) -> float | None:
    deadline = scope.deadline
    return None if deadline is None else max(0.0, deadline - _now())


def _now() -> float:
    try:
        return anyio.current_time()
    except anyio.NoEventLoopError:  # a tool in a worker thread
        return anyio.from_thread.run_sync(anyio.current_time)


def _check(name: str, amount: float, what: str) -> None:
    if (
        isinstance(amount, bool)
        or not isinstance(amount, (int, float))
        or not (amount >= 0 and math.isfinite(amount))
    ):
        raise InvalidContextError(
            f"What is {what} of `{name}` is a number from 0, not {amount!r}.",
            "Give each a name and a number: `tokens=120`.",
            field=name,
            rule="range",
        )


def _check_depth(depth: int) -> None:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise InvalidContextError(
            f"`depth` is a whole number from 0, not {depth!r}.",
            "Say how many levels of agents and tools may be beneath the run.",
            field="depth",
            rule="range",
        )


def _used_up(name: str, scope: RequestScope) -> AgentLimitError:
    return AgentLimitError(
        f"The budget of `{name}` is used up in request `{scope.request_id}`.",
        "End with what there is, or give the run a larger `budget=`; `left()` says what is left.",
        limit=name,
    )
