"""Policies that keep the rows of users apart, as DDL: one statement that covers all partitions."""

from __future__ import annotations

from typing import Any, Self

from sqlalchemy import Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from ..errors import ConfigurationError

__all__ = [
    "TENANT_SETTING",
    "USER_SETTING",
    "DisableRowSecurity",
    "EnableRowSecurity",
    "disable_row_security",
    "enable_row_security",
]

USER_SETTING = "ringfence.user_id"
TENANT_SETTING = "ringfence.tenant_id"

_PARTS = """\
  FOR part IN
    WITH RECURSIVE tree(id) AS (
      SELECT root::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.id
    ) SELECT id::regclass FROM tree
  LOOP"""

_ENABLE = """\
DO $ringfence$
DECLARE
  root CONSTANT regclass := {table};
  part regclass;
  rule text;
  kind record;
BEGIN
{columns}
{parts}
    EXECUTE 'ALTER TABLE ' || part || ' ENABLE ROW LEVEL SECURITY';
    EXECUTE 'ALTER TABLE ' || part || ' FORCE ROW LEVEL SECURITY';
    EXECUTE 'DROP POLICY IF EXISTS ringfence_owner ON ' || part;
    EXECUTE 'DROP POLICY IF EXISTS ringfence_allow ON ' || part;
    EXECUTE 'CREATE POLICY ringfence_owner ON ' || part || ' AS RESTRICTIVE FOR ALL TO PUBLIC'
      || ' USING (' || rule || ') WITH CHECK (' || rule || ')';
    EXECUTE 'CREATE POLICY ringfence_allow ON ' || part || ' AS PERMISSIVE FOR ALL TO PUBLIC'
      || ' USING (true) WITH CHECK (true)';
  END LOOP;
END $ringfence$"""

# The cast names no length, nor a domain that has one: it would cut or round an id, to somebody
# else's. So would numbers that are not exact: two ids may be the same `double precision`.
_COLUMN = """\
  SELECT b.typcategory = 'S' AS is_text, format_type(b.oid, NULL) AS type,
      b.typcategory = 'S' OR b.oid = ANY ('{{int2,int4,int8,numeric,uuid}}'::regtype[]) AS is_known
    INTO kind FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
    WHERE a.attrelid = root AND a.attname = {column}::name AND NOT a.attisdropped;
  IF kind.is_known IS NOT TRUE THEN
    RAISE EXCEPTION USING MESSAGE = 'ringfence: ' || root || ' has no column ' || {column}
      || ' of text, an exact number or uuid';
  END IF;
  rule := concat_ws(' AND ', rule, quote_ident({column}) || ' = (SELECT nullif(current_setting('
    || quote_literal({setting}) || ', true), '''')'
    || CASE WHEN kind.is_text THEN '' ELSE '::' || kind.type END || ')');
  IF kind.is_text AND NOT EXISTS (SELECT FROM pg_constraint
      WHERE conrelid = root AND conname = {constraint}::name) THEN
    EXECUTE 'ALTER TABLE ' || root || ' ADD CONSTRAINT ' || quote_ident({constraint}::name)
      || ' CHECK (' || quote_ident({column}) || ' <> '''')';
  END IF;"""

_DISABLE = """\
DO $ringfence$
DECLARE
  root CONSTANT regclass := {table};
  part regclass;
  rule text;
BEGIN
{parts}
    EXECUTE 'DROP POLICY IF EXISTS ringfence_allow ON ' || part;
    EXECUTE 'DROP POLICY IF EXISTS ringfence_owner ON ' || part;
    EXECUTE 'ALTER TABLE ' || part || ' NO FORCE ROW LEVEL SECURITY';
    EXECUTE 'ALTER TABLE ' || part || ' DISABLE ROW LEVEL SECURITY';
  END LOOP;
  FOR rule IN SELECT quote_ident(conname) FROM pg_constraint WHERE conrelid = root
      AND contype = 'c' AND left(conname, 10) = 'ringfence_' AND coninhcount = 0
  LOOP
    EXECUTE 'ALTER TABLE ' || root || ' DROP CONSTRAINT ' || rule;
  END LOOP;
END $ringfence$"""


