"""Defects of row-level security."""

from __future__ import annotations

from .mutant import Mutant, mutant

ROWS = "tests/integration/test_row_security.py"
DDL = "tests/integration/test_row_security_ddl.py"
REPORT = "tests/integration/test_row_security_report.py"
UNRESTRICTED = "tests/integration/test_unrestricted.py"

values = "integrations/_row_security_values.py"
ddl = "integrations/_row_security_ddl.py"
report = "integrations/_row_security_report.py"
postgres = "integrations/postgres.py"
database = "integrations/sqlalchemy.py"
migrations = "integrations/alembic.py"

MATRIX = f"{ROWS}::test_roles_tables_commands_and_rows"
POLICIES = f"{REPORT}::test_policies_that_are_not_enough"

MUTANTS: list[Mutant] = [
    # --- whom it names
    mutant(
        "postgres: it is whoever is current",
        values,
        "    _owe(connection, vars(session)[VALUES])\n",
        "    from ..current import current_context\n"
        "    mine: Values = vars(session)[VALUES]\n"
        '    facts = {"user_id": current_context().user_id, "tenant_id": ""}\n'
        "    _owe(connection, Values(mine.owner, mine.statement, facts))\n",
        f"{ROWS}::test_it_is_the_owners_whoever_is_current",
    ),
    mutant(
        "postgres: it is set for the connection, not the transaction",
        postgres,
        "set_config('{}', :user_id, true)",
        "set_config('{}', :user_id, false)",
        f"{ROWS}::test_nothing_is_left",
    ),
    mutant(
        "postgres: a user without a tenant keeps somebody else's",
        postgres,
        ", set_config('{}', :tenant_id, true)",
        ", set_config('{}', coalesce(nullif(:tenant_id, ''), current_setting('ringfence.tenant_id', true)), true)",
        f"{ROWS}::test_what_somebody_left_there_is_overruled",
    ),
    mutant(
        "postgres: nobody is told to be nobody",
        postgres,
        "        owner = scope.root\n",
        "        owner = scope.root\n        if not owner.has_user:\n            return\n",
        f"{ROWS}::test_what_somebody_left_there_is_overruled",
    ),
    mutant(
        "postgres: it is said in each savepoint too",
        values,
        "    if transaction.nested:\n        return  # said in the transaction around it\n",
        "",
        f"{ROWS}::test_a_savepoint_needs_nothing_but_after_its_rollback",
    ),
    mutant(
        "postgres: a transaction begun beneath the session names nobody",
        values,
        '        event.listen(engine, "begin", _on_begin)\n',
        "",
        f"{ROWS}::test_a_held_connection_that_is_committed_beneath_its_session",
    ),
    mutant(
        "postgres: a connection goes on for whoever has gone",
        values,
        "said.values.nobodys() if said.values.is_over else said.values",
        "said.values",
        f"{ROWS}::test_a_connection_of_ones_own_forgets_who_has_gone",
    ),
    mutant(
        "postgres: autocommit looks like empty tables",
        values,
        'if getattr(connection.connection.dbapi_connection, "autocommit", False):',
        "if False:",
        f"{ROWS}::test_autocommit_is_refused_each_time",
    ),
    mutant(
        "postgres: autocommit is refused once",
        values,
        "    _refuse_what_has_no_transaction(connection)\n    _refuse_what",
        "    said.is_due = False\n    _refuse_what_has_no_transaction(connection)\n    _refuse_what",
        f"{ROWS}::test_autocommit_is_refused_each_time",
    ),
    # --- sessions that are given
    mutant(
        "postgres: a given session names nobody",
        database,
        "            self._bind(self.row_level_security, scope, session)\n        own = guard(sync_session, scope, lambda",
        "            pass\n        own = guard(sync_session, scope, lambda",
        f"{ROWS}::test_a_given_session_answers_for_its_user_while_it_is_theirs",
    ),
    mutant(
        "postgres: a transaction that is open goes on for the one before",
        values,
        "    vars(session)[VALUES] = values\n    for connection in _connections_of(session):\n"
        "        _owe(connection, values)\n",
        "    vars(session)[VALUES] = values\n",
        f"{ROWS}::test_a_transaction_that_is_open_already",
    ),
    mutant(
        "postgres: a given session goes on for its last user",
        database,
        "            self.row_level_security.release(sync_session)\n",
        "            pass\n",
        f"{ROWS}::test_a_transaction_that_is_open_already",
    ),
    mutant(
        "postgres: an open transaction goes on for its last user",
        values,
        "        _owe(connection, values.nobodys())\n",
        "        pass\n",
        f"{ROWS}::test_a_transaction_that_is_open_already",
    ),
    mutant(
        "postgres: a rolled back savepoint brings the last user back",
        values,
        """    if first_word(statement) == "ROLLBACK":\n""",
        "    if False:\n",
        f"{ROWS}::test_a_savepoint_that_is_rolled_back_brings_nobody_back",
    ),
    # --- the policies
    mutant(
        "postgres: '' is somebody",
        ddl,
        "(SELECT nullif(current_setting('",
        "(SELECT (current_setting('",
        f"{MATRIX}",
        f"{ROWS}::test_a_row_of_nobody_is_nobodys",
    ),
    mutant(
        "postgres: '' may own rows",
        ddl,
        "      || ' CHECK (' || quote_ident({column}) || ' <> '''')';",
        "      || ' CHECK (true)';",
        f"{ROWS}::test_a_row_of_nobody_is_nobodys",
    ),
    mutant(
        "postgres: the owner of a table is not subject",
        ddl,
        "|| ' FORCE ROW LEVEL SECURITY'",
        "|| ' NO FORCE ROW LEVEL SECURITY'",
        MATRIX,
    ),
    mutant(
        "postgres: partitions are left out",
        ddl,
        "UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.id\n",
        "\n",
        f"{MATRIX}[asyncpg-rls_app]",
    ),
    mutant(
        "postgres: a later policy can widen ours",
        ddl,
        "AS RESTRICTIVE FOR ALL",
        "AS PERMISSIVE FOR ALL",
        f"{ROWS}::test_a_careless_policy_later_opens_nothing",
    ),
    mutant(
        "postgres: rows may be given away",
        ddl,
        "WITH CHECK (' || rule || ')'",
        "WITH CHECK (true)'",
        f"{ROWS}::test_no_row_is_given_away",
    ),
    mutant(
        "postgres: the tenant does not matter",
        ddl,
        "rule := concat_ws(' AND ', rule, ",
        "rule := coalesce(rule, ",
        f"{ROWS}::test_a_tenant_alone_is_not_the_user",
    ),
    mutant(
        "postgres: an id is cut to the length of the column",
        ddl,
        "|| CASE WHEN kind.is_text THEN '' ELSE '::' || kind.type END",
        "|| '::' || kind.type",
        f"{DDL}::test_types_of_owner",
    ),
    # --- the check
    mutant(
        "postgres: sessions are served unchecked",
        database,
        "if scope._recipes is None or not scope._recipes.is_open:",
        "if False:",
        f"{ROWS}::test_a_fence_that_is_not_open_serves_no_session",
    ),
    mutant(
        "postgres: the fence opens whatever the database",
        "fence.py",
        "            await self.database.start()\n",
        "",
        f"{ROWS}::test_a_database_with_holes_opens_no_fence",
    ),
    mutant(
        "postgres: the fence opens before the check",
        "fence.py",
        "            await self.database.start()\n",
        "            self.is_open = True\n            await self.database.start()\n            self.is_open = False\n",
        f"{ROWS}::test_a_database_with_holes_opens_no_fence",
    ),
    mutant(
        "postgres: a fence is opened twice during the check",
        "fence.py",
        "            await self.database.start()\n            self._refuse_to_open_twice()\n",
        "            await self.database.start()\n",
        f"{ROWS}::test_two_that_open_one_fence_at_once",
    ),
    mutant(
        "postgres: any restrictive policy will do",
        report,
        "        if not any(_keeps_apart(policy, rules.settings) for policy in policies):",
        "        if not policies:",
        POLICIES,
    ),
    mutant(
        "postgres: a permissive policy will do",
        report,
        "and not polpermissive and",
        "and",
        POLICIES,
    ),
    mutant(
        "postgres: a policy for one command will do",
        report,
        " and polcmd = '*'",
        "",
        POLICIES,
    ),
    mutant(
        "postgres: a policy for one role will do",
        report,
        "        and 0 = any(polroles)\n",
        "        )",
        POLICIES,
    ),
    mutant(
        "postgres: a policy that contains ours will do",
        report,
        'term.fullmatch(" ".join(part.split()))',
        'term.search(" ".join(part.split()))',
        POLICIES,
    ),
    mutant(
        "postgres: what is not forced is not found",
        report,
        "        if not is_forced:",
        "        if False:",
        f"{REPORT}::test_tables",
    ),
    mutant(
        "postgres: partitions elsewhere are not found",
        report,
        "case when i.inhparent = tree.oid then i.inhrelid else i.inhparent end",
        "i.inhparent",
        f"{REPORT}::test_partitions_in_another_schema",
    ),
    mutant(
        "postgres: only inherited rights are judged",
        report,
        "pg_has_role(s.oid, r.oid, 'MEMBER')",
        "pg_has_role(s.oid, r.oid, 'USAGE') and (r.oid = s.oid or s.rolinherit)",
        f"{REPORT}::test_roles_that_the_login_role_may_take",
    ),
    mutant(
        "postgres: the role that is taken is judged",
        report,
        "    join pg_stat_activity a on a.usesysid = s.oid and a.pid = pg_backend_pid()\n",
        "    where s.rolname = current_user\n",
        f"{REPORT}::test_a_role_that_was_taken_can_be_given_back",
    ),
    mutant(
        "postgres: a user that was taken is the one that is judged",
        report,
        "    join pg_stat_activity a on a.usesysid = s.oid and a.pid = pg_backend_pid()\n",
        "    join pg_stat_activity a on s.rolname = session_user and a.pid = pg_backend_pid()\n",
        f"{REPORT}::test_a_user_that_was_taken_can_be_given_back",
    ),
    mutant(
        "postgres: rules act with whose rights they like",
        report,
        "where w.ev_type <> '1' and (o.rolsuper",
        "where false and (o.rolsuper",
        f"{REPORT}::test_what_reads_with_other_rights",
    ),
    mutant(
        "postgres: rules of a view are its own affair",
        report,
        "where w.ev_type <> '1' and (o.rolsuper",
        "where w.ev_type <> '1' and c.relkind <> 'v' and (o.rolsuper",
        f"{REPORT}::test_a_rule_of_a_view_that_reads_with_ones_own_rights",
    ),
    mutant(
        "postgres: a policy may cut ids",
        report,
        '_CAST = "(?:text|character varying|bpchar|name|smallint|integer|bigint|numeric|uuid)"',
        '_CAST = r"[\\w ]+"',
        POLICIES,
    ),
    mutant(
        "postgres: numbers that are not exact are ids",
        ddl,
        "b.typcategory = 'S' OR b.oid = ANY ('{{int2,int4,int8,numeric,uuid}}'::regtype[])",
        "b.typcategory IN ('S', 'N') OR b.oid = 'uuid'::regtype",
        f"{DDL}::test_types_that_no_id_has_are_refused",
    ),
    mutant(
        "postgres: a schema that is translated is not that of the policy",
        ddl,
        "(compiler.schema_translate_map or {}).get(element.schema, element.schema)",
        "element.schema",
        f"{DDL}::test_the_schema_is_translated_as_that_of_the_table_is",
    ),
    mutant(
        "postgres: the remedy begins with a space on a line of its own",
        "errors.py",
        '"" if fact.endswith("\\n") else " "',
        '" "',
        f"{REPORT}::test_schemas",
    ),
    mutant(
        "postgres: a migration says it to any database",
        migrations,
        '    if operations.get_context().dialect.name == "postgresql":\n',
        "    if True:\n",
        "tests/integration/test_alembic.py",
    ),
    mutant(
        "postgres: a migration goes by the usual settings",
        migrations,
        "            tenant_setting=tenant_setting,\n",
        "",
        "tests/integration/test_alembic.py",
    ),
    mutant(
        "postgres: an id is rounded to the domain of its column",
        ddl,
        "format_type(b.oid, NULL) AS type",
        "format_type(t.oid, NULL) AS type",
        f"{DDL}::test_types_of_owner",
    ),
    mutant(
        "postgres: truncation is not found",
        report,
        " or has_table_privilege(r.oid, t.oid, 'TRUNCATE'))",
        ")",
        f"{REPORT}::test_tables",
    ),
    mutant(
        "postgres: views of views are not found",
        report,
        "select w.ev_class from reading join",
        "select w.ev_class from judged reading join",
        f"{REPORT}::test_a_materialised_view_of_a_view",
    ),
    mutant(
        "postgres: functions are not found",
        report,
        "p.oid::regprocedure::text, o.rolname, p.prosecdef and (",
        "p.oid::regprocedure::text, o.rolname, not p.prosecdef and (",
        f"{REPORT}::test_what_reads_with_other_rights",
    ),
    mutant(
        "postgres: a setting that is set is not found",
        report,
        "        if value:\n",
        "        if False:\n",
        f"{REPORT}::test_a_setting_that_is_not_empty_to_begin_with",
    ),
    mutant(
        "postgres: parents elsewhere are not found",
        report,
        "case when i.inhparent = tree.oid then i.inhrelid else i.inhparent end",
        "i.inhrelid",
        f"{REPORT}::test_parents_in_another_schema",
    ),
    mutant(
        "postgres: a policy may check another column",
        report,
        "          = coalesce(pg_get_expr(polwithcheck, polrelid), pg_get_expr(polqual, polrelid))\n",
        "          is not null\n",
        POLICIES,
    ),
    mutant(
        "postgres: a policy compares by whatever is called `=`",
        report,
        "and d.refclassid in ('pg_operator'::regclass, 'pg_proc'::regclass)))",
        "and false))",
        f"{REPORT}::test_an_operator_of_somebodys_own",
    ),
    mutant(
        "postgres: who reads the statistics is not found",
        report,
        "    then 'may read the statistics, which quote rows (pg_read_all_data)'\n",
        "    then null\n",
        f"{REPORT}::test_a_role_that_reads_the_statistics",
    ),
    mutant(
        "postgres: who may drop a table is not found",
        report,
        "r.oid in (t.relowner, t.nspowner)",
        "r.oid = t.relowner",
        f"{REPORT}::test_who_owns_a_schema_may_drop_what_is_in_it",
    ),
    mutant(
        "postgres: a function may be somebody else",
        report,
        "        for name in settings:\n",
        "        for name in ():\n",
        f"{REPORT}::test_a_function_that_is_somebody_else",
    ),
    mutant(
        "postgres: a function of an owner does no harm",
        report,
        "o.rolsuper or o.rolbypassrls or exists (select from judged t",
        "o.rolsuper or o.rolbypassrls or false and exists (select from judged t",
        f"{REPORT}::test_a_function_of_an_owner_may_turn_the_policies_off",
    ),
    mutant(
        "postgres: any engine will do",
        values,
        "    _refuse_what_nobody_looked_at(connection, said.values)\n",
        "",
        f"{ROWS}::test_an_engine_that_nobody_looked_at_is_refused",
    ),
    mutant(
        "postgres: an engine with holes was looked at",
        postgres,
        "        async with engine.connect() as connection:\n            findings",
        "        self._engines.add(engine.sync_engine)\n"
        "        async with engine.connect() as connection:\n            findings",
        f"{ROWS}::test_an_engine_that_nobody_looked_at_is_refused",
    ),
    # --- going past it
    mutant(
        "postgres: what goes past it may leave rows out",
        postgres,
        '        event.listen(session.sync_session, "after_begin", _all_or_an_error)\n',
        "",
        f"{UNRESTRICTED}::test_a_role_that_is_subject_itself_is_told_so",
    ),
    mutant(
        "postgres: going past it leaves no record",
        postgres,
        "        logger.warning(\n",
        "        logger.debug(\n",
        f"{UNRESTRICTED}::test_it_sees_all_rows_and_is_written_down",
    ),
    mutant(
        "postgres: what goes past it is anybody's",
        postgres,
        "own = guard(session.sync_session, scope, lambda",
        "own = guard(AsyncSession(None).sync_session, scope, lambda",
        f"{UNRESTRICTED}::test_it_belongs_to_its_request_and_ends_with_its_block",
    ),
    mutant(
        "postgres: what goes past it is closed in the cancelled task",
        postgres,
        "                await _close_in_any_case(session, own)\n",
        "                await _close(session, own)\n",
        f"{UNRESTRICTED}::test_closing_it_cannot_be_cancelled",
    ),
    mutant(
        "postgres: what goes past it outlives its scope",
        postgres,
        "        forget = scope.callback(_close, session, own)",
        "        forget = lambda: None",
        f"{UNRESTRICTED}::test_a_block_that_is_never_left_ends_with_the_scope",
    ),
]
