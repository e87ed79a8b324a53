"""What integrations look at before an application serves."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["before_serving", "refuse_unfit"]

_checks: list[Callable[[object], None]] = []


def before_serving(check: Callable[[object], None]) -> None:
    """
    Have `check` look at each application that is given to `fence.lifespan`; it raises to refuse.

    For integrations, which call it once, where they know what their framework calls an application.
    """
    _checks.append(check)


def refuse_unfit(app: object) -> None:
    """Raise what the first check raises that finds fault with the application."""
    for check in _checks:
        check(app)
