"""The way in and the way to read: `user_context`, `child_context`, `nobody`, and the readers."""

from __future__ import annotations

import datetime as dt
import inspect
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from . import isolation
from . import settings as defaults
from .checks import checked_data, checked_time
from .context import C, UserExecutionContext, context_of
from .drafts import bound_copy, derive_child, draft_of
from .errors import ConfigurationError, InvalidContextError, WrongTypeError
from .identifiers import _pool, generate_id
from .identity import Identity, frozen_claims
from .refusals import nothing_open
from .scope import RequestScope
from .settings import Settings, default_settings
from .state import CLOSED, NEW, _get

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .protocols import Recipes

__all__ = [
    "child_context",
    "current_context",
    "current_context_or_none",
    "current_scope",
    "current_scope_or_none",
    "managed_user_context",
    "nobody",
    "user_context",
]

Transaction = Literal["commit_before_response", "commit_on_exit", "manual", "read_only"]
TRANSACTIONS = ("commit_before_response", "commit_on_exit", "manual", "read_only")
_new = object.__new__
_now = time.time_ns
_next_id = _pool.pop  # a call less than `generate_id`
_Draft: Any = draft_of(UserExecutionContext)


class RootOptions(TypedDict, total=False):
    """What `user_context` takes besides ids, session, data and fence; rarely given."""

    tenant_id: str | None
    expires_at: dt.datetime | None
    client_request_id: str | None
    claims: Mapping[str, Any] | None
    timeout: float | None
    transaction: Transaction | None
    in_generator: bool


class UserContextOptions(RootOptions, total=False):
    """What `user_context` takes besides the user and the fence."""

    thread_id: str | None
    run_id: str | None
    request_id: str | None
    db_session: Any
    websocket_client_id: str | None
    agent_context: dict[str, Any] | None
    audit_metadata: dict[str, Any] | None


class NobodyOptions(TypedDict, total=False):
    """What `nobody` takes besides the fence."""

    request_id: str | None
    timeout: float | None
    transaction: Transaction | None
    in_generator: bool


# --- readers ----------------------------------------------------------------------------------


def current_context() -> UserExecutionContext:
    """
    The context of the scope that is open here.

    Raises:
        NoContextError: no scope is open, or it belongs to nobody.
        ContextClosedError: the scope that this task, callback or thread holds has ended.
    """
    scope = _get()
    if scope is not None:
        context = scope._context
        if context is not None:
            return context
    return current_scope().context


def current_scope() -> RequestScope:
    """
    The scope that is open here, `nobody()`'s included.

    Raises:
        NoContextError: no scope is open.
        ContextClosedError: the scope that this task, callback or thread holds has ended.
    """
    scope = _get()
    if scope is None:
        raise nothing_open()
    if scope._state is CLOSED:
        raise scope._closed_error()
    return scope


def current_context_or_none() -> UserExecutionContext | None:
    """The context of the scope that is open here, or `None` if there is none."""
    scope = _get()
    if scope is None:
        return None
    context = scope._context
    if context is None and scope.has_user:  # of a boundary, and not read yet
        return context_of(scope, scope._facts)
    return context


def current_scope_or_none() -> RequestScope | None:
    """The scope that is open here, or `None` if there is none."""
    scope = _get()
    return None if scope is None or scope._state is CLOSED else scope


# --- the way in -------------------------------------------------------------------------------


