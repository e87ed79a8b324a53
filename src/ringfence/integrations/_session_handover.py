"""A given session that goes from one request to the next takes no user's unsaved work along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from ..errors import SessionIsolationError
from ._guarded_session import has_changes

if TYPE_CHECKING:
    from ..scope import RequestScope
    from ._session_guard import SessionGuard

__all__ = ["note_unsaved", "refuse_unsaved"]

UNSAVED = "ringfence.unsaved"
"""In a session's `info`: whose work was left unsaved in it, and in which transaction."""


def note_unsaved(sync_session: Session, own: SessionGuard) -> None:
    """The request of `own` ends: remember what it leaves to whoever uses the session next."""
    if has_changes(sync_session) or own.written_on is not None:
        sync_session.info[UNSAVED] = _user_of(own.owner), sync_session.get_transaction()


def refuse_unsaved(sync_session: Session, scope: RequestScope) -> None:
    """
    Raise if the session holds another user's work, which this request would save as its own.

    Raises:
        SessionIsolationError: it has neither been committed nor rolled back.
    """
    left = sync_session.info.get(UNSAVED)
    if left is None:
        return
    user, transaction = left
    is_open = transaction is not None and sync_session.get_transaction() is transaction
    if not is_open and not has_changes(sync_session):
        del sync_session.info[UNSAVED]
    elif user != _user_of(scope.root):
        raise SessionIsolationError(
            f"The session given to request `{scope.request_id}` holds another user's unsaved work.",
            "Commit it or roll it back before the request that did it ends; better, give each "
            "request a session of its own.",
            request_id=scope.request_id,
        )


def _user_of(root: RequestScope) -> tuple[str | None, str] | None:
    if not root.has_user:
        return None
    return root.context.tenant_id, root.context.user_id
