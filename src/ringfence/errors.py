"""
Every error of ringfence: a stable code, a fact sentence, a remedy sentence.

::

    RingfenceError
    ├── NoContextError(LookupError)               RF101  nobody is bound here
    ├── ContextClosedError(RuntimeError)          RF102  it ended
    ├── DrainingError(RuntimeError)               RF103  the application is shutting down
    ├── ForbiddenError                            RF104  the user is known and may not
    ├── ContextIsolationError(RuntimeError)       RF200  something crossed
    │   ├── SharedObjectError                     RF201  a shared object inside a context's data
    │   ├── OwnershipError                        RF202  another request's object
    │   ├── SessionIsolationError                 RF203  another request's session
    │   ├── ConcurrentSessionError                RF204  one session, two tasks
    │   └── ContextMismatchError                  RF205  an explicit identity is not the ambient one
    ├── ScopeInGeneratorError(RuntimeError)       RF301  a generator would carry a scope out
    ├── ScopeCloseError(ExceptionGroup)           RF302  the body succeeded, clean-up did not
    ├── CarrierError(ValueError)                  RF401  a hand-over that cannot be trusted
    ├── EventLogError(RuntimeError)               RF403  the log of events is away
    ├── DatabasePolicyError(RuntimeError)         RF501  the database's rules were not met
    ├── ProviderError(LookupError)                RF601  an object that cannot be provided
    │   ├── MissingProviderError                  RF602  nothing provides it
    │   ├── ProviderCycleError                    RF603  making it asks for itself
    │   ├── CaptiveProviderError                  RF604  what lives long would hold what does not
    │   ├── AmbiguousProviderError                RF605  several provide it
    │   └── UnreachableProviderError              RF606  it needs an `await`, and cannot have one
    ├── InvalidContextError(ValueError)           RF701  ids or data that are not allowed
    │   ├── WrongTypeError(TypeError)             RF702  not the type it has to be
    │   └── ContextLimitError                     RF703  too deep, too many, too large
    ├── ConfigurationError(ValueError)            RF801  a setting, or a use that was not set up
    │   └── RowSecurityError                      RF802  row-level security has holes
    ├── AgentLimitError(RuntimeError)             RF901  too many, too deep, or a budget used up
    ├── UnknownAgentError(LookupError)            RF902  no agent has that name
    ├── UnknownRunError(LookupError)              RF903  no run of this user has that request id
    └── AgentCancelledError(RuntimeError)         RF904  a run was cancelled by its user

Making one of these counts `refused.<code>` in `ringfence.counters`. Scopes are named by
request id; no user id is ever part of a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from . import counters

__all__ = [
    "AgentCancelledError",
    "AgentLimitError",
    "AmbiguousProviderError",
    "CaptiveProviderError",
    "CarrierError",
    "ConcurrentSessionError",
    "ConfigurationError",
    "ContextClosedError",
    "ContextIsolationError",
    "ContextLimitError",
    "ContextMismatchError",
    "DatabasePolicyError",
    "DrainingError",
    "EventLogError",
    "ForbiddenError",
    "InvalidContextError",
    "MissingProviderError",
    "NoContextError",
    "OwnershipError",
    "ProviderCycleError",
    "ProviderError",
    "RingfenceError",
    "RowSecurityError",
    "ScopeCloseError",
    "ScopeInGeneratorError",
    "SessionIsolationError",
    "SharedObjectError",
    "UnknownAgentError",
    "UnknownRunError",
    "UnreachableProviderError",
    "WrongTypeError",
]


class RingfenceError(Exception):
    """
    Base of all errors of ringfence.

    Attributes:
        code: stable, `RF` and three digits; one per class.
        fact: the sentence that says what is the case.
        remedy: the sentence that says what to do.
    """

    code: ClassVar[str] = "RF000"
    fact: str
    remedy: str

    def __init__(self, fact: str, remedy: str = "", **attributes: Any) -> None:
        space = "" if fact.endswith("\n") else " "  # after a list, a line of its own
        super().__init__(f"{fact}{space}{remedy}".rstrip())
        self.fact = fact
        self.remedy = remedy
        for name, value in attributes.items():
            setattr(self, name, value)
        counters.count(f"refused.{self.code}")


class NoContextError(RingfenceError, LookupError):
    """Nobody is bound here: no scope is open, or the open one has no user."""

    code = "RF101"


class ContextClosedError(RingfenceError, RuntimeError):
    """
    The scope has ended, and something that was born in it still uses it.

    Attributes:
        request_id: of the scope that ended.
        opened_at, closed_at: `file:line in function`.
    """

    code = "RF102"
    request_id: str | None = None
    opened_at: str | None = None
    closed_at: str | None = None


class DrainingError(RingfenceError, RuntimeError):
    """The application is shutting down and takes no new requests."""

    code = "RF103"


class ForbiddenError(RingfenceError):
    """The user is known, and may not do this. No `PermissionError`, which is an `OSError`."""

    code = "RF104"


class ContextIsolationError(RingfenceError, RuntimeError):
    """
    Something of one request tree was met in another.

    Attributes:
        owner_request_id: of the root that owns the object.
        request_id: of the scope that tried to use it; `None` if there was none.
    """

    code = "RF200"
    owner_request_id: str | None = None
    request_id: str | None = None


class SharedObjectError(ContextIsolationError):
    """An object marked with `register_shared_object` is inside a context's data, or its session."""

    code = "RF201"