class _RowSecurityDDL(ExecutableDDLElement):
    """A statement about one table; as a listener it runs on PostgreSQL only."""

    inherit_cache = False

    def __init__(self, table: Table | str, schema: str | None) -> None:
        self.name, self.schema = (
            (table.name, table.schema) if isinstance(table, Table) else (table, schema)
        )

    def on_postgresql(self) -> Self:
        """As a listener of `after_create`, nothing on other databases."""
        return self.execute_if(dialect="postgresql")

    def sql(self, table: str) -> str:
        """The statement; `table` is a literal with the quoted name."""
        raise NotImplementedError


class EnableRowSecurity(_RowSecurityDDL):
    """What `enable_row_security` returns."""

    def __init__(
        self, table: Table | str, columns: dict[str, str], schema: str | None = None
    ) -> None:
        super().__init__(table, schema)
        self.columns = columns

    def sql(self, table: str) -> str:
        """Constraints on the table, which partitions inherit; policies on each partition."""
        columns = [
            _COLUMN.format(
                column=_literal(column),
                setting=_literal(setting),
                constraint=_literal(f"ringfence_{column}_not_empty"),
            )
            for column, setting in self.columns.items()
        ]
        return _ENABLE.format(table=table, columns="\n".join(columns), parts=_PARTS)


class DisableRowSecurity(_RowSecurityDDL):
    """What `disable_row_security` returns."""

    def sql(self, table: str) -> str:
        """What `EnableRowSecurity` has made is dropped, and nothing else."""
        return _DISABLE.format(table=table, parts=_PARTS)


@compiles(EnableRowSecurity)
@compiles(DisableRowSecurity)
def _compile(element: _RowSecurityDDL, compiler: Any, **_unused: Any) -> str:
    schema = (compiler.schema_translate_map or {}).get(element.schema, element.schema)
    names = [name for name in (schema, element.name) if name]
    quoted = ".".join('"' + name.replace('"', '""') + '"' for name in names)
    # Doubles percent signs where the driver asks for it; the compiler's own quoting would too.
    text: str = compiler.sql_compiler.post_process_text(element.sql(_literal(quoted)))
    return text


def _literal(text: str) -> str:
    if "\\" in text or "\0" in text or "$ringfence$" in text:
        raise ConfigurationError(
            f"`{text!r}` cannot be named in a policy.", "Use a name without such characters."
        )
    return "'" + text.replace("'", "''") + "'"


def enable_row_security(
    table: Table | str,
    user: str | None = "owner_id",
    tenant: str | None = None,
    *,
    schema: str | None = None,
    user_setting: str = USER_SETTING,
    tenant_setting: str = TENANT_SETTING,
) -> EnableRowSecurity:
    """
    The statement that lets a user see and write nothing but their own rows of a table.

    Execute it, or attach it to a table; for Alembic's `op` there is `integrations.alembic`::

        await connection.execute(enable_row_security("note"))
        event.listen(Note.__table__, "after_create", enable_row_security(Note.__table__))

    A restrictive policy, which no later policy can widen, with the permissive one that it needs;
    enabled and forced, on the table and on each of its partitions; a constraint that no owner is
    the empty string. A partition that is made later needs its own. May be executed again.

    Args:
        table: its name, or the `Table`, whose schema is then taken.
        user: the column that holds the owner's id: text, an exact number or uuid. `None` for rows
            that a whole tenant shares.
        tenant: the column that holds the tenant's id, if there is one.
        schema: of a table that is named.
        user_setting, tenant_setting: as given to `RowLevelSecurity`, if they were.

    Raises:
        ConfigurationError: neither column is given, or one for both.
    """
    pairs = ((user, user_setting), (tenant, tenant_setting))
    columns = {column: setting for column, setting in pairs if column is not None}
    if not columns:
        raise ConfigurationError(
            "Row-level security needs a column to go by.", "Give `user=`, `tenant=` or both."
        )
    if user == tenant:
        raise ConfigurationError(
            f"`{user}` cannot be the user's column and the tenant's.", "Leave one out, or name two."
        )
    return EnableRowSecurity(table, columns, schema).on_postgresql()


def disable_row_security(table: Table | str, *, schema: str | None = None) -> DisableRowSecurity:
    """
    The reverse of `enable_row_security`: everybody who may read the table reads all of it.

    Policies of other making stay, and apply again once it is enabled.

    Args:
        table: its name, or the `Table`, whose schema is then taken.
        schema: of a table that is named.
    """
    return DisableRowSecurity(table, schema).on_postgresql()
