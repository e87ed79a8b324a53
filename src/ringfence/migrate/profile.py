"""What the ready profile knows of the class that ringfence succeeds."""

from __future__ import annotations

__all__: list[str] = []

ALL = "all"
"""Every name of a module is legacy."""

MODULES: dict[str, str | tuple[str, ...]] = {
    "*.services.user_execution_context": ALL,
    "*.agents.supervisor.user_execution_context": ALL,
    "*.models.user_execution_context": ALL,
    # the rest of this module (engines, registries) stays where it is
    "*.agents.supervisor.execution_factory": ("UserExecutionContext",),
}
"""Patterns of old modules, and which of their names are legacy."""

FACTORY = "execution_factory"
"""The last part of the module whose class made new thread ids for its children."""

CLASS = "UserExecutionContext"
RENAMED = {"clear_shared_objects": "clear_shared_object_registry"}
CANONICAL = frozenset(
    {
        CLASS,
        "ContextIsolationError",
        "InvalidContextError",
        "clear_shared_object_registry",
        "managed_user_context",
        "register_shared_object",
        "validate_user_context",
    }
)
"""Names that `ringfence` itself exports."""
EXPORTED = CANONICAL | frozenset(RENAMED)
"""Names that `ringfence.legacy` exports."""

RECEIVERS = (
    "child",
    "child_context",
    "child_ctx",
    "context",
    "ctx",
    "exec_context",
    "execution_context",
    "user_context",
    "user_ctx",
    "user_execution_context",
)
"""Names that a context usually has."""

AUDIT_KEYS = (
    "child_created_at",
    "client_ip",
    "traceparent",
    "user_agent",
    "x_correlation_id",
    "x_request_id",
    "x_trace_id",
)
"""Keys that ringfence itself writes into `audit_metadata` only, and nobody uses otherwise."""
AMBIGUOUS_KEYS = frozenset({"content_type", "method", "url"})
"""It writes these too, but agents use such words for their own work: a person has to say."""
AGENT_KEYS = ("operation_name", "parent_operation", "session_id")
"""Keys that ringfence and its compatibility layer write into `agent_context`."""
LINEAGE_KEYS = frozenset({"operation_depth", "parent_request_id"})
"""Keys of the merged mapping that are fields of the context."""
RESERVED_KEYS = frozenset(
    "user_id thread_id run_id request_id created_at db_session websocket_client_id".split()
)
"""Keys that neither dictionary may hold."""

PRIORITIES: dict[str, tuple[str, ...]] = {
    # the first that fits decides, so what is more special comes first
    "tests": ("tests/**", "**/tests/**", "test/**", "**/test/**", "**/test_*.py", "**/*_test.py",
              "**/conftest.py"),
    "examples": ("examples/**", "**/examples/**", "docs/**"),
    "scripts": ("scripts/**", "**/scripts/**", "tools/**", "bin/**"),
    "routes": ("**/routes/**", "**/routers/**", "**/endpoints/**", "**/api/**", "**/views/**",
               "**/routes.py", "**/dependencies.py"),
    "production": ("**",),
}  # fmt: skip
"""Which files belong to which priority."""
ORDER = ("production", "routes", "tests", "examples", "scripts")
"""The order in which people deal with them."""
