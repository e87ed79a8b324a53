"""
Row-level security in migrations of Alembic's.

Imported once, as in `env.py`, this module adds `op.enable_row_security` and
`op.disable_row_security`, which take what the functions of `integrations.postgres` do::

    import ringfence.integrations.alembic  # in env.py


    def upgrade():  # in a revision
        op.enable_row_security("note", tenant="tenant_id")


    def downgrade():
        op.disable_row_security("note")

As by listeners of tables, it is done on PostgreSQL only.
"""

from __future__ import annotations

from alembic.operations import MigrateOperation, Operations
from sqlalchemy.schema import ExecutableDDLElement

from ._row_security_ddl import (
    TENANT_SETTING,
    USER_SETTING,
    disable_row_security,
    enable_row_security,
)

__all__ = ["DisableRowSecurityOp", "EnableRowSecurityOp"]


class _StatementOp(MigrateOperation):
    def __init__(self, statement: ExecutableDDLElement) -> None:
        self.statement = statement


@Operations.register_operation("enable_row_security")
class EnableRowSecurityOp(_StatementOp):
    """What `op.enable_row_security` does, as Alembic knows it."""

    @classmethod
    def enable_row_security(
        cls,
        operations: Operations,
        table_name: str,
        user: str | None = "owner_id",
        tenant: str | None = None,
        *,
        schema: str | None = None,
        user_setting: str = USER_SETTING,
        tenant_setting: str = TENANT_SETTING,
    ) -> None:
        """See `ringfence.integrations.postgres.enable_row_security`."""
        statement = enable_row_security(
            table_name,
            user,
            tenant,
            schema=schema,
            user_setting=user_setting,
            tenant_setting=tenant_setting,
        )
        operations.invoke(cls(statement))


@Operations.register_operation("disable_row_security")
class DisableRowSecurityOp(_StatementOp):
    """What `op.disable_row_security` does, as Alembic knows it."""

    @classmethod
    def disable_row_security(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> None:
        """See `ringfence.integrations.postgres.disable_row_security`."""
        operations.invoke(cls(disable_row_security(table_name, schema=schema)))


@Operations.implementation_for(EnableRowSecurityOp)
@Operations.implementation_for(DisableRowSecurityOp)
def _execute(operations: Operations, operation: _StatementOp) -> None:
    # `execute` does not ask the statement, which knows, whether it is for this database.
    if operations.get_context().dialect.name == "postgresql":
        operations.execute(operation.statement)
