"""The refusals that scopes and readers give, in one voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import isolation
from .errors import DrainingError, NoContextError, SessionIsolationError
from .isolation import Claimant
from .state import CLOSED

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = ["check_owner", "draining", "foreign_session", "no_user", "nothing_open"]


def check_owner(obj: object, owner: Any, user: RequestScope) -> None:
    """Raise unless `owner`, a root or what lives as long as a user, is open and that of `user`."""
    if owner._state is CLOSED:
        raise owner._closed_error()
    if owner is not user._root and not (isinstance(owner, Claimant) and owner.admits(user)):
        raise isolation.foreign_object(obj, owner.request_id, user.request_id)


def foreign_session(owner: RequestScope, user: RequestScope) -> SessionIsolationError:
    """The error for a session of the root `owner`, met in the request of `user`."""
    return SessionIsolationError(
        f"This session belongs to request `{owner.request_id}`, opened at {owner.opened_at}, but "
        f"request `{user.request_id}` is using it.",
        "Use `current_context().db_session` in each request; for work that outlives its request, "
        "`fence.detach(fn)`.",
        owner_request_id=owner.request_id,
        request_id=user.request_id,
    )


def nothing_open() -> NoContextError:
    """The error for a place where no scope is open."""
    return NoContextError(
        "No scope is open here.",
        "Enter one with `async with user_context(...)`, or add `UserContextMiddleware`; a plain "
        "thread or executor needs `bind(fn)`.",
    )


def no_user() -> NoContextError:
    """The error for a scope that has no user."""
    return NoContextError(
        "The scope that is open here belongs to nobody.",
        "Ask `current_scope()` for resources; a context is there once somebody is identified.",
    )


def draining() -> DrainingError:
    """The error for a new root while the application shuts down."""
    return DrainingError(
        "The application is shutting down.", "Try again; another instance will answer."
    )
