"""Defects of the SQLAlchemy integration."""

from __future__ import annotations

from .mutant import Mutant, mutant

GUARD = "tests/integrations/test_sqlalchemy_guard.py"
DATABASE = "tests/integrations/test_sqlalchemy.py"
POSTGRES = "tests/integration/test_sqlalchemy_postgres.py"
ADDRESS = "tests/test_testing_postgres.py"
BY_DRIVER = "tests/integration/test_sessions_by_driver.py"
TIMES = "tests/integration/test_connection_times.py"
STRANGER = f"{GUARD}::test_a_use_from_another_request_is_refused"
BUSY = f"{GUARD}::test_a_use_while_another_task_is_in_it_is_refused"

guard = "integrations/_session_guard.py"
twin = "integrations/_guarded_session.py"
connections = "integrations/_session_connections.py"
waits = "integrations/_session_waits.py"
endings = "integrations/_session_endings.py"
times = "integrations/_connection_times.py"
database = "integrations/sqlalchemy.py"
postgres = "testing/postgres.py"

MUTANTS: list[Mutant] = [
    # --- whose it is
    mutant(
        "sessions: any scope may use a session",
        guard,
        "if here is None or here._root is not self._admitted or here._state is CLOSED:",
        "if here is None or here._state is CLOSED:",
        STRANGER,
    ),
    mutant(
        "sessions: no scope is needed",
        guard,
        "if here is None or here._root is not self._admitted or here._state is CLOSED:",
        "if here is not None and (here._root is not self._admitted or here._state is CLOSED):",
        f"{GUARD}::test_a_use_where_no_scope_is_open_is_refused",
    ),
    mutant(
        "sessions: an ended child may use its parent's",
        guard,
        "here._root is not self._admitted or here._state is CLOSED:",
        "here._root is not self._admitted:",
        f"{GUARD}::test_a_use_by_a_task_whose_scope_has_ended_is_refused",
    ),
    mutant(
        "sessions: an ended scope's session is another's, not ended",
        guard,
        "        if self._admitted is None:\n            raise self.scope._closed_error()\n",
        "",
        f"{GUARD}::test_a_childs_session_ends_with_the_child",
    ),
    mutant(
        "sessions: whoever runs in a greenlet is admitted",
        twin,
        '        if own._greenlet is not getcurrent() and name[:2] != "__":\n'
        "            own.check()\n        return read(self, name)",
        '        if getcurrent().parent is None and name[:2] != "__":\n'
        "            own.check()\n        return read(self, name)",
        f"{STRANGER}[own-a held sync_session's get from the identity map]",
    ),
    mutant(
        "sessions: reading an attribute is not checked",
        twin,
        "            own.check()\n        return read(self, name)",
        "            pass\n        return read(self, name)",
        STRANGER,
    ),
    mutant(
        "sessions: writing an attribute is not checked",
        twin,
        "            own.check()\n        write(self, name, value)",
        "            pass\n        write(self, name, value)",
        f"{STRANGER}[own-autoflush =]",
        f"{GUARD}::test_setting_is_checked_by_itself",
    ),
    mutant(
        "sessions: a given session is not guarded",
        database,
        '        own = guard(sync_session, scope, lambda: scope.transaction == "read_only")\n',
        "        own = SessionGuard(scope, bool)\n",
        STRANGER,
    ),
    mutant(
        "sessions: a given session stays guarded",
        database,
        '        scope.root._finalisers().add(lambda: self._release(sync_session, own), "release db_session")\n',
        "",
        f"{GUARD}::test_a_given_session_is_its_givers_again",
    ),
    mutant(
        "sessions: another's own session may be given",
        database,
        '            if known.owner.state != "closed":\n                raise known.foreign(scope)\n',
        '            if known.owner.state != "closed":\n                return\n',
        f"{GUARD}::test_a_session_of_one_request_cannot_be_given_to_another",
    ),
    mutant(
        "sessions: an ended session may be given",
        database,
        "            if known.is_closed:\n                raise known.scope._closed_error()\n",
        "",
        f"{GUARD}::test_a_session_of_one_request_cannot_be_given_to_another",
    ),
    mutant(
        "sessions: a mock is believed",
        database,
        "        if not issubclass(type(session), AsyncSession):  #",
        "        if not isinstance(session, AsyncSession):  #",
        f"{DATABASE}::test_what_is_no_session_is_left_alone",
    ),
    # --- one task at a time
    mutant(
        "sessions: two tasks at once",
        guard,
        "                raise self._in_use()\n",
        "                return\n",
        f"{GUARD}::test_two_statements_at_once_are_refused",
    ),
    mutant(
        "sessions: a call within a call is refused",
        guard,
        "            if self._task is not _current_task():\n",
        "            if True:\n",
        f"{DATABASE}::test_a_connection_that_comes_back_in_time_is_taken",
    ),
    mutant(
        "sessions: any greenlet counts as a call",
        guard,
        '        elif getattr(current, "__sqlalchemy_greenlet_provider__", False):\n',
        "        elif current.parent is not None:\n",
        f"{GUARD}::test_an_event_loop_in_a_greenlet_admits_nobody",
    ),
    # --- connections
    mutant(
        "sessions: a held connection's statements are not checked",
        connections,
        "    guard.check()\n    effect = effect_of(statement)",
        "    effect = effect_of(statement)",
        f"{GUARD}::test_a_statement_is_checked_when_it_is_sent",
    ),
    mutant(
        "sessions: a held connection is not watched",
        connections,
        "    connection.__class__ = WatchedConnection\n",
        "",
        f"{STRANGER}[own-a held connection's commit]",
        f"{STRANGER}[own-a held connection's driver connection]",
    ),
    mutant(
        "sessions: connections from before are not watched",
        twin,
        "    for connection in held:\n        connections.watch(own, connection)\n",
        "",
        f"{GUARD}::test_a_connection_from_before_is_guarded_too",
    ),
    mutant(
        "sessions: the way to the driver's connection is open",
        connections,
        "    _checked(Connection.connection.fget)  # type: ignore[attr-defined]",
        "    Connection.connection.fget  # type: ignore[attr-defined]",
        f"{GUARD}::test_a_held_connections_transaction_cannot_be_ended",
    ),
    # --- waiting
    mutant(
        "sessions: a child waits for its parent's connection",
        waits,
        "    if ancestor is None:\n        return connect()\n",
        "    if True:\n        return connect()\n",
        f"{DATABASE}::test_every_way_to_a_connection_is_limited",
    ),
    mutant(
        "sessions: a flush takes its connection unlimited",
        twin,
        "        if self._flushing:\n            self._connection_for_bind(bind)\n",
        "",
        f"{DATABASE}::test_every_way_to_a_connection_is_limited[flush]",
    ),
    mutant(
        "sessions: only the parent counts as an ancestor",
        guard,
        "                yield scope, other\n            scope = scope.parent",
        "                yield scope, other\n            scope = None",
        f"{DATABASE}::test_every_way_to_a_connection_is_limited[deeper]",
    ),
    mutant(
        "sessions: another pool counts",
        waits,
        "        if any(held.engine.pool is engine.pool for held in other.held()):",
        "        if other.held():",
        f"{DATABASE}::test_another_pool_is_no_reason_to_refuse",
    ),
    mutant(
        "sessions: plain contention is limited",
        waits,
        "    ancestor = _holding_ancestor(guard, engine)\n    if ancestor is None:\n",
        "    ancestor = _holding_ancestor(guard, engine) or guard.scope.parent\n"
        "    if ancestor is None:\n",
        f"{DATABASE}::test_plain_contention_keeps_the_pools_own_timeout",
    ),
    mutant(
        "sessions: a child waits for its parent's lock",
        waits,
        "        _wait_for_writers(guard, connection)\n",
        "        pass\n",
        f"{DATABASE}::test_a_child_does_not_wait_for_its_parents_lock",
    ),
    mutant(
        "sessions: a child waits for its parent's row lock",
        waits,
        "        _limit_locks(guard, connection)\n",
        "        pass\n",
        f"{POSTGRES}::test_a_child_does_not_wait_for_its_parents_row_lock",
    ),
    mutant(
        "sessions: a row lock names nobody",
        waits,
        '    if "due to lock timeout" in message:\n',
        "    if False:\n",
        f"{POSTGRES}::test_a_child_does_not_wait_for_its_parents_row_lock",
    ),
    mutant(
        "sessions: a shared connection counts as a lock",
        waits,
        "        if _driver_of(written) is not _driver_of(connection):\n",
        "        if True:\n",
        f"{DATABASE}::test_one_connection_for_all_is_no_lock",
    ),
    mutant(
        "sessions: SQLite's refusal names nobody",
        connections,
        '    event.listen(engine, "handle_error", _on_error)\n',
        "",
        f"{DATABASE}::test_sqlites_own_refusal_names_the_ancestor",
    ),
    # --- by numbers
    mutant(
        "sessions: numbers: the response goes first",
        "integrations/_exchange.py",
        '                if not await self._is_settled(message["status"]):\n'
        "                    return\n",
        "                pass\n",
        "tests/integration/test_commit_order.py::test_a_client_that_saw_2xx_finds_its_row",
    ),
    mutant(
        "sessions: numbers: a stranger is admitted",
        guard,
        "if here is None or here._root is not self._admitted or here._state is CLOSED:",
        "if here is None or here._state is CLOSED:",
        f"{BY_DRIVER}::test_every_foreign_use_is_refused",
    ),
    mutant(
        "sessions: numbers: a session is not closed",
        database,
        "        scope.callback(self._close_session, scope, session, own)\n",
        "",
        "tests/integration/test_cancellations.py",
    ),
    # --- attributes that are not loaded
    mutant(
        "sessions: attributes: nobody says what to do",
        twin,
        "            _check_is_awaited()\n",
        "            pass\n",
        f"{BY_DRIVER}::test_an_attribute_that_is_not_loaded_says_what_to_do",
    ),
    mutant(
        "sessions: attributes: a call that is awaited is refused",
        twin,
        '    if getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False):\n        return\n',
        "",
        f"{BY_DRIVER}::test_what_was_loaded_stays_readable_after_the_session",
    ),
    # --- held connections
    mutant(
        "sessions: times: a statement is idleness",
        connections,
        "    _work(connection)\n    if effect ==",
        "    if effect ==",
        f"{TIMES}::test_what_a_model_thinks_is_idle",
    ),
    mutant(
        "sessions: times: after a statement nothing is idle",
        connections,
        '    event.listen(engine, "after_cursor_execute", _after_cursor_execute)\n',
        "",
        f"{TIMES}::test_what_a_model_thinks_is_idle",
    ),
    mutant(
        "sessions: times: a statement's own time is idle",
        connections,
        "    _work(connection)\n    if effect ==",
        "    _rest(connection)\n    if effect ==",
        f"{TIMES}::test_what_a_model_thinks_is_idle",
    ),
    mutant(
        "sessions: times: idleness goes on through a statement",
        times,
        "        since, self._idle_since = self._idle_since, None\n",
        "        since = self._idle_since\n",
        f"{TIMES}::test_what_a_model_thinks_is_idle",
    ),
    mutant(
        "sessions: times: after a failed statement nothing is idle",
        connections,
        "    else:\n        _rest(connection)\n    guard.failed_on",
        "    guard.failed_on",
        f"{TIMES}::test_after_a_statement_that_failed_it_is_idle",
    ),
    mutant(
        "sessions: times: a commit is idleness",
        connections,
        '    event.listen(engine, "commit", _before_commit)\n',
        "",
        f"{TIMES}::test_ending_a_transaction_is_no_idleness",
    ),
    mutant(
        "sessions: times: a rollback is idleness",
        connections,
        '    event.listen(engine, "rollback", _work)\n',
        "",
        f"{TIMES}::test_ending_a_transaction_is_no_idleness",
    ),
    mutant(
        "sessions: times: a stream is idleness",
        connections,
        '    if not context.execution_options.get("stream_results"):\n        _rest(connection)\n',
        "    _rest(connection)\n",
        f"{TIMES}::test_a_stream_is_not_called_idle",
    ),
    mutant(
        "sessions: times: giving back is not noticed",
        connections,
        "    finally:\n        times.given_back()\n",
        "    finally:\n        pass\n",
        f"{TIMES}::test_what_a_model_thinks_is_idle",
    ),
    mutant(
        "sessions: times: a given session's connection is not counted",
        connections,
        "    vars(connection).pop(TIMES).given_back()\n",
        "    vars(connection).pop(TIMES)\n",
        f"{TIMES}::test_given_sessions_and_children_count_too",
    ),
    mutant(
        "sessions: times: the last stretch is not counted",
        times,
        "        self.work()\n        began,",
        "        began,",
        f"{TIMES}::test_given_sessions_and_children_count_too",
    ),
    mutant(
        "sessions: times: there is no warning",
        times,
        "            self._warn(stretch)\n",
        "            pass\n",
        f"{TIMES}::test_a_long_stretch_is_named_once",
    ),
    mutant(
        "sessions: times: a warning for every stretch",
        times,
        " and not self._has_warned:",
        ":",
        f"{TIMES}::test_a_long_stretch_is_named_once",
    ),
    mutant(
        "sessions: times: stretches add up to a warning",
        times,
        "limit and stretch > limit",
        "limit and self._idle > limit",
        f"{TIMES}::test_a_short_one_is_not_nor_any_where_it_is_off",
    ),
    mutant(
        "sessions: times: zero means at once",
        times,
        "        if limit and stretch",
        "        if stretch",
        f"{TIMES}::test_a_short_one_is_not_nor_any_where_it_is_off",
    ),
    # --- policies
    mutant(
        "sessions: a failed scope is committed",
        database,
        "        commits = scope.ended_well and self._policy_of(scope) in _COMMITTING\n",
        "        commits = self._policy_of(scope) in _COMMITTING\n",
        f"{DATABASE}::test_a_failed_scope_is_rolled_back",
    ),
    mutant(
        "sessions: a manual scope is committed",
        database,
        "        commits = scope.ended_well and self._policy_of(scope) in _COMMITTING\n",
        "        commits = scope.ended_well\n",
        f"{DATABASE}::test_at_the_end[manual-False]",
    ),
    mutant(
        "sessions: a status is not asked for",
        database,
        "        commits = self.commit_when(status)\n",
        "        commits = True\n",
        f"{DATABASE}::test_the_response_settles",
    ),
    mutant(
        "sessions: after a failed commit the rest is left open",
        database,
        "                await roll_back_all([(session, own), *open_sessions], error)\n",
        "",
        f"{DATABASE}::test_a_commit_that_fails_is_raised_and_the_rest_is_rolled_back",
    ),
    mutant(
        "sessions: the order of opening does not matter",
        database,
        "        return sorted(found, key=lambda pair: pair[1].number)\n",
        "        return found\n",
        f"{DATABASE}::test_the_response_commits_the_whole_tree_first_opened_first",
    ),
    mutant(
        "sessions: the response settles a session in use",
        database,
        "            if own.is_busy:\n",
        "            if False:\n",
        f"{DATABASE}::test_a_session_in_use_is_left_to_its_own_end",
    ),
    mutant(
        "sessions: a scope's own policy is overruled by the response",
        database,
        '(scope.transaction or self.policy) != "commit_before_response"',
        'self.policy != "commit_before_response"',
        f"{DATABASE}::test_a_scope_that_says_so_keeps_to_its_own_policy",
    ),
    mutant(
        "sessions: what settles has to run in the tree",
        guard,
        "        if self._servant is not None and self._servant is _current_task():\n"
        "            return\n",
        "",
        f"{DATABASE}::test_the_response_may_start_in_another_scope",
    ),
    mutant(
        "sessions: read only may flush",
        twin,
        "            raise connections.read_only(own.scope)\n",
        "            pass\n",
        f"{DATABASE}::test_read_only_holds_for_given_sessions_too",
        f"{DATABASE}::test_read_only_refuses_before_a_flush_begins",
    ),
    mutant(
        "sessions: read only may execute changes",
        connections,
        '    if effect == "writes" and guard.is_read_only():\n        raise read_only(guard.scope)\n',
        "",
        f"{DATABASE}::test_read_only_refuses_to_write",
    ),
    mutant(
        "sessions: unsaved changes are released",
        database,
        "        raise DatabasePolicyError(\n"
        '            "The session has changes that are not committed.",\n'
        '            "Commit them first, or use `released_connection(commit=True)`.",\n'
        "        )\n",
        "        pass\n",
        f"{DATABASE}::test_unsaved_changes_are_not_released",
    ),
    mutant(
        "sessions: what a statement wrote is released",
        connections,
        "    guard.wrote(connection)\n",
        "",
        f"{DATABASE}::test_unsaved_changes_are_not_released",
    ),
    mutant(
        "sessions: an explicit block is released",
        database,
        "    if transaction.origin is SessionTransactionOrigin.BEGIN or session.in_nested_transaction():",
        "    if False:",
        f"{DATABASE}::test_an_explicit_block_is_not_released",
    ),
    # --- closing
    mutant(
        "sessions: a closed session opens again",
        database,
        "expire_on_commit=self.expire_on_commit, close_resets_only=False",
        "expire_on_commit=self.expire_on_commit",
        f"{DATABASE}::test_a_closed_session_does_not_open_again",
    ),
    mutant(
        "sessions: a session is not closed",
        database,
        "        scope.callback(self._close_session, scope, session, own)\n",
        "",
        f"{DATABASE}::test_at_the_end",
    ),
    mutant(
        "sessions: calls under way are not awaited",
        database,
        "            await until_idle(own, scope.settings.finaliser_timeout / 2)\n",
        "",
        f"{DATABASE}::test_a_call_that_does_not_end_is_cut_off",
    ),
    mutant(
        "sessions: a connection in doubt goes back to the pool",
        endings,
        "    for connection in held:\n"
        "        with contextlib.suppress(Exception):\n"
        "            await session.run_sync(_drop, connection)\n",
        "",
        f"{DATABASE}::test_a_connection_that_was_left_behind_is_dropped",
    ),
    mutant(
        "sessions: a connection that is left behind is not noticed",
        database,
        "                or own.held()\n",
        "",
        f"{DATABASE}::test_a_connection_that_was_left_behind_is_dropped",
    ),
    mutant(
        "sessions: an ended scope keeps its session",
        database,
        "        scope._more().session = None  # a scope and its session would be a cycle\n",
        "",
        f"{DATABASE}::test_an_ended_scope_keeps_no_session",
    ),
    mutant(
        "5: a commit that fails costs its connection",
        "integrations/sqlalchemy.py",
        "                is_given_back = await close_settled(session, own)\n                raise\n",
        "                raise\n",
        "tests/integrations/test_sqlalchemy.py::test_a_commit_that_fails_at_the_end_is_raised",
    ),
    mutant(
        "5: an aborted transaction is committed without a word",
        "integrations/_session_connections.py",
        "            Connection.scalar(connection, select(literal(1)))\n",
        "            pass\n",
        "tests/integration/test_commit_order.py::test_what_a_caught_error_has_aborted_is_no_201",
    ),
    mutant(
        "5: what nobody heard the end of is committed",
        "integrations/asgi.py",
        "                    root._more().is_cut_short = True  # nor when nobody heard the end of it\n",
        "                    pass\n",
        "tests/integrations/test_asgi_database.py::test_what_a_stream_wrote_is_kept_only_if_somebody_heard_its_end",
    ),
    mutant(
        "5: the policy of requests holds from the response on",
        "integrations/asgi.py",
        "                fence.database.serve(root)\n",
        "                pass\n",
        "tests/integrations/test_asgi_database.py::test_read_only_holds_from_the_first_statement_of_a_request",
    ),
    mutant(
        "sessions: a second statement is not looked at",
        "integrations/_session_connections.py",
        '        return "writes"\n    if "FOR" in upper',
        '        return "reads"\n    if "FOR" in upper',
        "tests/integrations/test_sqlalchemy.py::test_what_a_statement_does",
    ),
    mutant(
        "numbers: a lost connection is held",
        "integrations/_session_connections.py",
        "    Connection.invalidate(connection, exception)\n    _lost(connection)\n",
        "    Connection.invalidate(connection, exception)\n",
        "tests/integration/test_connection_times.py::test_a_connection_that_is_lost_is_held_no_longer",
    ),
    mutant(
        "5: an aborted transaction goes back to the pool",
        "integrations/_session_connections.py",
        "            connection._rollback_impl()  # SQLAlchemy takes a COMMIT that failed for the end of it\n",
        "            pass\n",
        "tests/integration/test_commit_order.py::test_the_next_request_finds_a_sound_connection",
    ),
    # --- where a PostgreSQL for tests is
    mutant(
        "sessions: an address that names a driver is handed on",
        postgres,
        '    return f"postgresql://{rest}"\n',
        "    return address\n",
        ADDRESS,
    ),
    mutant(
        "sessions: an address that is refused shows its password",
        postgres,
        'The address of the PostgreSQL to test against does not begin with `postgresql://`."',
        'The address of the PostgreSQL to test against does not begin right." + address',
        ADDRESS,
    ),
    mutant(
        "sessions: another user's unsaved work is taken over",
        "integrations/_session_handover.py",
        "    elif user != _user_of(scope.root):\n",
        "    elif False:\n",
        "tests/integrations/test_session_handover.py",
    ),
    mutant(
        "sessions: what was flushed is no unsaved work",
        "integrations/_session_handover.py",
        "    if has_changes(sync_session) or own.written_on is not None:\n",
        "    if has_changes(sync_session):\n",
        "tests/integrations/test_session_handover.py",
    ),
]
