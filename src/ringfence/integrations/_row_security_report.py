"""What would let one user see another's rows in a database: everything that is found, in words."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from typing import Any

import attrs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Rules", "findings_on"]


@attrs.frozen
class Rules:
    """
    What a database is judged by.

    Attributes:
        settings: the names of the settings that policies read.
        schemas: whose tables must be protected.
        exempt: tables, views, rules and functions that need not be, with or without their schema.
    """

    settings: tuple[str, ...]
    schemas: tuple[str, ...]
    exempt: frozenset[str]

    def parameters(self) -> dict[str, Any]:
        """The parameters that the queries have in common."""
        return {
            "schemas": list(self.schemas),
            "exempt": list(self.exempt),
            "settings": list(self.settings),
        }


async def findings_on(connection: AsyncConnection, rules: Rules) -> list[str]:
    """What is wrong with the database that a runtime role is connected to, most general first."""
    if connection.dialect.name != "postgresql":
        return [f"The database is `{connection.dialect.name}`, which has no row-level security."]
    found: list[str] = []
    for look in (_schemas, _settings, _tables, _roles, _rights, _views, _rules, _functions):
        found += [finding async for finding in look(connection, rules)]
    return found


async def _rows(connection: AsyncConnection, query: str, **parameters: Any) -> list[Any]:
    wanted = {name: value for name, value in parameters.items() if f":{name}" in query}
    return list((await connection.execute(text(query), wanted)).all())


# --- tables -----------------------------------------------------------------------------------

_SCHEMAS = """
select s from unnest(cast(:schemas as text[])) s
where not exists (select from pg_namespace where nspname = s)
"""


async def _schemas(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    for (schema,) in await _rows(connection, _SCHEMAS, **rules.parameters()):
        yield f"There is no schema `{schema}`."


async def _settings(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    for name in rules.settings:
        query = "select current_setting(:name, true)"
        [(value,)] = await _rows(connection, query, name=name)
        if value:
            yield (
                f"`{name}` is set before anybody has set it: by `ALTER ROLE` or `ALTER DATABASE`, "
                "by the connection's options, or by a `SET` that was committed."
            )


# Parents too, wherever they are: who reads one is shown its children's rows by its own policies.
_JUDGED = """
tree(oid) as (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'f') and n.nspname = any(cast(:schemas as text[]))
  union
  select case when i.inhparent = tree.oid then i.inhrelid else i.inhparent end
  from tree join pg_inherits i on tree.oid in (i.inhparent, i.inhrelid)
),
judged as (
  select c.oid, c.relname, c.relowner, n.nspowner, c.relkind, c.relrowsecurity,
    c.relforcerowsecurity
  from tree join pg_class c on c.oid = tree.oid join pg_namespace n on n.oid = c.relnamespace
  where not (c.relname = any(cast(:exempt as text[]))
             or n.nspname || '.' || c.relname = any(cast(:exempt as text[])))
)"""

# Its operator may be somebody's own, of the same name: PostgreSQL's own leave no dependency.
_TABLES = f"""
with recursive {_JUDGED}
select oid::regclass::text, relrowsecurity, relforcerowsecurity,
  array(select pg_get_expr(polqual, polrelid)
        from pg_policy where polrelid = judged.oid and not polpermissive and polcmd = '*'
        and 0 = any(polroles)
        and pg_get_expr(polqual, polrelid)
          = coalesce(pg_get_expr(polwithcheck, polrelid), pg_get_expr(polqual, polrelid))
        and not exists (select from pg_depend d
          where d.classid = 'pg_policy'::regclass and d.objid = pg_policy.oid
          and d.refclassid in ('pg_operator'::regclass, 'pg_proc'::regclass)))
from judged order by 1
"""  # noqa: S608 (constants)


async def _tables(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    for table, is_enabled, is_forced, policies in await _rows(
        connection, _TABLES, **rules.parameters()
    ):
        if not is_enabled:
            yield f"Table `{table}` has no row-level security."
            continue
        if not is_forced:
            yield f"Table `{table}` does not force row-level security on its owner."
        if not any(_keeps_apart(policy, rules.settings) for policy in policies):
            yield (
                f"Table `{table}` has no restrictive policy for all commands and everybody that "
                f"compares a column with {' or '.join(f'`{name}`' for name in rules.settings)}."
            )


# None that has a length, and would cut ids short.
_CAST = "(?:text|character varying|bpchar|name|smallint|integer|bigint|numeric|uuid)"


def _keeps_apart(policy: str, settings: Collection[str]) -> bool:
    """Whether the expression of a policy is nothing but comparisons with our settings."""
    names = "|".join(re.escape(name) for name in settings)
    term = re.compile(
        rf'(?:\w+|"[^"]+")(?:::{_CAST})? = (?:SELECT )?NULLIF'
        rf"current_setting'(?:{names})'::text, true, ''::text(?:::{_CAST})?(?: AS \"?\w+\"?)?"
    )
    return all(
        term.fullmatch(" ".join(part.split()))
        for part in re.sub(r"[()]", "", policy).split(" AND ")
    )


# --- roles ------------------------------------------------------------------------------------

# Whoever logged in: `session_user` is another after SET SESSION AUTHORIZATION, until it is reset.
_REACHED = """
reached as (
  select r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreaterole,
    r.oid = s.oid as is_own
  from pg_roles r cross join pg_roles s
    join pg_stat_activity a on a.usesysid = s.oid and a.pid = pg_backend_pid()
  where case when s.rolsuper then r.oid = s.oid else pg_has_role(s.oid, r.oid, 'MEMBER') end
)"""

_ROLES = f"""
with {_REACHED}
select rolname, is_own, case
    when rolsuper then 'is a superuser'
    when rolbypassrls then 'bypasses row-level security'
    when rolreplication then 'may copy the whole database (REPLICATION)'
    when rolcreaterole and current_setting('server_version_num')::int < 160000
    then 'may make itself a member of any role (CREATEROLE)'
    when rolname in ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
    then 'has the files of the server'
    when has_table_privilege(oid, 'pg_catalog.pg_statistic', 'SELECT')
      or has_table_privilege(oid, 'pg_catalog.pg_statistic_ext_data', 'SELECT')
    then 'may read the statistics, which quote rows (pg_read_all_data)'
  end
