"""Defects of the bridges to LangChain and to MCP: whose a run, a thread or a message is."""

from __future__ import annotations

from .mutant import Mutant, mutant

LANGCHAIN = "tests/frameworks/test_langchain.py"
MCP = "tests/frameworks/test_mcp.py"

chain = "integrations/langchain.py"
threads = "integrations/_owned_threads.py"
checkpoints = "integrations/_owned_checkpoints.py"
called = "integrations/_called_tools.py"
held = "integrations/_held_blocks.py"
bridge = "integrations/mcp.py"

ELSEWHERE = f"{LANGCHAIN}::test_a_run_for_another_user_is_refused"
THREADS = f"{LANGCHAIN}::test_a_thread_of_another_is_refused_everywhere"
SAVED = f"{LANGCHAIN}::test_a_checkpointer_that_gives_threads_to_their_user_alone"
ENDS = f"{LANGCHAIN}::test_every_beginning_has_one_end"
CROWD = f"{LANGCHAIN}::test_fifty_users_at_one_agent"
GRAPH = f"{LANGCHAIN}::test_without_nodes_of_ours_they_share_a_session"
NODES = f"{LANGCHAIN}::test_a_tool_node_and_a_node_check_it_themselves"
BOUND = f"{LANGCHAIN}::test_a_stream_that_outlives_its_scope_is_refused"
BLOCKED = f"{LANGCHAIN}::test_who_blocks_the_event_loop_is_told_so"

OPENED = f"{MCP}::test_a_session_that_another_opened_runs_as_who_calls"
FORGED = f"{MCP}::test_a_forged_credential_is_refused_and_nothing_lost"
SAME = f"{MCP}::test_in_one_process_the_clients_user_is_not_the_servers"
PARENT = f"{MCP}::test_the_scope_of_the_request_is_the_parent"
SERVED = f"{MCP}::test_every_beginning_has_one_end"
BOUNDARY = f"{MCP}::test_behind_the_boundary_it_is_whom_that_identified"

