"""What integrations offer of each scope, by type: its session, the request it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = ["offer", "offers"]

offers: dict[Any, Callable[[RequestScope], Any]] = {}
"""For each type, what gives a scope's own object of it. Lives as long as the process."""


def offer(kind: type, give: Callable[[RequestScope], Any]) -> None:
    """
    Have containers provide a `kind` that belongs to each scope, with what `give` returns for it.

    For integrations, which call it where their types are known. A provider of the application
    comes first.
    """
    offers[kind] = give