from reached order by 1
"""  # noqa: S608 (constants)


async def _roles(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    for role, is_own, what in await _rows(connection, _ROLES):
        if what:
            yield f"{_named(role, is_own)} {what}."


def _named(role: str, is_own: bool) -> str:
    return (
        f"The login role `{role}`" if is_own else f"Role `{role}`, which the login role may take,"
    )


_RIGHTS = f"""
with recursive {_REACHED}, {_JUDGED}
select r.rolname, r.is_own, t.oid::regclass::text,
  case when r.oid = t.relowner then 'owns' when r.oid = t.nspowner then 'may drop'
    else 'may truncate' end
from reached r cross join judged t
where not r.rolsuper and t.relkind <> 'f'
and (r.oid in (t.relowner, t.nspowner) or has_table_privilege(r.oid, t.oid, 'TRUNCATE'))
order by 3, 1
"""  # noqa: S608 (constants)


async def _rights(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    # The owner of a schema may drop what is in it.
    for role, is_own, table, what in await _rows(connection, _RIGHTS, **rules.parameters()):
        yield f"{_named(role, is_own)} {what} `{table}`."


# --- what reads with somebody else's rights ---------------------------------------------------

_VIEWS = f"""
with recursive {_JUDGED},
reading(oid) as (
  select oid from judged
  union
  select w.ev_class from reading join pg_depend d on d.refobjid = reading.oid
    and d.refclassid = 'pg_class'::regclass and d.classid = 'pg_rewrite'::regclass
    join pg_rewrite w on w.oid = d.objid
)
select v.oid::regclass::text, v.relkind::text, o.rolname
from reading join pg_class v on v.oid = reading.oid join pg_roles o on o.oid = v.relowner
join pg_namespace n on n.oid = v.relnamespace
where (v.relkind = 'm' or v.relkind = 'v' and (o.rolsuper or o.rolbypassrls)
  and not coalesce((select option_value::boolean from pg_options_to_table(v.reloptions)
                    where option_name = 'security_invoker'), false))
and not (v.relname = any(cast(:exempt as text[]))
         or n.nspname || '.' || v.relname = any(cast(:exempt as text[])))
order by 1
"""  # noqa: S608 (constants)


async def _views(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    for view, kind, owner in await _rows(connection, _VIEWS, **rules.parameters()):
        if kind == "m":
            yield f"Materialised view `{view}` keeps rows of protected tables, whoever reads it."
        else:
            yield f"View `{view}` reads protected tables with the rights of `{owner}`."


_RULES = """
select w.rulename, c.oid::regclass::text, o.rolname
from pg_rewrite w join pg_class c on c.oid = w.ev_class join pg_roles o on o.oid = c.relowner
join pg_namespace n on n.oid = c.relnamespace
where w.ev_type <> '1' and (o.rolsuper or o.rolbypassrls)
and left(n.nspname, 3) <> 'pg_' and n.nspname <> 'information_schema'
and not (w.rulename = any(cast(:exempt as text[]))
         or n.nspname || '.' || w.rulename = any(cast(:exempt as text[])))
order by 2, 1
"""


async def _rules(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    # Not those of SELECT, which views are made of. Unlike these, `security_invoker` minds them.
    for rule, table, owner in await _rows(connection, _RULES, **rules.parameters()):
        yield f"Rule `{rule}` of `{table}` acts with the rights of `{owner}`."


_FUNCTIONS = f"""
with recursive {_JUDGED}
select p.oid::regprocedure::text, o.rolname, p.prosecdef and (
    o.rolsuper or o.rolbypassrls or exists (select from judged t
      where pg_has_role(o.oid, t.relowner, 'USAGE') or pg_has_role(o.oid, t.nspowner, 'USAGE')
      or t.relkind <> 'f' and has_table_privilege(o.oid, t.oid, 'TRUNCATE'))),
  array(select split_part(c, '=', 1) from unnest(p.proconfig) c
        where split_part(c, '=', 1) = any(cast(:settings as text[])))
from pg_proc p join pg_roles o on o.oid = p.proowner join pg_namespace n on n.oid = p.pronamespace
where left(n.nspname, 3) <> 'pg_' and n.nspname <> 'information_schema'
and (p.prosecdef or p.proconfig is not null)
and not (p.proname = any(cast(:exempt as text[]))
         or n.nspname || '.' || p.proname = any(cast(:exempt as text[])))
order by 1
"""  # noqa: S608 (constants)


async def _functions(connection: AsyncConnection, rules: Rules) -> AsyncIterator[str]:
    # All of them: what the body of a function does cannot be told before it runs, and an owner's
    # may do what its owner may, such as turn the policies off.
    parameters = rules.parameters()
    for function, owner, is_stronger, settings in await _rows(connection, _FUNCTIONS, **parameters):
        if is_stronger:
            yield f"Function `{function}` runs with the rights of `{owner}` (SECURITY DEFINER)."
        for name in settings:
            yield f"Function `{function}` sets `{name}`: who calls it is somebody else meanwhile."
