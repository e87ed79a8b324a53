"""What a framework says explicitly of whose work it is, held against the scope that is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..context import UserExecutionContext
from ..current import current_scope
from ..errors import ContextMismatchError

__all__ = ["check_explicit"]


def check_explicit(given: Any) -> UserExecutionContext:
    """
    The current context, if `given` is of the same user; frameworks' dependencies often say so.

    Args:
        given: a context, an `Identity`, or any object or mapping with a `user_id` and maybe a
            `tenant_id`. What has no `user_id` says nothing of a user, and is not compared.

    Raises:
        NoContextError, ContextClosedError: nobody is current here.
        ContextMismatchError: it is another user's.
    """
    here = current_scope()
    context = here.context
    said = _said(given, "user_id", None)
    if said is None:
        return context
    tenant = _said(given, "tenant_id", context.tenant_id)
    if said != context.user_id or tenant != context.tenant_id:
        raise ContextMismatchError(
            "What the framework was given is of another user than the scope that is open here.",
            _remedy(said, tenant),
            request_id=here.request_id,
        )
    return context


def _remedy(user: Any, tenant: Any) -> str:
    for name, said in (("user_id", user), ("tenant_id", tenant)):
        if said is not None and not isinstance(said, str):
            return (
                f"Its `{name}` is no text, but of type `{type(said).__name__}`: give it as the "
                "scope has it, such as `str(user.id)`."
            )
    return "Pass `current_context()`, or open `user_context` for the user that it is for."


def _said(given: Any, name: str, otherwise: Any) -> Any:
    if isinstance(given, Mapping):
        return given.get(name, otherwise)
    return getattr(given, name, otherwise)