def user_context(
    user_id: str | UserExecutionContext | Identity,
    thread_id: str | None = None,
    run_id: str | None = None,
    request_id: str | None = None,
    db_session: Any = None,
    websocket_client_id: str | None = None,
    agent_context: dict[str, Any] | None = None,
    audit_metadata: dict[str, Any] | None = None,
    *,
    fence: Recipes | None = None,
    **options: Unpack[RootOptions],  # a default costs ten nanoseconds each, given or not
) -> AbstractAsyncContextManager[UserExecutionContext]:
    """
    Open a root scope for one user's request; `async with` it.

    The scope lives until the block ends, on whatever ending. Nothing is inherited from a scope
    that happens to be open, but its fence, if none is given. Ids that you do not give are
    generated. The order is that of `UserExecutionContext.from_request`::

        async with user_context("u-17", thread_id="t-1") as ctx:
            assert current_context() is ctx

    Args:
        user_id: the authenticated user; or an `Identity`; or a context, of which the scope gets
            an equal copy with its own session.
        db_session: an open session of yours, borrowed.
        fence: the application's `Ringfence`; `fence.user_context(...)` is this.
        tenant_id: the customer that the user acts for.
        expires_at: aware time after which the identity is void.
        client_request_id: what the client called the request; never trusted.
        claims: facts for authorisation, kept on the scope; no part of a context.
        timeout: seconds; binds the block to the task that entered it.
        transaction: overrides the database's policy in this scope.
        in_generator: the block stands in a generator which a container enters and leaves within
            one block of its own.

    Raises:
        InvalidContextError: ids or data that are not allowed.
        ScopeInGeneratorError: on entering, directly in a generator.
        SessionIsolationError: on entering, `db_session` is in use by another request.
        DrainingError: on entering, the application is shutting down.
        TimeoutError: on leaving, after `timeout`.
        ScopeCloseError: on leaving, the body succeeded and a finaliser did not.
    """
    if fence is None:
        below = _get()
        if below is not None and below._state is not CLOSED:
            fence = below._recipes
    settings = defaults._default or default_settings() if fence is None else fence.settings
    if type(user_id) is not str:
        if isinstance(user_id, UserExecutionContext):
            _refuse_facts_beside(
                thread_id, run_id, request_id, db_session, websocket_client_id, agent_context,
                audit_metadata, *(options.get(name) for name in _FACTS),
            )  # fmt: skip
            scope = RequestScope(user_id.request_id, None, fence, settings)
            scope._context = bound_copy(user_id, scope)
            _take_over_claims(scope, user_id)
            return _with_options(scope, options)
        if isinstance(user_id, Identity):
            identity, user_id = user_id, user_id.user_id
            options = _with_identity(identity, options)
    rules = settings.id_rules
    are_plain = rules.are_plainly_valid
    if thread_id is not None and run_id is not None:
        if not (
            type(user_id) is str
            and type(thread_id) is str
            and type(run_id) is str
            and are_plain(f"{user_id}\n{thread_id}\n{run_id}")
        ):
            rules.check("user_id", user_id)
            rules.check("thread_id", thread_id)
            rules.check("run_id", run_id)
    else:
        if type(user_id) is not str or user_id not in rules.known:
            rules.learn("user_id", user_id)
        if thread_id is not None:
            rules.check("thread_id", thread_id)
        if run_id is not None:
            rules.check("run_id", run_id)
        try:
            if thread_id is None:
                thread_id = _next_id()
            if run_id is None:
                run_id = _next_id()
        except IndexError:  # the pool has run out
            thread_id = generate_id() if thread_id is None else thread_id
            run_id = generate_id() if run_id is None else run_id
    if request_id is None:
        try:
            request_id = _next_id()
        except IndexError:
            request_id = generate_id()
    else:
        rules.check("request_id", request_id)
    if websocket_client_id is not None:
        rules.check("websocket_client_id", websocket_client_id)
    if db_session is not None:
        isolation.refuse_shared(db_session, "db_session")
    if agent_context is not None:
        agent_context = checked_data(agent_context, "agent_context", settings)
    if audit_metadata is not None:
        audit_metadata = checked_data(audit_metadata, "audit_metadata", settings)
    # Written out, not called: each call costs more than all that it stores.
    scope = _new(RequestScope)
    scope._request_id = request_id
    scope._parent = None
    scope._root = scope
    scope._recipes = fence
    scope._settings = settings
    scope._state = NEW
    scope._extras = None
    context: Any = _Draft()
    context.user_id = user_id
    context.thread_id = thread_id
    context.run_id = run_id
    context.request_id = request_id
    context.websocket_client_id = websocket_client_id
    context.operation_depth = 0
    context.parent_request_id = None
    context.tenant_id = context.expires_at = context.client_request_id = None
    context._session = db_session
    context._created = _now()
    context._agent = agent_context
    context._audit = audit_metadata
    context._operation = None
    context._scope = scope
    if options:
        _take_facts(context, options, settings)
    context.__class__ = settings.context_class or UserExecutionContext
    scope._context = context
    return _with_options(scope, options) if options else scope


