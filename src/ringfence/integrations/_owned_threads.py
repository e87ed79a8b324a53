"""Whose a conversation's thread is: a key that says so, and cannot be anybody else's."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from ..context import UserExecutionContext
from ..current import current_scope
from ..errors import ContextMismatchError, InvalidContextError

__all__ = ["checked_thread", "thread_key"]

_MARK = "ringfence1"


def thread_key(context: UserExecutionContext, thread_id: str) -> str:
    """
    The key under which a store keeps a thread: tenant, user and thread, each encoded.

    What separates them cannot be part of one, so that no two threads have one key:

    >>> alice = UserExecutionContext("alice", "t:1", "r-1", tenant_id="acme")
    >>> thread_key(alice, alice.thread_id)
    'ringfence1:acme:alice:t%3A1'
    """
    return _prefix(context) + quote(thread_id, safe="")


def checked_thread(key: Any) -> str:
    """
    The thread that `key` is of, if it is the current user's.

    Raises:
        ContextMismatchError: it is another user's, or nobody's.
        NoContextError, ContextClosedError: nobody is current here.
    """
    scope = current_scope()
    context = scope.context
    prefix = _prefix(context)
    if type(key) is str and key.startswith(prefix):
        thread = unquote(key[len(prefix) :])
        if thread and thread_key(context, thread) == key and _is_id(thread):
            return thread
    raise ContextMismatchError(
        "The thread id that the graph was given is not of the user who is current here.",
        "Make the config with `owned_thread(thread_id)`; a bare thread id belongs to nobody.",
        request_id=scope.request_id,
    )


def _prefix(context: UserExecutionContext) -> str:
    tenant = quote(context.tenant_id or "", safe="")  # no tenant's id is empty
    return f"{_MARK}:{tenant}:{quote(context.user_id, safe='')}:"


def _is_id(thread: str) -> bool:
    try:
        current_scope().settings.id_rules.check("thread_id", thread)
    except InvalidContextError:
        return False
    return True
