"""
PostgreSQL's row-level security, told by each session whose rows it may touch.

It stops mistakes: a forgotten `where`, a session in the wrong hands. It does not stop SQL that an
attacker may write, which can change the setting too, nor a superuser; and whether a value that is
unique or referred to exists can be found out by trying.
"""

from __future__ import annotations

import contextlib
import logging
import re
import weakref
from collections.abc import AsyncIterator, Collection, Sequence
from contextvars import Context
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction

from .. import counters
from ..current import current_scope
from ..errors import ConfigurationError, RowSecurityError
from ..scope import RequestScope
from ..tasks import Job
from ._guarded_session import guard
from ._row_security_ddl import (
    TENANT_SETTING,
    USER_SETTING,
    disable_row_security,
    enable_row_security,
)
from ._row_security_report import Rules, findings_on
from ._row_security_values import Values, answer_for, answer_for_nobody
from ._session_endings import close_settled, discard, settle, until_idle
from ._session_guard import SessionGuard

__all__ = ["RowLevelSecurity", "disable_row_security", "enable_row_security"]

logger = logging.getLogger("ringfence.row_level_security")

_SETTING = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")
_SAY = "SELECT set_config('{}', :user_id, true), set_config('{}', :tenant_id, true)"


class RowLevelSecurity:
    """
    Has PostgreSQL itself give a session nothing but its owner's rows.

    Made once, for the application's `Database`; it opens nothing by itself::

        rls = RowLevelSecurity()
        database = Database(async_sessionmaker(engine), row_level_security=rls)
        fence = Ringfence(database=database)

    Each transaction begins by saying who the session belongs to, until that transaction ends:
    its user and tenant, or nobody. Nothing is left on a pooled connection. When the fence opens,
    `verify` looks for what would get round the policies, and the application does not start
    while there is anything.

    Args:
        user, tenant: the names of the settings, `prefix.name`, that policies read.
        schemas: whose tables must be protected, all of them.
        exempt: tables, views, rules and functions that need not be, by name or `schema.name`.
        unrestricted: an engine or session maker of a role that is not subject to the policies.

    Raises:
        ConfigurationError: a name that is no setting's, or of both; a string for a list.
    """

    def __init__(
        self,
        user: str = USER_SETTING,
        tenant: str = TENANT_SETTING,
        *,
        schemas: Sequence[str] = ("public",),
        exempt: Collection[str] = frozenset({"alembic_version"}),
        unrestricted: AsyncEngine | async_sessionmaker[Any] | None = None,
    ) -> None:
        self.user, self.tenant = _checked(user), _checked(tenant)
        if user == tenant:
            raise ConfigurationError(
                f"`{user}` cannot be the user's setting and the tenant's.", "Name two."
            )
        for names in (schemas, exempt):
            if isinstance(names, str):
                raise ConfigurationError(
                    f"`{names}` is one string, and would be taken letter by letter.",
                    f'Write `("{names}",)`.',
                )
        self.schemas = tuple(schemas)
        self.exempt = frozenset(exempt)
        if isinstance(unrestricted, AsyncEngine):
            unrestricted = async_sessionmaker(unrestricted)
        self._unrestricted = unrestricted
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._statement = text(_SAY.format(self.user, self.tenant))

    # --- what `Database` asks of it -----------------------------------------------------------

    def bind(self, scope: RequestScope, session: Session) -> None:
        """Have each transaction of a session answer for the root of `scope` only."""
        owner = scope.root
        facts = owner.context if owner.has_user else None
        user_id = "" if facts is None else facts.user_id
        tenant_id = "" if facts is None else facts.tenant_id or ""
        values = {"user_id": user_id, "tenant_id": tenant_id}
        answer_for(session, Values(owner, self._statement, values, self._engines))

    def release(self, session: Session) -> None:
        """Have it answer for nobody any more, in an open transaction too."""
        answer_for_nobody(session)

    async def start(self, engines: Sequence[AsyncEngine]) -> None:
        """Verify each engine. Called when the fence opens."""
        for engine in engines:
            await self.verify(engine)

    # --- looking for holes --------------------------------------------------------------------

    async def verify(
        self,
        engine: AsyncEngine,
        schemas: Sequence[str] | None = None,
        exempt: Collection[str] | None = None,
    ) -> None:
        """
        Look for everything that would let one user see another's rows.

        Tables, one by one, partitions and parents too, without forced row-level security and a
        policy as `enable_row_security` makes it; the login role of `engine`, and each role it may
        take, if it is a superuser, bypasses row-level security, owns a table, may truncate or drop
        it, or may read the statistics; views, rules and `SECURITY DEFINER` functions that act with
        such a role's rights, functions that set a setting, materialised views; and settings that
        are not empty to begin with.

        Sessions are served on engines in which nothing was found, and on no others. Those of the
        session maker are looked at when the fence opens.

        Args:
            engine: the application's, with the role that it serves requests with.
            schemas, exempt: instead of those given to `RowLevelSecurity`.

        Raises:
            RowSecurityError: there is something; `findings` has a sentence for each.
        """
        rules = Rules(
            (self.user, self.tenant),
            self.schemas if schemas is None else tuple(schemas),
            self.exempt if exempt is None else frozenset(exempt),
        )
        async with engine.connect() as connection:
            findings = await findings_on(connection, rules)
        if findings:
            raise _holes(findings)
        self._engines.add(engine.sync_engine)

    # --- going past it ------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def unrestricted(self, *, reason: str) -> AsyncIterator[AsyncSession]:
        """
        A session that sees all rows, by an engine and role of its own, for a block.

        Its transaction is committed when the block ends well. Each use is logged with its
        request and reason, and counted (`row_level_security.unrestricted`)::

            async with rls.unrestricted(reason="monthly invoices") as session:
                ...

        Args:
            reason: why, for whoever reads the log.

        Raises:
            ConfigurationError: no `unrestricted=` was given, or no reason.
            NoContextError, ContextClosedError: no scope is open here.
        """
        scope = current_scope()
        session = self._open_unrestricted(reason)
        own = guard(session.sync_session, scope, lambda: scope.transaction == "read_only")
        counters.count("row_level_security.unrestricted")
        logger.warning(
            "Request `%s` goes past row-level security: %s", scope.request_id, reason.strip()
        )
        forget = scope.callback(_close, session, own)  # for a block that is never left
        try:
            yield session
            if own.is_closed:
                raise scope._closed_error()
            await settle(session, own, True)
        finally:
            if not own.is_closed:
                forget()
                await _close_in_any_case(session, own)

    def _open_unrestricted(self, reason: str) -> AsyncSession:
        if not reason.strip():
            raise ConfigurationError(
                "A session past row-level security needs a reason.", "Say it, for the log."
            )
        if self._unrestricted is None:
            raise ConfigurationError(
                "There is no role that may go past row-level security.",
                "Give `RowLevelSecurity(unrestricted=engine)` an engine of such a role.",
            )
        session: AsyncSession = self._unrestricted(close_resets_only=False, expire_on_commit=False)
        event.listen(session.sync_session, "after_begin", _all_or_an_error)
        return session