class OwnershipError(ContextIsolationError):
    """An object of another request."""

    code = "RF202"


class SessionIsolationError(ContextIsolationError):
    """A database session of another request."""

    code = "RF203"


class ConcurrentSessionError(ContextIsolationError):
    """One database session used by two tasks at once."""

    code = "RF204"


class ContextMismatchError(ContextIsolationError):
    """A framework was given an identity that is not the ambient one."""

    code = "RF205"


class ScopeInGeneratorError(RingfenceError, RuntimeError):
    """A scope was opened in a generator, which would carry it out to whoever iterates."""

    code = "RF301"


_SEE_EXCEPTIONS = "See `exceptions`; every finaliser was run."


class ScopeCloseError(RingfenceError, ExceptionGroup[Exception]):
    """
    The body of a scope succeeded, and one or more of its finalisers did not.

    All finalisers were run. `exceptions` holds what they raised, in the order they ran;
    `request_id` names the scope.
    """

    code = "RF302"
    request_id: str | None

    def __new__(
        cls, fact: str, exceptions: Sequence[Exception], request_id: str | None = None
    ) -> ScopeCloseError:
        """Make the group; see the class."""
        return super().__new__(cls, f"{fact} {_SEE_EXCEPTIONS}", exceptions)

    def __init__(
        self, fact: str, exceptions: Sequence[Exception], request_id: str | None = None
    ) -> None:
        self.fact = fact
        self.remedy = _SEE_EXCEPTIONS
        self.request_id = request_id
        counters.count(f"refused.{self.code}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fact, self.exceptions, self.request_id)


class CarrierError(RingfenceError, ValueError):
    """A carrier that is missing, malformed, expired or not signed by a known key."""

    code = "RF401"


class EventLogError(RingfenceError, RuntimeError):
    """
    The log of events did not answer, or refused; what it raised is the cause.

    Attributes:
        may_be_stored: whether the event that was emitted may be in the log, and arrive, all the
            same. Emitted once more it would then be there twice.
    """

    code = "RF403"
    may_be_stored: bool = False


class DatabasePolicyError(RingfenceError, RuntimeError):
    """
    The database's rules were not met.

    Attributes:
        ancestor_request_id: of the scope that holds the connection, if that is the matter.
    """

    code = "RF501"
    ancestor_request_id: str | None = None


class ProviderError(RingfenceError, LookupError):
    """
    An object cannot be provided.

    Attributes:
        path: what asked for what, outermost first, each as it is written.
    """

    code = "RF601"
    path: tuple[str, ...] = ()


class MissingProviderError(ProviderError):
    """Nothing provides an object that is asked for."""

    code = "RF602"


class ProviderCycleError(ProviderError):
    """Making an object asks, in the end, for the object itself."""

    code = "RF603"


class CaptiveProviderError(ProviderError):
    """An object that lives long would hold one that does not: of one request, or of one user."""

    code = "RF604"


class AmbiguousProviderError(ProviderError):
    """Several providers give an object, and one is asked for."""

    code = "RF605"


class UnreachableProviderError(ProviderError):
    """An object can be made, but not from where it is asked for: that needs an `await`."""

    code = "RF606"


class InvalidContextError(RingfenceError, ValueError):
    """
    Ids or data that a context may not have.

    Attributes:
        field: the field, or `field['key']` for a place in the data.
        rule: one word for the rule that was broken, such as `placeholder` or `characters`.
    """

    code = "RF701"
    field: str | None = None
    rule: str | None = None


class WrongTypeError(InvalidContextError, TypeError):
    """Not the type it has to be."""

    code = "RF702"


class ContextLimitError(InvalidContextError):
    """Too deep, too many or too large."""

    code = "RF703"


class ConfigurationError(RingfenceError, ValueError):
    """A setting that is wrong, or a use that the application was not set up for."""

    code = "RF801"


class RowSecurityError(ConfigurationError):
    """
    Row-level security is configured, and the database would not keep users apart.

    Attributes:
        findings: one sentence for each thing that is wrong.
    """

    code = "RF802"
    findings: tuple[str, ...] = ()


class AgentLimitError(RingfenceError, RuntimeError):
    """
    An agent may not run, or not go on: too many run, it is too deep, or a budget is used up.

    Attributes:
        limit: `max_running`, `max_running_per_user`, `max_depth`, `depth`, or a name in a budget.
    """

    code = "RF901"
    limit: str | None = None


class UnknownAgentError(RingfenceError, LookupError):
    """No agent is registered by that name."""

    code = "RF902"


class UnknownRunError(RingfenceError, LookupError):
    """No run of the current user has that request id. Another user's has not either."""

    code = "RF903"


class AgentCancelledError(RingfenceError, RuntimeError):
    """
    A run was cancelled by its user. Not a cancellation of the task that waits for it.

    Attributes:
        request_id: of the run.
    """

    code = "RF904"
    request_id: str | None = None