def child_context(
    operation_name: str,
    *,
    thread_id: str | None = None,
    run_id: str | None = None,
    websocket_client_id: str | None = None,
    agent_context: dict[str, Any] | None = None,
    audit_metadata: dict[str, Any] | None = None,
    session: Any = None,
    timeout: float | None = None,
    transaction: Transaction | None = None,
    in_generator: bool = False,
) -> AbstractAsyncContextManager[UserExecutionContext]:
    """
    Open a scope beneath the one that is open here, for one operation of the same user.

    It has its own request id, data and resources, and ends no later than its parent. User and
    tenant never change down a tree: another user is another root::

        async with child_context("data_analysis", agent_context={"step": 1}) as child:
            assert child.operation_depth == 1

    Args:
        operation_name: what it does.
        thread_id, run_id: once they are known, as when they come in a request's body.
        websocket_client_id: which of the user's own connections the work is for, as a request
            may say of itself; it finds nobody among another user's.
        agent_context, audit_metadata: additions to copies of the parent's.
        session: `None` for its own if there is a database, else the parent's explicit one;
            `"own"` insists on one of its own; `"share"` is the parent's; or an open session.
        timeout: seconds; the parent's deadline holds too.

    Raises:
        NoContextError: no scope is open here, or it belongs to nobody.
        ContextClosedError: the scope that this task holds has ended.
        InvalidContextError: a blank name, wrong ids or data.
        ContextLimitError: deeper than `Settings.max_depth`.
        ConfigurationError: `session="own"` without a database.
    """
    parent = _get()
    context = None if parent is None else parent._context
    if parent is None or context is None:
        parent = current_scope()
        context = parent.context
    recipes = parent._recipes
    database = None if recipes is None else recipes.database
    explicit = None
    if session is None:
        if database is None:
            explicit = context._session
    elif session == "own":
        if database is None:
            raise ConfigurationError(
                "There is no database to open a session of its own from.",
                "Give the fence one: `Ringfence(database=Database(...))`.",
            )
    elif session == "share":
        explicit = context._session
    elif isinstance(session, str):
        raise ConfigurationError(
            f"`session` cannot be {session!r}.",
            'It is `None`, `"own"`, `"share"`, or an open session.',
        )
    else:
        isolation.refuse_shared(session, "db_session")
        explicit = session
    settings = parent._settings
    try:
        request_id = _next_id()
    except IndexError:
        request_id = generate_id()
    scope: RequestScope = _new(RequestScope)
    scope._request_id = request_id
    scope._parent = parent
    scope._root = parent._root
    scope._recipes = recipes
    scope._settings = settings
    scope._state = NEW
    scope._extras = None
    scope._context = derive_child(
        context,
        operation_name,
        settings,
        agent_context,
        audit_metadata,
        thread_id,
        run_id,
        explicit,
        request_id,
        scope,
    )
    if websocket_client_id is not None:
        settings.id_rules.check("websocket_client_id", websocket_client_id)
        object.__setattr__(scope._context, "websocket_client_id", websocket_client_id)
    if session is not None and session == "share":
        scope._more().session_mode = "share"
    if timeout is not None or transaction is not None or in_generator:
        block: RootOptions = {
            "timeout": timeout,
            "transaction": transaction,
            "in_generator": in_generator,
        }
        return _with_options(scope, block)
    return scope


def nobody(
    *,
    request_id: str | None = None,
    timeout: float | None = None,
    transaction: Transaction | None = None,
    in_generator: bool = False,
    fence: Recipes | None = None,
) -> AbstractAsyncContextManager[RequestScope]:
    """
    Open a root scope without a user, as a login route needs.

    Resources, finalisers and a session work; `current_scope()` returns it, and so does the
    block; `current_context()` and `child_context` raise `NoContextError`.

    Args:
        request_id: generated if not given.
        timeout, transaction, in_generator, fence: as in `user_context`.
    """
    if fence is None:
        below = _get()
        if below is not None and below._state is not CLOSED:
            fence = below._recipes
    settings = defaults._default or default_settings() if fence is None else fence.settings
    if request_id is None:
        request_id = generate_id()
    else:
        settings.id_rules.check("request_id", request_id)
    scope = RequestScope(request_id, None, fence, settings)
    if timeout is not None or transaction is not None or in_generator:
        block: RootOptions = {
            "timeout": timeout,
            "transaction": transaction,
            "in_generator": in_generator,
        }
        return _with_options(scope, block)
    return scope


_FACTS = ("tenant_id", "expires_at", "client_request_id")
_OPTIONS = frozenset(RootOptions.__annotations__)


def root_of(identity: Identity, fence: Recipes, client_request_id: str | None) -> RequestScope:
    """
    `user_context(identity, fence=fence)`, but its context is made when it is first read.

    For boundaries: many requests are answered without anybody's asking who it is, and making
    the context is half of what opening a scope costs. What a context must not hold is refused
    here and now.
    """
    if identity.expires_at is not None and identity.is_expired():
        raise _expired()
    settings = fence.settings
    rules, user_id = settings.id_rules, identity.user_id
    if type(user_id) is not str or user_id not in rules.known:
        rules.learn("user_id", user_id)
    if identity.tenant_id is not None:
        rules.check("tenant_id", identity.tenant_id)
    expires_at = identity.expires_at
    if expires_at is not None:
        expires_at = checked_time("expires_at", expires_at)
    try:
        request_id = _next_id()
    except IndexError:
        request_id = generate_id()
    scope = _new(RequestScope)
    scope._request_id = request_id
    scope._parent = None
    scope._root = scope
    scope._recipes = fence
    scope._settings = settings
    scope._state = NEW
    scope._extras = None
    scope._context = None
    scope._facts = (user_id, identity.tenant_id, expires_at, client_request_id, _now())
    if identity.claims:
        scope._more().claims = identity.claims
    return scope


