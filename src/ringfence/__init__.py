"""Run many users in one async process without mixing them up."""

from .concurrency import ScopeTaskGroup, bind, run_as, task_group
from .context import UserExecutionContext, validate_user_context
from .current import (
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    managed_user_context,
    nobody,
    user_context,
)
from .errors import (
    AmbiguousProviderError,
    CaptiveProviderError,
    CarrierError,
    ConcurrentSessionError,
    ConfigurationError,
    ContextClosedError,
    ContextIsolationError,
    ContextLimitError,
    ContextMismatchError,
    DatabasePolicyError,
    DrainingError,
    EventLogError,
    ForbiddenError,
    InvalidContextError,
    MissingProviderError,
    NoContextError,
    OwnershipError,
    ProviderCycleError,
    ProviderError,
    RingfenceError,
    RowSecurityError,
    ScopeCloseError,
    ScopeInGeneratorError,
    SessionIsolationError,
    SharedObjectError,
    UnreachableProviderError,
    WrongTypeError,
)
from .fence import Detached, DrainReport, Ringfence
from .finalisers import FinaliserReport
from .identity import Identity
from .isolation import clear_shared_object_registry, register_shared_object
from .ownership import owned
from .scope import RequestScope
from .settings import Settings
from .streaming import BoundStream, bound_stream

__version__ = "0.1.0"

__all__ = [
    "AmbiguousProviderError",
    "BoundStream",
    "CaptiveProviderError",
    "CarrierError",
    "ConcurrentSessionError",
    "ConfigurationError",
    "ContextClosedError",
    "ContextIsolationError",
    "ContextLimitError",
    "ContextMismatchError",
    "DatabasePolicyError",
    "Detached",
    "DrainReport",
    "DrainingError",
    "EventLogError",
    "FinaliserReport",
    "ForbiddenError",
    "Identity",
    "InvalidContextError",
    "MissingProviderError",
    "NoContextError",
    "OwnershipError",
    "ProviderCycleError",
    "ProviderError",
    "RequestScope",
    "Ringfence",
    "RingfenceError",
    "RowSecurityError",
    "ScopeCloseError",
    "ScopeInGeneratorError",
    "ScopeTaskGroup",
    "SessionIsolationError",
    "Settings",
    "SharedObjectError",
    "UnreachableProviderError",
    "UserExecutionContext",
    "WrongTypeError",
    "bind",
    "bound_stream",
    "child_context",
    "clear_shared_object_registry",
    "current_context",
    "current_context_or_none",
    "current_scope",
    "current_scope_or_none",
    "managed_user_context",
    "nobody",
    "owned",
    "register_shared_object",
    "run_as",
    "task_group",
    "user_context",
    "validate_user_context",
]