MUTANTS: list[Mutant] = [
    # --- LangChain: whose a run is
    mutant(
        "langchain: a context of another user will do",
        chain,
        "    check_explicit(context)\n",
        "",
        ELSEWHERE,
    ),
    mutant(
        "langchain: a configurable of another user will do",
        chain,
        "    check_explicit(configurable)\n",
        "",
        ELSEWHERE,
    ),
    mutant(
        "langchain: any thread will do",
        chain,
        "    return None if thread is None else checked_thread(thread)\n",
        "    return None if thread is None else str(thread)\n",
        f"{LANGCHAIN}::test_the_middleware_refuses_what_comes_past_run",
    ),
    mutant(
        "langchain: an empty thread id is none",
        chain,
        "    return None if thread is None else checked_thread(thread)\n",
        "    return checked_thread(thread) if thread else None\n",
        f"{LANGCHAIN}::test_the_middleware_refuses_what_comes_past_run",
    ),
    mutant(
        "langchain: a tool node asks for nobody",
        chain,
        "    _check(request.runtime.context, request.runtime.config)\n    remember_loop()\n",
        "    remember_loop()\n",
        NODES,
    ),
    mutant(
        "langchain: a model is asked for anybody",
        chain,
        "        _check(request.runtime.context, get_config())\n        remember_loop()\n"
        "        await thinking()\n",
        "        remember_loop()\n        await thinking()\n",
        ELSEWHERE,
    ),
    mutant(
        "langchain: a plain model is asked for anybody",
        chain,
        "        _check(request.runtime.context, get_config())\n        call_in_loop(thinking)\n",
        "        call_in_loop(thinking)\n",
        ELSEWHERE,
    ),
    mutant(
        "langchain: a node runs for anybody",
        chain,
        "        _check(get_runtime().context, get_config())\n        remember_loop()\n",
        "        remember_loop()\n",
        NODES,
    ),
    mutant(
        "langchain: the run around is forgotten",
        chain,
        "    whole = ensure_config(config)  # with what the run around this one says\n",
        "    whole = config or {}\n",
        f"{LANGCHAIN}::test_a_run_knows_the_thread_that_it_is_in",
    ),
    # --- LangChain: threads
    Mutant(
        "threads: separators in ids are taken for ours",
        (
            (threads, 'quote(thread_id, safe="")', "thread_id"),
            (threads, "{quote(context.user_id, safe='')}", "{context.user_id}"),
        ),
        (f"{LANGCHAIN}::test_separators_in_ids_make_no_key_of_another",),
    ),
    mutant(
        "threads: tenants share theirs",
        threads,
        '    tenant = quote(context.tenant_id or "", safe="")  # no tenant\'s id is empty\n',
        '    tenant = ""\n',
        f"{LANGCHAIN}::test_separators_in_ids_make_no_key_of_another",
    ),
    mutant(
        "threads: whoever spells it otherwise has another",
        threads,
        "        if thread and thread_key(context, thread) == key and _is_id(thread):\n",
        "        if thread and _is_id(thread):\n",
        THREADS,
    ),
    mutant(
        "threads: what is no id is one",
        threads,
        "        if thread and thread_key(context, thread) == key and _is_id(thread):\n",
        "        if thread_key(context, thread) == key:\n",
        THREADS,
    ),
    mutant(
        "threads: a config keeps another's",
        chain,
        '    if configurable.get("thread_id") not in (None, key):\n',
        "    if False:\n",
        f"{LANGCHAIN}::test_what_an_owned_thread_keeps_of_a_config",
    ),
    mutant(
        "threads: a config is changed in place",
        chain,
        '    merged["configurable"] = configurable | {"thread_id": key}\n',
        '    configurable["thread_id"] = key\n',
        f"{LANGCHAIN}::test_what_an_owned_thread_keeps_of_a_config",
    ),
    mutant(
        "checkpoints: any thread is read",
        checkpoints,
        "        checked_thread(key)\n        with self._lock:\n",
        "        with self._lock:\n",
        SAVED,
    ),
    mutant(
        "checkpoints: a list that was begun is read on by anybody",
        checkpoints,
        "            yield checkpoint\n            self._opened.owned(owned)\n\n    async def _aeach(\n",
        "            yield checkpoint\n\n    async def _aeach(\n",
        f"{LANGCHAIN}::test_a_list_of_checkpoints_is_read_by_its_user_alone",
    ),
    mutant(
        "checkpoints: nobody writes to any thread",
        checkpoints,
        "        if current_scope_or_none() is None and self._is_open(_key_of(config)):\n",
        "        if current_scope_or_none() is None:\n",
        SAVED,
    ),
    mutant(
        "checkpoints: a thread stays open for ever",
        checkpoints,
        '        return any(root.state == "open" and key in keys for root, keys in held)\n',
        "        return any(key in keys for root, keys in held)\n",
        f"{LANGCHAIN}::test_a_plain_run_writes_from_threads_in_which_nobody_is",
    ),
    mutant(
        "checkpoints: a clone for each run forgets which are open",
        checkpoints,
        "        other._opened = self._opened\n",
        "",
        f"{LANGCHAIN}::test_a_plain_run_writes_from_threads_in_which_nobody_is",
    ),
    mutant(
        "checkpoints: anybody deletes",
        checkpoints,
        "        checked_thread(thread_id)\n        await self._saver.adelete_thread(thread_id)\n",
        "        await self._saver.adelete_thread(thread_id)\n",
        SAVED,
    ),
    # --- LangChain: blocks
    mutant(
        "langchain: tools have no block",
        chain,
        '    return await work_as_tool(call["name"], call["id"], work, _is_error)\n',
        "    return await execute(request)\n",
        CROWD,
    ),
    mutant(
        "langchain: nodes have no block",
        chain,
        "        async with child_context(name):\n            return await fn(*args, **kwargs)\n",
        "        return await fn(*args, **kwargs)\n",
        f"{LANGCHAIN}::test_a_node_may_be_an_object",
    ),
    mutant(
        "langchain: a stream ends when it likes",
        chain,
        "                        raise _LeftEarly from None\n",
        "                        raise\n",
        ENDS,
    ),
    mutant(
        "langchain: a stream is nobody's",
        chain,
        "    return bound_stream(_items(agent, input, name, config, context, timeout, options))\n",
        "    return _items(agent, input, name, config, context, timeout, options)\n",
        BOUND,
        f"{LANGCHAIN}::test_a_stream_in_the_hands_of_another_user_stays_its_own",
    ),
    mutant(
        "langchain: an interrupt is a failure like any other",
        chain,
        '        told.data["interrupted"] = True\n',
        "        pass\n",
        f"{LANGCHAIN}::test_an_interrupted_run_is_resumed_by_its_user",
    ),
    mutant(
        "tools: one that answers with an error has succeeded",
        called,
        "            if is_error(answer):\n",
        "            if False:\n",
        ENDS,
        f"{MCP}::test_every_beginning_has_one_end",
    ),
    mutant(
        "tools: a name may be anything",
        called,
        "    if type(name) is str and name.strip() and name.isprintable() and len(name) <= _MAX_NAME:\n",
        "    if type(name) is str:\n",
        f"{LANGCHAIN}::test_names_that_models_invent_end_nothing",
    ),
    mutant(
        "held: an exit ends the event loop",
        held,
        "            self._over.set_result(asyncio.CancelledError() if is_exit else error)\n",
        "            self._over.set_result(error)\n",
        f"{LANGCHAIN}::test_an_exit_in_a_plain_tool_ends_its_block_and_no_event_loop",
    ),
    mutant(
        "held: a blocked loop is waited for",
        held,
        "    if _runs_here(loop) or not answered.wait(LOOP_TIMEOUT):\n",
        "    if _runs_here(loop):\n",
        BLOCKED,
    ),
    mutant(
        "held: the loop waits for itself",
        held,
        "    if _runs_here(loop) or not answered.wait(LOOP_TIMEOUT):\n",
        "    if not _runs_here(loop) and not answered.wait(LOOP_TIMEOUT):\n",
        BLOCKED,
    ),
    mutant(
        "held: work runs outside its block",
        held,
        "            result = context.run(work, value)\n",
        "            result = work(value)\n",
        f"{LANGCHAIN}::test_fifty_users_at_one_agent",
    ),
    # --- MCP
    mutant(
        "mcp: a message is of whoever is current",
        bridge,
        "        if identity is None or identity.is_expired():\n",
        "        if ambient is not None and ambient.has_user:\n"
        "            return contextlib.nullcontext()\n"
        "        if identity is None or identity.is_expired():\n",
        SAME,
    ),
    mutant(
        "mcp: identify sees who is current",
        bridge,
        "        async with self._hiding(ambient):\n",
        "        async with contextlib.nullcontext():\n",
        f"{MCP}::test_identify_does_not_see_who_is_current",
    ),
    mutant(
        "mcp: the scope that is open may be another's",
        bridge,
        "        check_explicit(identity)\n",
        "",
        f"{MCP}::test_a_message_of_another_user_than_its_request_is_refused",
    ),
    mutant(
        "mcp: a request has no parent",
        bridge,
        "        return contextlib.nullcontext()\n\n    def _unidentified",
        "        return user_context(identity, fence=self.fence)\n\n    def _unidentified",
        PARENT,
    ),
    mutant(
        "mcp: a client's application is the server's",
        bridge,
        "        if ambient._recipes is not self.fence:  # a client and its server in one process\n",
        "        if False:\n",
        f"{MCP}::test_a_server_of_another_application_has_a_root_of_its_own",
    ),
    mutant(
        "mcp: who says nothing is let in as nobody",
        bridge,
        "        if self.required and not (is_for_anybody and expired is None):\n",
        "        if False:\n",
        OPENED,
    ),
    mutant(
        "mcp: an identity holds for ever",
        bridge,
        "        if identity is None or identity.is_expired():\n",
        "        if identity is None:\n",
        f"{MCP}::test_an_identity_that_has_expired",
    ),
    mutant(
        "mcp: nobody may connect",
        bridge,
        "        is_for_anybody = ctx.request_id is None or ctx.method in _FOR_ANYBODY\n",
        "        is_for_anybody = False\n",
        f"{MCP}::test_what_a_connection_needs_is_for_anybody",
    ),
    mutant(
        "mcp: tools have no block",
        bridge,
        '    if ctx.method != "tools/call":\n',
        "    if True:\n",
        SERVED,
    ),
    mutant(
        "mcp: a token of an application is a user's",
        bridge,
        "    if not isinstance(user, AuthenticatedUser) or user.access_token.subject is None:\n",
        "    if not isinstance(user, AuthenticatedUser):\n",
        f"{MCP}::test_a_token_without_a_subject_is_an_applications",
    ),
    mutant(
        "mcp: behind a boundary it is whoever is current",
        bridge,
        '    root = scope.get("ringfence")\n',
        "    root = current_scope_or_none() and scope.get('none')\n",
        BOUNDARY,
    ),
    mutant(
        "mcp: a credential may be anything",
        bridge,
        "        if type(credential) is not str or not 0 < len(credential) <= MAX_CREDENTIAL:\n",
        "        if credential is None:\n",
        FORGED,
    ),
    mutant(
        "mcp: a client is told what went wrong on leaving",
        bridge,
        "            raise _failure(error) from error\n",
        "            raise\n",
        f"{MCP}::test_a_failure_on_leaving_tells_the_client_nothing",
    ),
    mutant(
        "mcp: a client is told what identify met",
        bridge,
        "        except Exception as error:\n            raise _refusal(error, _status_of(error)) from error\n",
        "        except RingfenceError as error:\n            raise _refusal(error, _status_of(error)) from error\n",
        f"{MCP}::test_what_identify_meets_is_not_told",
    ),
    mutant(
        "mcp: meta is of whoever the run was for",
        bridge,
        "        return {CREDENTIAL: _checked(credential(check_explicit(given)))}\n",
        "        return {CREDENTIAL: _checked(credential(given or check_explicit(None)))}\n",
        f"{MCP}::test_the_openai_agents_sdk_asks_for_meta",
    ),
    mutant(
        "mcp: anything is sent as a credential",
        bridge,
        "    if type(credential) is str and 0 < len(credential) <= MAX_CREDENTIAL:\n",
        "    if credential is not object:\n",
        f"{MCP}::test_what_nobody_can_sign_is_not_sent",
    ),
    mutant(
        "mcp: an older one will do",
        bridge,
        'if int(_VERSION.partition(".")[0]) < 2:\n',
        "if False:\n",
        f"{MCP}::test_an_older_mcp_is_refused",
    ),
]
