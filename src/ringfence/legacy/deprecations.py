"""What each legacy name is called now, and the warning that says so."""

from __future__ import annotations

import warnings

__all__ = ["deprecated"]

SUCCESSORS = {
    # read or assigned
    "metadata": "`agent_context` or `audit_metadata`",
    "session_id": '`agent_context["session_id"]`',
    "websocket_connection_id": "`websocket_client_id`",
    # constructor and `from_request`
    "metadata=": "`agent_context=` or `audit_metadata=`",
    "session_id=": '`agent_context={"session_id": ...}`',
    "websocket_connection_id=": "`websocket_client_id=`",
    "a session as fourth argument": "`db_session=`",
    # `create_child_context`
    "create_child_context(additional_metadata=)": "`additional_agent_context=` or "
    "`additional_audit_metadata=`",
    "create_child_context(metadata=)": "`additional_agent_context=` or "
    "`additional_audit_metadata=`",
    # methods and functions
    "clear_shared_objects": "`clear_shared_object_registry`",
    "create_child_context_supervisor": "`create_child_context`",
    "create_supervisor_style_child_context": "`create_child_context`",
    "from_request_supervisor": "`from_request`",
    "from_supervisor_style_request": "`from_request`",
    "with_websocket_connection_supervisor": "`with_websocket_connection`",
}
"""Legacy name -> what to write instead."""

# One text per name: Python's registry of what was shown keeps each text and line for ever.
_TEXTS = {
    name: f"ringfence.legacy: `{name}` is deprecated; use {successor}."
    for name, successor in SUCCESSORS.items()
}


def deprecated(name: str, stacklevel: int) -> None:
    """
    Warn of a legacy name, once per call site, as far as the filters in force want to know.

    Every text begins with `ringfence.legacy`, by which a filter finds them all.

    Args:
        name: one of `SUCCESSORS`.
        stacklevel: as for `warnings.warn`, were it called in the place of this.
    """
    warnings.warn(_TEXTS[name], DeprecationWarning, stacklevel=stacklevel + 1)
