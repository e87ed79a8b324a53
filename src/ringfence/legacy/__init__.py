"""
The supervisor vocabulary, for a code base that changes its imports first and its calls later.

Everything here is the canonical thing or a subclass of it. Each legacy name works, and emits one
`DeprecationWarning` per call site that names its successor; canonical names never warn. Nothing
here lives longer than its counterpart in `ringfence`. See `docs/migrating.md`.
"""

from .. import (
    ContextIsolationError,
    InvalidContextError,
    clear_shared_object_registry,
    managed_user_context,
    register_shared_object,
    validate_user_context,
)
from ..agents.websocket import WebSocketRegistry
from .context import UserExecutionContext
from .deprecations import deprecated

__all__ = [
    "ContextIsolationError",
    "InvalidContextError",
    "UserExecutionContext",
    "WebSocketRegistry",
    "clear_shared_object_registry",
    "clear_shared_objects",
    "managed_user_context",
    "register_shared_object",
    "validate_user_context",
]


def clear_shared_objects() -> None:
    """Forget every object that was registered as shared: `clear_shared_object_registry`."""
    deprecated("clear_shared_objects", 2)
    clear_shared_object_registry()
