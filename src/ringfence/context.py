"""UserExecutionContext: the facts of one request, as an immutable value."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, cast, overload

import attrs

from . import isolation
from .checks import checked_data, checked_depth, checked_time
from .copies import mutable_objects
from .drafts import bound_copy, derive_child, draft_of
from .errors import (
    ContextIsolationError,
    InvalidContextError,
    SessionIsolationError,
    WrongTypeError,
)
from .identifiers import generate_id
from .isolation import Claimant
from .records import json_ready, request_facts
from .settings import Settings, default_settings
from .state import CLOSED

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = ["UserExecutionContext", "validate_user_context"]

_first_touch = threading.RLock()  # what the collector calls may come back
Facts = tuple[str, str | None, dt.datetime | None, str | None, int]
"""User, tenant, expiry, what the client called the request, when it began (epoch nanoseconds)."""


@attrs.frozen(init=False, eq=False, repr=False, order=False, getstate_setstate=False)
class UserExecutionContext:
    """
    Who, which thread, run and request, how deep, and with what working data.

    An immutable value: assignment raises, and so do `attrs.evolve`, `copy.replace` and
    `dataclasses.replace`, which would swap a user in one line. It may be kept and read as long
    as you like; what belongs to the open scope, `db_session`, is refused once that has ended.

    >>> ctx = UserExecutionContext("u-17", "t-1", "r-1", agent_context={"step": 1})
    >>> ctx.user_id, ctx.operation_depth, ctx.agent_context
    ('u-17', 0, {'step': 1})

    Equal if facts and data are equal and the session is the same object. Equality is never
    used to decide ownership.

    Args:
        user_id, thread_id, run_id: ids; see `Settings.id_pattern` for what they may be.
        request_id: generated if not given.
        db_session: an open session, borrowed; never in the repr, never serialised.
        websocket_client_id: the connection that the request came from.
        created_at: aware time; now if not given.
        agent_context: working data, copied in.
        audit_metadata: facts for the audit trail, copied in.
        operation_depth: 0 for a root, one more for each child.
        parent_request_id: of the parent.
        tenant_id: the customer that the user acts for.
        expires_at: aware time after which the identity is void.
        client_request_id: what the client called the request; never trusted.

    Raises:
        InvalidContextError: naming the field and the rule (`WrongTypeError`,
            `ContextLimitError` where they fit).
        SharedObjectError: a registered shared object in the data or as session.
    """

    user_id: str = attrs.field(init=False)
    thread_id: str = attrs.field(init=False)
    run_id: str = attrs.field(init=False)
    request_id: str = attrs.field(init=False)
    websocket_client_id: str | None = attrs.field(init=False)
    operation_depth: int = attrs.field(init=False)
    parent_request_id: str | None = attrs.field(init=False)
    tenant_id: str | None = attrs.field(init=False)
    expires_at: dt.datetime | None = attrs.field(init=False)
    client_request_id: str | None = attrs.field(init=False)
    _session: Any = attrs.field(init=False)
    _created: int | dt.datetime = attrs.field(init=False)  # nanoseconds until somebody asks
    _agent: dict[str, Any] | None = attrs.field(init=False)  # made on first use
    _audit: dict[str, Any] | None = attrs.field(init=False)
    _operation: tuple[str, str, bool] | None = attrs.field(init=False)
    # of a child: its own name, the parent's, and whether it has the parent's session
    _scope: RequestScope | Claimant | None = attrs.field(init=False)  # the tree it belongs to

    def __init__(
        self,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None = None,
        db_session: Any = None,
        websocket_client_id: str | None = None,
        created_at: dt.datetime | None = None,
        agent_context: dict[str, Any] | None = None,
        audit_metadata: dict[str, Any] | None = None,
        operation_depth: int = 0,
        parent_request_id: str | None = None,
        *,
        tenant_id: str | None = None,
        expires_at: dt.datetime | None = None,
        client_request_id: str | None = None,
    ) -> None:
        if hasattr(self, "_scope"):
            raise InvalidContextError(
                "This context was made already.", "Make another one.", rule="immutable"
            )
        settings = default_settings()
        check = settings.id_rules.check
        isolation.refuse_shared(db_session, "db_session")
        cls = type(self)
        object.__setattr__(self, "__class__", draft_of(cls))
        draft: Any = self  # writable, until its class is back
        try:
            draft.user_id = check("user_id", user_id)
            draft.thread_id = check("thread_id", thread_id)
            draft.run_id = check("run_id", run_id)
            draft.request_id = (
                generate_id() if request_id is None else check("request_id", request_id)
            )
            draft.websocket_client_id = _optional(check, "websocket_client_id", websocket_client_id)
            draft.operation_depth = checked_depth(operation_depth, settings)
            draft.parent_request_id = _optional(check, "parent_request_id", parent_request_id)
            draft.tenant_id = _optional(check, "tenant_id", tenant_id)
            draft.expires_at = checked_time("expires_at", expires_at)
            draft.client_request_id = _optional(check, "client_request_id", client_request_id)
            draft._session = db_session
            draft._created = checked_time("created_at", created_at) or time.time_ns()
            draft._agent = checked_data(agent_context, "agent_context", settings)
            draft._audit = checked_data(audit_metadata, "audit_metadata", settings)
            draft._operation = None
            draft._scope = None
        finally:
            draft.__class__ = cls

    # --- reading ------------------------------------------------------------------------------

    @property
    def created_at(self) -> dt.datetime:
        """When it was made: aware, UTC."""
        created = self._created
        if isinstance(created, int):
            created = dt.datetime.fromtimestamp(created / 1e9, dt.UTC)
            object.__setattr__(self, "_created", created)
        return created

    @property
    def agent_context(self) -> dict[str, Any]:
        """Working data of this context alone; yours to change."""
        data = self._agent
        return self._touch("_agent") if data is None else data

    @property
    def audit_metadata(self) -> dict[str, Any]:
        """Facts for the audit trail of this context alone."""
        data = self._audit
        return self._touch("_audit") if data is None else data

    @property
    def db_session(self) -> Any:
        """
        The session that was given, else the scope's own, opened on first use, else `None`.

        Raises:
            ContextClosedError: the scope has ended.
        """
        scope = self._scope
        if scope is None or isinstance(scope, Claimant):
            return self._session
        return scope.db_session

    @property
    def has_db_session(self) -> bool:
        """Whether `db_session` would give one; opens nothing."""
        if self._session is not None:
            return True
        scope = self._scope
        return not (scope is None or isinstance(scope, Claimant)) and scope.has_db_session

    @property
    def has_inherited_session(self) -> bool:
        """Whether its explicit session is its parent's, who closes it."""
        return self._operation is not None and self._operation[2]

    def _touch(self, slot: str) -> dict[str, Any]:
        with _first_touch:  # two threads must not make two dictionaries
            data: dict[str, Any] | None = getattr(self, slot)
            if data is None:
                data = self._lineage(slot)
                object.__setattr__(self, slot, data)
            return data

    def _lineage(self, slot: str) -> dict[str, Any]:
        """What a child's data says about its descent; empty for a root."""
        if self._operation is None:
            return {}
        name, parent, _ = self._operation
        if slot == "_agent":
            return {
                "parent_operation": parent,
                "operation_name": name,
                "operation_depth": self.operation_depth,
            }
        return {
            "parent_request_id": self.parent_request_id,
            "operation_name": name,
            "operation_depth": self.operation_depth,
            "child_created_at": self.created_at.isoformat(),
        }

    # --- making others ------------------------------------------------------------------------

    @classmethod
    def from_request(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None = None,
        db_session: Any = None,
        websocket_client_id: str | None = None,
        agent_context: dict[str, Any] | None = None,
        audit_metadata: dict[str, Any] | None = None,
    ) -> Self:
        """A root context; the constructor with the fields that a request has."""
        return cls(
            user_id,
            thread_id,
            run_id,
            request_id,
            db_session,
            websocket_client_id,
            agent_context=agent_context,
            audit_metadata=audit_metadata,
        )

    @classmethod
    def from_fastapi_request(
        cls,
        request: Any,
        user_id: str,
        thread_id: str,
        run_id: str,
        db_session: Any = None,
        websocket_client_id: str | None = None,
    ) -> Self:
        """
        A root context that records, in `audit_metadata`, where the request came from.

        Any Starlette request serves. Facts are cut at 512 characters; the URL is kept without
        its query, which may hold secrets. The request id is always generated.
        """
        return cls(
            user_id,
            thread_id,
            run_id,
            None,
            db_session,
            websocket_client_id,
            audit_metadata=request_facts(request),
        )

    def create_child_context(
        self,
        operation_name: str,
        additional_agent_context: dict[str, Any] | None = None,
        additional_audit_metadata: dict[str, Any] | None = None,
    ) -> Self:
        """
        A child: same user, thread, run, session and connection; new request id, one deeper.

        The data are copies, with the additions, and with keys that say where it descends from;
        those cannot be overwritten. Makes a value only; to open a scope for it, use
        `child_context`.

        Raises:
            InvalidContextError: a blank operation name or wrong additions.
            ContextLimitError: deeper than `Settings.max_depth`.
        """
        if self._scope is None:  # a tree of its own begins here
            object.__setattr__(self, "_scope", Claimant(self.request_id))
        child = derive_child(
            self,
            operation_name,
            self._settings,
            additional_agent_context,
            additional_audit_metadata,
            None,
            None,
            self._session,
            generate_id(),
            self._scope,
        )
        return cast("Self", child)

    def with_db_session(self, db_session: Any) -> Self:
        """A copy with this session; same request id. Raises `InvalidContextError` for `None`."""
        if db_session is None:
            raise InvalidContextError(
                "`db_session` is None.", "Pass an open session.", field="db_session", rule="blank"
            )
        isolation.refuse_shared(db_session, "db_session")
        changed = self.__copy__()
        object.__setattr__(changed, "_session", db_session)
        if changed._operation is not None:
            object.__setattr__(changed, "_operation", (*changed._operation[:2], False))
        return changed

    def with_websocket_connection(self, connection_id: str) -> Self:
        """A copy with this connection id; same request id."""
        self._settings.id_rules.check("websocket_client_id", connection_id)
        changed = self.__copy__()
        object.__setattr__(changed, "websocket_client_id", connection_id)
        return changed

    # --- what it says of itself ---------------------------------------------------------------

    def verify_isolation(self) -> bool:
        """
        Check that nothing in this context's data, nor its session, belongs to another tree.

        Claims every mutable object for its own tree while at it: until the root scope closes,
        or, for a context that was never entered, as long as one of the tree lives.

        Raises:
            SharedObjectError: an object registered as shared.
            SessionIsolationError: the session is claimed by another tree.
            ContextIsolationError: so is an object in the data.
        """
        claimant, limit = self._claimant(), self._settings.max_owned
        if self._session is not None:
            isolation.refuse_shared(self._session, "db_session")
            isolation.registry.claim(self._session, claimant, error=SessionIsolationError)
        for field, data in (("agent_context", self._agent), ("audit_metadata", self._audit)):
            if data:
                for item in mutable_objects(data):
                    isolation.refuse_shared(item, field)
                    isolation.registry.claim(
                        item, claimant, limit=limit, error=ContextIsolationError
                    )
        return True

    @property
    def _settings(self) -> Settings:
        scope = self._scope
        if scope is None or isinstance(scope, Claimant):
            return default_settings()
        return scope.settings

    def _claimant(self) -> Claimant:
        scope = self._scope
        if scope is None:
            scope = Claimant(self.request_id)
            object.__setattr__(self, "_scope", scope)
        return scope if isinstance(scope, Claimant) else scope.root.claimant

    def to_dict(self) -> dict[str, Any]:
        """
        Everything but the session, ready for JSON whatever the data holds.

        Values under keys such as `password`, `api_key`, `access_token` or `cookie` are replaced
        by `"[redacted]"`; objects that JSON does not know are named by their type.
        """
        return {
            "user_id": self.user_id,
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "request_id": self.request_id,
            "websocket_client_id": self.websocket_client_id,
            "created_at": self.created_at.isoformat(),
            "agent_context": json_ready(self.agent_context),
            "audit_metadata": json_ready(self.audit_metadata),
            "operation_depth": self.operation_depth,
            "parent_request_id": self.parent_request_id,
            "has_db_session": self.has_db_session,
            "tenant_id": self.tenant_id,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "client_request_id": self.client_request_id,
        }

    def get_correlation_id(self) -> str:
        """The first eight characters of user, thread, run and request id, joined by `:`."""
        return ":".join(
            value[:8] for value in (self.user_id, self.thread_id, self.run_id, self.request_id)
        )

    def get_audit_trail(self) -> dict[str, Any]:
        """The facts that an audit record wants, ready for JSON."""
        age = dt.datetime.now(dt.UTC) - self.created_at
        return {
            "user_id": self.user_id,
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "request_id": self.request_id,
            "correlation_id": self.get_correlation_id(),
            "operation_depth": self.operation_depth,
            "parent_request_id": self.parent_request_id,
            "has_db_session": self.has_db_session,
            "has_websocket": self.websocket_client_id is not None,
            "audit_metadata": json_ready(self.audit_metadata),
            "context_age_seconds": age.total_seconds(),
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(request_id={self.request_id!r}, thread_id={self.thread_id!r}, "
            f"run_id={self.run_id!r}, operation_depth={self.operation_depth})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UserExecutionContext):
            return NotImplemented
        return self is other or (
            self._session is other._session
            and self._facts() == other._facts()
            and self.agent_context == other.agent_context
            and self.audit_metadata == other.audit_metadata
        )

    def __hash__(self) -> int:
        return hash(self.request_id)

    def _facts(self) -> tuple[object, ...]:
        return (
            self.user_id, self.thread_id, self.run_id, self.request_id, self.websocket_client_id,
            self.created_at, self.operation_depth, self.parent_request_id, self.tenant_id,
            self.expires_at, self.client_request_id,
        )  # fmt: skip

    # --- copying ------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        """A copy with copied data, of the same tree, bound to no scope."""
        scope = self._scope
        return cast("Self", bound_copy(self, scope if isinstance(scope, Claimant) else None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __replace__(self, /, **changes: Any) -> NoReturn:
        raise WrongTypeError(
            "A context cannot be replaced field by field: identity, data and session belong "
            "together.",
            "Open another `user_context`, or use `with_db_session` and the like.",
            rule="immutable",
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise WrongTypeError(
            "A context cannot be pickled: its identity would travel unsigned.",
            "Send what the job needs through a signed carrier, and open `user_context` there "
            "from what the carrier proves.",
            rule="pickle",
        )


def _optional(check: Callable[[str, object], str], field: str, value: str | None) -> str | None:
    return None if value is None else check(field, value)


def context_of(scope: RequestScope, facts: Facts) -> UserExecutionContext | None:
    """
    The context of a root that had none yet, made of `facts`; `None` if it has ended meanwhile.

    Two threads that read it first at once get the same. It is made before the lock is taken: the
    collector may run meanwhile, and what it collects may log, which reads the context.
    """
    made = _root_context(scope, *facts)
    with _first_touch:
        if scope._context is None:
            scope._context = made
        if scope._state is CLOSED:
            scope._context = None
        return scope._context


def _root_context(
    scope: RequestScope,
    user_id: str,
    tenant_id: str | None,
    expires_at: dt.datetime | None,
    client_request_id: str | None,
    created: int,
) -> UserExecutionContext:
    draft: Any = draft_of(UserExecutionContext)()
    draft.user_id = user_id
    draft.thread_id = generate_id()
    draft.run_id = generate_id()
    draft.request_id = scope.request_id
    draft.operation_depth = 0
    draft.tenant_id = tenant_id
    draft.expires_at = expires_at
    draft.client_request_id = client_request_id
    draft.websocket_client_id = draft.parent_request_id = None
    draft._session = draft._agent = draft._audit = draft._operation = None
    draft._created = created
    draft._scope = scope
    draft.__class__ = scope._settings.context_class or UserExecutionContext
    context: UserExecutionContext = draft
    return context


C = TypeVar("C", bound=UserExecutionContext)


@overload
def validate_user_context(obj: C) -> C: ...


@overload
def validate_user_context(obj: object) -> UserExecutionContext: ...


def validate_user_context(obj: object) -> UserExecutionContext:
    """
    Return `obj` if it is a context whose isolation holds.

    Raises:
        WrongTypeError: not a `UserExecutionContext` (a `TypeError` too).
        ContextIsolationError: something in it belongs to another tree.
    """
    if not isinstance(obj, UserExecutionContext):
        raise WrongTypeError(
            f"Expected a `UserExecutionContext`, not a `{type(obj).__name__}`.",
            "Pass the context itself, for example `current_context()`.",
            rule="type",
        )
    obj.verify_isolation()
    return obj