def _expired() -> InvalidContextError:
    return InvalidContextError(
        "This identity has expired.", "Authenticate again.", field="expires_at", rule="expired"
    )


def _with_identity(identity: Identity, options: RootOptions) -> RootOptions:
    """The facts of an identity among the options; what is given beside it wins."""
    if identity.is_expired():
        raise _expired()
    given: Any = {name: value for name, value in options.items() if value is not None}
    facts: Any = {
        "tenant_id": identity.tenant_id,
        "expires_at": identity.expires_at,
        "claims": identity.claims,
    }
    merged: RootOptions = facts | given
    return merged


def _take_facts(draft: Any, options: RootOptions, settings: Settings) -> None:
    """Write the facts among the options on a draft, checked."""
    for name in ("tenant_id", "client_request_id"):
        value: Any = options.get(name)
        if value is not None:
            setattr(draft, name, settings.id_rules.check(name, value))
    draft.expires_at = checked_time("expires_at", options.get("expires_at"))


def _with_options(scope: RequestScope, options: RootOptions) -> RequestScope:
    """A scope that nobody has entered yet, with the options that belong to it."""
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    timeout, transaction = options.get("timeout"), options.get("transaction")
    claims, in_generator = options.get("claims"), options.get("in_generator", False)
    if not claims and timeout is None and transaction is None and not in_generator:
        return scope
    extras = scope._more()
    extras.in_generator = in_generator
    if claims:
        extras.claims = frozen_claims(claims)
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidContextError(
                f"`timeout` must be seconds above 0, not {timeout!r}.",
                "Leave it out for no limit.",
                field="timeout",
                rule="range",
            )
        extras.timeout = timeout
    if transaction is not None and transaction not in TRANSACTIONS:
        raise ConfigurationError(
            f"`transaction` cannot be {transaction!r}.",
            "It is one of " + ", ".join(f"`{name}`" for name in TRANSACTIONS) + ".",
        )
    extras.transaction = transaction
    return scope


def _take_over_claims(scope: RequestScope, context: UserExecutionContext) -> None:
    """Its session may have been claimed when it was verified, before any scope was open."""
    if context._session is not None and not isinstance(context._scope, RequestScope):
        origin = context._claimant()
        scope._more().claimant = isolation.Claimant(context.request_id, origin)


def _refuse_facts_beside(*facts: object) -> None:
    if any(fact is not None for fact in facts):
        raise ConfigurationError(
            "A context already says who, which thread, run and request, and with which data.",
            "Pass the context alone, or the ids.",
        )


def managed_user_context(ctx: C, cleanup_db_session: bool = True) -> AbstractAsyncContextManager[C]:
    """
    Enter a context of your own making, and close its explicit session on every ending.

    The contract's verb for code that makes contexts by hand. The session is rolled back first
    if the body failed. A child's session is its parent's, and is left alone. The context that is
    open here, and a child of it, are entered beneath it.

    Args:
        ctx: the context to enter; the block gives an equal one.
        cleanup_db_session: whether to close its session.

    Raises:
        WrongTypeError: not a context.
    """
    if not isinstance(ctx, UserExecutionContext):
        raise WrongTypeError(
            f"Expected a `UserExecutionContext`, not a `{type(ctx).__name__}`.",
            "Pass the context itself.",
            rule="type",
        )
    below = current_scope_or_none()
    here = below.request_id if below is not None and below.has_user else None
    is_child = here is not None and here in (ctx.parent_request_id, ctx.request_id)
    fence = None if below is None else below._recipes
    settings = defaults._default or default_settings() if fence is None else fence.settings
    scope = RequestScope(ctx.request_id, below if is_child else None, fence, settings)
    scope._context = bound_copy(ctx, scope)
    if not is_child:
        _take_over_claims(scope, ctx)
    session = ctx._session
    if cleanup_db_session and session is not None and not ctx.has_inherited_session:
        scope._finalisers().add(lambda: _close_session(scope, session), "close db_session")
    return scope


async def _close_session(scope: RequestScope, session: Any) -> None:
    try:
        if not scope.ended_well and hasattr(session, "rollback"):
            await _settled(session.rollback())
    finally:
        await _settled(session.close())


async def _settled(result: Any) -> None:
    if inspect.isawaitable(result):
        await result
