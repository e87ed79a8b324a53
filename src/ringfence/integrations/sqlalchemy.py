"""
Database sessions of one request each, by SQLAlchemy's asyncio extension.

Every use of a session is checked: statements, the unit of work, transactions, lazy loading, and
what was taken from it and held, such as its connection or its sync session. Not checked, for it
is data or lies beneath SQLAlchemy: attributes that are loaded (the first change in a clean
session is noticed, later ones are not), rows that were fetched or are fetched from a statement
that was checked, look-ups such as `object_session`, and a driver's connection that somebody holds.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

try:
    import greenlet  # type: ignore[import-untyped]  # noqa: F401 (asyncio needs it)
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_sessionmaker,
    )
    from sqlalchemy.orm import Session, SessionTransactionOrigin
except ImportError as error:
    raise ImportError(
        'ringfence.integrations.sqlalchemy needs SQLAlchemy: pip install "ringfence[sqlalchemy]"'
    ) from error

from .. import counters
from ..current import TRANSACTIONS, Transaction, current_scope
from ..errors import ConfigurationError, DatabasePolicyError
from ..offers import offer
from ..protocols import RowSecurity
from ..scope import RequestScope
from ..tasks import is_on_trio
from ._guarded_session import guard, has_changes, unguard
from ._session_endings import (
    close_settled,
    discard,
    own_sessions,
    roll_back_all,
    settle,
    until_idle,
)
from ._session_guard import SessionGuard, guard_of
from ._session_handover import note_unsaved, refuse_unsaved

__all__ = ["Database", "released_connection", "session_owner"]

_COMMITTING = ("commit_before_response", "commit_on_exit")


def _succeeded(status: int) -> bool:
    return status < 400


class Database:
    """
    Gives each scope its own `AsyncSession`, guards it, and settles its transaction.

    Made once, with the application's fence; it opens nothing by itself and is bound to no event
    loop::

        engine = create_async_engine(url)
        fence = Ringfence(database=Database(async_sessionmaker(engine)))

        async with fence.user_context("u-17") as ctx:
            await ctx.db_session.execute(...)  # committed when the block ends well

    A session is opened on first use and takes a connection with its first statement. Only the
    request tree it was opened in may use it, one task at a time. Children have sessions of their
    own, so that tools may run in parallel: they do not see what the parent has not committed.

    What becomes of the transaction is the policy of its scope: `transaction=` where it was
    given, else `policy` for the root of an HTTP request, else `policy_outside`:

    - `commit_before_response`: the middleware calls `before_response`, which commits the sessions
      that are open in the tree, or rolls them back. What is written after that, and everything
      where there is no response, is committed at the end of a scope that ended well.
    - `commit_on_exit`: committed at the end of a scope that ended well.
    - `manual`: rolled back at the end, but for what the application committed.
    - `read_only`: rolled back at the end; writing raises `DatabasePolicyError`. What writes is
      known by a statement's text, so not what a function does that a SELECT calls; what must
      hold is given to the database, as a role that may only read.

    A scope that was cancelled, failed, lost its client before the end of the answer, or was
    closed by its parent is rolled back.

    What is loaded stays readable, after the scope too. What is not cannot be loaded by plain
    attribute access: SQLAlchemy raises `MissingGreenlet`, with the remedies, or
    `DetachedInstanceError` once the session is closed. Load it beforehand, as by `selectinload`.

    A connection that is held while nothing goes over it, as while a model thinks, is one that
    other requests wait for. Counted for each that was given back, in microseconds:
    `connection.held_us` and, of that, `connection.idle_us`; `connection.held` is how many. A
    stretch longer than `Settings.idle_connection_warning` is logged with the request's id. What
    follows a streamed statement, up to the next one, is not called idle: nothing says when rows
    are fetched.

    Args:
        sessionmaker: its class and arguments are kept, a subclass of `AsyncSession`, SQLModel's,
            or a `sync_session_class` included; only `close_resets_only` becomes false.
        policy: of HTTP requests.
        policy_outside: elsewhere, and in child scopes.
        commit_when: whether a response with this status commits.
        expire_on_commit: instead of the maker's, which cannot tell its default from your wish.
            Expired attributes cannot be loaded again by plain attribute access in async code.
        row_level_security: such as `integrations.postgres.RowLevelSecurity`. Sessions then need
            an open fence, for that is when the database is checked.

    Raises:
        ConfigurationError: not an `async_sessionmaker`, or an unknown policy.
    """

    def __init__(
        self,
        sessionmaker: async_sessionmaker[Any],
        *,
        policy: Transaction = "commit_before_response",
        policy_outside: Transaction = "commit_on_exit",
        commit_when: Callable[[int], bool] = _succeeded,
        expire_on_commit: bool = False,
        row_level_security: RowSecurity | None = None,
    ) -> None:
        if not isinstance(sessionmaker, async_sessionmaker):
            raise ConfigurationError(
                f"`Database` was given a `{type(sessionmaker).__name__}`.",
                "Give it an `async_sessionmaker(engine)`.",
            )
        self.sessionmaker = sessionmaker
        self.policy = _checked(policy)
        self.policy_outside = _checked(policy_outside)
        self.commit_when = commit_when
        self.expire_on_commit = expire_on_commit
        self.row_level_security = row_level_security
        offer(sessionmaker.class_, _session_of, _has_session)
        self._requests: weakref.WeakSet[RequestScope] = weakref.WeakSet()

    async def start(self) -> None:
        """
        See that the database keeps users apart, if row-level security is configured.

        Called when the fence opens, before it serves.

        Raises:
            RowSecurityError: it does not; `findings` says where.
            ConfigurationError: the session maker names no engine that could be looked at.
        """
        if self.row_level_security is not None:
            _refuse_trio()
            await self.row_level_security.start(_engines_of(self.sessionmaker))

    # --- opening ------------------------------------------------------------------------------

    def open_session(self, scope: RequestScope) -> AsyncSession:
        """
        A new guarded session of this scope, closed when that ends.

        Called by the scope, once; use `current_context().db_session`.

        Raises:
            ConfigurationError: under trio; or with row-level security, and the fence is not open.
        """
        _refuse_trio()
        session: AsyncSession = self.sessionmaker(
            expire_on_commit=self.expire_on_commit, close_resets_only=False
        )
        if self.row_level_security is not None:
            self._bind(self.row_level_security, scope, session)
        own = guard(session.sync_session, scope, lambda: self._policy_of(scope) == "read_only")
        scope.callback(self._close_session, scope, session, own)
        return session

    def adopt_session(self, scope: RequestScope, session: Any) -> None:
        """
        Guard a session that was given, until the root of `scope` closes; then it is as before.

        It stays its giver's: never committed, rolled back or closed here. Anything that is not
        an `AsyncSession`, such as a mock, is left alone.

        Raises:
            ConfigurationError: with row-level security, and the fence is not open.
            SessionIsolationError: it is the session of another open request, or holds the unsaved
                work of another user.
            ContextClosedError: it is the session of a scope that has ended.
        """
        if not issubclass(type(session), AsyncSession):  # `isinstance` believes a mock's `spec`
            return
        sync_session = session.sync_session
        known = guard_of(sync_session)
        if known is not None:
            if known.is_closed:
                raise known.scope._closed_error()
            if known.owner is scope.root:
                return
            if known.owner.state != "closed":
                raise known.foreign(scope)
            unguard(sync_session)
        refuse_unsaved(sync_session, scope)
        if self.row_level_security is not None:
            self._bind(self.row_level_security, scope, session)
        own = guard(sync_session, scope, lambda: scope.transaction == "read_only")
        # Not by `callback`: the scope that is being entered is not the current one yet.
        scope.root._finalisers().add(lambda: self._release(sync_session, own), "release db_session")

    def _release(self, sync_session: Session, own: SessionGuard) -> None:
        unguard(sync_session)
        note_unsaved(sync_session, own)
        if self.row_level_security is not None:
            self.row_level_security.release(sync_session)

    def _bind(
        self, row_level_security: RowSecurity, scope: RequestScope, session: AsyncSession
    ) -> None:
        if scope._recipes is None or not scope._recipes.is_open:
            raise ConfigurationError(
                "Row-level security is configured, and this fence is not open: nobody has seen "
                "that the database keeps users apart.",
                "Give the application `lifespan=fence.lifespan`, or use `async with fence:`.",
            )
        row_level_security.bind(scope, session.sync_session)

    # --- settling -----------------------------------------------------------------------------

    def serve(self, root: RequestScope) -> None:
        """Note that this root is that of an HTTP request: `policy` holds in it."""
        self._requests.add(root)

    async def before_response(self, root: RequestScope, status: int) -> None:
        """
        Commit the sessions that are open in this tree, or roll them back, as `status` says.

        Those opened first go first. Left alone: explicit sessions, scopes whose own
        `transaction=` is another policy, and a session that a task is using at this moment,
        which is counted (`session.busy_before_response`) and settled when its scope ends.

        Raises:
            Exception: what a commit raised; all that was not committed by then is rolled back.
        """
        self._requests.add(root)
        open_sessions = self._to_settle(root)
        commits = self.commit_when(status)
        while open_sessions:
            session, own = open_sessions.pop(0)
            try:
                await settle(session, own, commits)
            except Exception as error:
                await roll_back_all([(session, own), *open_sessions], error)
                raise

    def _to_settle(self, root: RequestScope) -> list[tuple[AsyncSession, SessionGuard]]:
        found = []
        for scope, session, own in own_sessions(root):
            if own.is_closed or (scope.transaction or self.policy) != "commit_before_response":
                continue
            if own.is_busy:
                counters.count("session.busy_before_response")
                continue
            found.append((session, own))
        return sorted(found, key=lambda pair: pair[1].number)

    def _policy_of(self, scope: RequestScope) -> str:
        if scope.transaction is not None:
            return scope.transaction
        return self.policy if scope in self._requests else self.policy_outside

    def _close_session(
        self, scope: RequestScope, session: AsyncSession, own: SessionGuard
    ) -> Coroutine[Any, Any, None] | None:
        """The finaliser of an own session; without a transaction there is nothing to await."""
        own.close()
        scope._more().session = None  # a scope and its session would be a cycle
        with own.served():
            if (
                own.is_busy
                or own.held()
                or session.in_transaction()
                or type(session).close is not AsyncSession.close
            ):
                return self._end_session(scope, session, own)
            session.sync_session.close()
        return None

    async def _end_session(
        self, scope: RequestScope, session: AsyncSession, own: SessionGuard
    ) -> None:
        commits = scope.ended_well and self._policy_of(scope) in _COMMITTING
        is_given_back = False
        try:
            await until_idle(own, scope.settings.finaliser_timeout / 2)
            own.forget()
            try:
                await settle(session, own, commits)
            except Exception:  # which leaves a sound connection, as a rule
                is_given_back = await close_settled(session, own)
                raise
            is_given_back = await close_settled(session, own)
        finally:
            own.forget()
            if not is_given_back:
                with own.served():
                    await discard(session, own)
                own.forget()


def session_owner(session: AsyncSession | Session) -> RequestScope | None:
    """
    The root scope that owns a guarded session; `None` for any other.

    For listeners that must not trust the ContextVar, such as row-level security in
    `after_begin`.
    """
    own = guard_of(session.sync_session if isinstance(session, AsyncSession) else session)
    return None if own is None else own.owner


@contextlib.asynccontextmanager
async def released_connection(*, commit: bool = False) -> AsyncIterator[None]:
    """
    Give the pooled connection of the current scope's session back while something slow goes on.

    The session stays: its objects remain loaded, and its next statement, in the block or after
    it, takes a connection again, in a new transaction. Without a session there is nothing to
    do::

        async with released_connection(commit=True):
            answer = await model.complete(prompt)

    `Settings.idle_connection_warning` says where one is missing.

    Args:
        commit: commit first; without it, unsaved changes are refused.

    Raises:
        DatabasePolicyError: something is not saved, or stands in an explicit `begin()` block.
        NoContextError, ContextClosedError: no scope is open here.
    """
    session = current_scope().db_session
    if issubclass(type(session), AsyncSession):
        await _release(session, commit)
    yield


async def _release(session: AsyncSession, commit: bool) -> None:
    sync_session = session.sync_session
    transaction = sync_session.get_transaction()
    if transaction is None:
        return
    if transaction.origin is SessionTransactionOrigin.BEGIN or session.in_nested_transaction():
        raise DatabasePolicyError(
            "The transaction was begun by an explicit `begin()` or `begin_nested()`.",
            "Leave that block first, and commit.",
        )
    if commit:
        await session.commit()
        return
    own = guard_of(sync_session)
    if has_changes(sync_session) or own is None or own.written_on is not None:
        raise DatabasePolicyError(
            "The session has changes that are not committed.",
            "Commit them first, or use `released_connection(commit=True)`.",
        )
    # Unlike `rollback`, this expires no loaded object.
    await session.run_sync(lambda _: transaction.close())


def _refuse_trio() -> None:
    if is_on_trio():
        raise ConfigurationError(
            "SQLAlchemy's asyncio extension does not run on trio.",
            "Run the application on asyncio.",
        )


def _engines_of(sessionmaker: async_sessionmaker[Any]) -> list[AsyncEngine]:
    """The engines that a maker's sessions take connections from, as far as it says."""
    binds = [sessionmaker.kw.get("bind"), *(sessionmaker.kw.get("binds") or {}).values()]
    engines = [
        each.engine if isinstance(each, AsyncConnection) else each
        for each in binds
        if each is not None
    ]
    if not engines or not all(isinstance(engine, AsyncEngine) for engine in engines):
        raise ConfigurationError(
            "Row-level security is configured, and the session maker does not say on which engine.",
            "Give it `async_sessionmaker(engine)`, or `binds=` of async engines.",
        )
    return list(dict.fromkeys(engines))


def _checked(policy: Transaction) -> Transaction:
    if policy not in TRANSACTIONS:
        raise ConfigurationError(
            f"`{policy}` is no transaction policy.",
            "It is one of " + ", ".join(f"`{name}`" for name in TRANSACTIONS) + ".",
        )
    return policy


def _session_of(scope: RequestScope) -> AsyncSession:
    """What a container gives to whoever asks for a session: this scope's own."""
    session: AsyncSession | None = scope.db_session
    if session is None:
        raise ConfigurationError(
            "There is no database to open a session from.",
            "Give the fence one: `Ringfence(database=Database(...))`.",
        )
    return session


def _has_session(scope: RequestScope) -> bool:
    return scope.has_db_session


offer(AsyncSession, _session_of, _has_session)
