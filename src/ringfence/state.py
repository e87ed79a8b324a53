"""The one ContextVar, the states that a scope goes through, and the roots that are open."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = ["CLOSED", "CLOSING", "NEW", "OPEN", "State", "open_roots"]

State = Literal["new", "open", "closing", "closed"]

NEW: State = "new"
OPEN: State = "open"
CLOSING: State = "closing"
CLOSED: State = "closed"

_current: ContextVar[RequestScope | None] = ContextVar("ringfence_scope", default=None)
"""The scope that is open here. Set by `RequestScope` alone, on the way in and out."""
_get = _current.get
_set = _current.set

roots: dict[RequestScope, Any] = {}
"""The open roots, each with what would cancel its block, a task or a cancel scope, if known."""


def open_roots() -> list[RequestScope]:
    """The root scopes that are open in this process, oldest first."""
    return list(roots)