def _all_or_an_error(_: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Have PostgreSQL refuse, where a policy would silently leave rows out."""
    if not transaction.nested and connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL row_security = off")


async def _close(session: AsyncSession, own: SessionGuard) -> None:
    own.close()
    try:
        await until_idle(own, own.scope.settings.finaliser_timeout / 2)
    finally:
        own.forget()
        if not await close_settled(session, own):
            await discard(session, own)


async def _close_in_any_case(session: AsyncSession, own: SessionGuard) -> None:
    """In a task of its own, which no cancellation of the block reaches."""
    job = Job(lambda: _close(session, own), "ringfence unrestricted session", Context())
    error, cancelled = await job.wait(own.scope.settings.finaliser_timeout)
    if cancelled or error:
        raise cancelled or error  # type: ignore[misc]


def _holes(findings: list[str]) -> RowSecurityError:
    lines = "".join(f"\n- {finding}" for finding in findings)
    return RowSecurityError(
        f"The database would not keep users apart:{lines}\n",
        "Protect each table by `enable_row_security`, serve with a role that has no such rights, "
        "or name what is meant to be so in `exempt=`.",
        findings=tuple(findings),
    )


def _checked(name: str) -> str:
    if not _SETTING.fullmatch(name):
        raise ConfigurationError(
            f"`{name}` is no name of a setting.",
            "It is small letters with a dot, such as `ringfence.user_id`.",
        )
    return name
