"""Defects of the modules for pydantic-ai and openai-agents: whose work it is, and its endings."""

from __future__ import annotations

from .mutant import Mutant, mutant

PYDANTIC = "tests/frameworks/test_pydantic_ai.py"
OPENAI = "tests/frameworks/test_openai_agents.py"

pydantic = "integrations/pydantic_ai.py"
openai = "integrations/openai_agents.py"
agent = "integrations/_openai_agent.py"
tools = "integrations/_openai_tools.py"
hooks = "integrations/_openai_hooks.py"
at_work = "integrations/_tools_at_work.py"

FIFTY = "test_fifty_users_of_one_agent_are_fifty"
PYDANTIC_FIFTY = f"{PYDANTIC}::{FIFTY}[by_run-asyncio]"
OPENAI_FIFTY = f"{OPENAI}::{FIFTY}[False-by_run-asyncio]"
PYDANTIC_CANCELLED = f"{PYDANTIC}::test_a_run_that_is_cancelled_ends_its_tools_first"
OPENAI_CLEAN_UP = f"{OPENAI}::test_the_clean_up_of_tools_is_waited_for"
LEFT_EARLY = f"{OPENAI}::test_a_stream_that_is_left_early_leaves_nothing"
PLAIN = f"{OPENAI}::test_a_plain_agent_is_refused"

MUTANTS: list[Mutant] = [
    # --- pydantic-ai
    mutant(
        "pydantic-ai: a run takes anybody's dependencies",
        pydantic,
        "        check_explicit(ctx.deps)\n        before",
        "        before",
        f"{PYDANTIC}::test_dependencies_that_two_users_share_are_refused",
    ),
    mutant(
        "pydantic-ai: a tool takes anybody's dependencies",
        pydantic,
        "        scope._require_here()\n        check_explicit(ctx.deps)\n",
        "        scope._require_here()\n",
        f"{PYDANTIC}::test_dependencies_are_compared_at_each_tool",
    ),
    mutant(
        "pydantic-ai: a run goes on in another user's scope",
        pydantic,
        "        scope._require_here()\n",
        "",
        f"{PYDANTIC}::test_a_run_does_not_go_on_in_another_users_scope",
    ),
    mutant(
        "pydantic-ai: all runs of an agent are one",
        pydantic,
        "        return dataclasses.replace(self)\n",
        "        return self\n",
        PYDANTIC_FIFTY,
    ),
    mutant(
        "pydantic-ai: tools have no context of their own",
        pydantic,
        "tool_call(call.tool_name, call_id=call.tool_call_id) as run:",
        "contextlib.AsyncExitStack() as run:",
        f"{PYDANTIC}::test_what_a_tool_writes_is_kept_if_it_succeeds",
    ),
    mutant(
        "pydantic-ai: the user is not told that it thinks",
        pydantic,
        "        await thinking(step=ctx.run_step)\n",
        "",
        PYDANTIC_FIFTY,
    ),
    mutant(
        "pydantic-ai: others stand around it",
        pydantic,
        'CapabilityOrdering(position="outermost")',
        "CapabilityOrdering()",
        f"{PYDANTIC}::test_it_is_around_the_others",
    ),
    mutant(
        "pydantic-ai: a generator carries the context of a run out",
        pydantic,
        "        _refuse_generators(sys._getframe(1))\n",
        "",
        f"{PYDANTIC}::test_a_run_does_not_carry_its_context_out_of_a_generator",
    ),
    mutant(
        "pydantic-ai: it waits to be loaded",
        pydantic,
        "        if self.defer_loading:\n",
        "        if False:\n",
        f"{PYDANTIC}::test_it_cannot_wait_to_be_loaded",
    ),
    mutant(
        "pydantic-ai: a tool that waits for approval has failed",
        pydantic,
        "            except (*_DEFERRALS, SkipToolExecution) as error:\n",
        "            except SkipToolExecution as error:\n",
        f"{PYDANTIC}::test_a_tool_that_waits_for_approval_has_not_failed",
    ),
    mutant(
        "pydantic-ai: a tool that is skipped has failed",
        pydantic,
        "            except (*_DEFERRALS, SkipToolExecution) as error:\n",
        "            except _DEFERRALS as error:\n",
        f"{PYDANTIC}::test_a_tool_that_is_skipped_has_not_failed",
    ),
    mutant(
        "pydantic-ai: what is used counts on from run to run",
        pydantic,
        "usage.input_tokens - before.input_tokens",
        "usage.input_tokens",
        f"{PYDANTIC}::test_the_end_says_what_was_used",
    ),
    mutant(
        "pydantic-ai: tools outlast their run",
        pydantic,
        "outlasting_tools(self._cancel_tools)",
        "outlasting_tools()",
        PYDANTIC_CANCELLED,
    ),
    # --- both
    mutant(
        "frameworks: the clean-up of tools finds its scope ended",
        at_work,
        "        await _wait_for_children(scope)\n",
        "        pass\n",
        PYDANTIC_CANCELLED,
        OPENAI_CLEAN_UP,
    ),
    mutant(
        "frameworks: a second cancellation ends the wait for tools",
        at_work,
        "            cancelled = await wait_out(over, left) or cancelled\n",
        "            await over.wait()\n",
        OPENAI_CLEAN_UP,
    ),
    # --- openai-agents: tools
    mutant(
        "openai-agents: a tool takes anybody's context",
        tools,
        "    check_explicit(explicit_in(ctx))\n",
        "",
        f"{OPENAI}::test_contexts_are_compared_at_each_tool",
    ),
    mutant(
        "openai-agents: what a failed tool has written is committed",
        tools,
        "            if failures:\n                raise failures[-1]\n",
        "",
        f"{OPENAI}::test_what_a_tool_writes_is_kept_if_it_succeeds",
    ),
    mutant(
        "openai-agents: a model is told what was refused",
        tools,
        "        if refused is not None:  # no matter for a model\n",
        "        if False:\n",
        f"{OPENAI}::test_what_is_refused_in_a_tool_is_no_answer_for_the_model",
    ),
    mutant(
        "openai-agents: what the application makes of a refusal is lost",
        tools,
        "    while isinstance(error, AgentsException):\n",
        "    while error is not None and not isinstance(error, (RingfenceError, ExceptionGroup)):\n",
        f"{OPENAI}::test_what_the_application_makes_of_a_refusal_is_its_own",
    ),
    mutant(
        "openai-agents: a copy of a tool is not guarded",
        tools,
        "        guard = self._around(self)\n",
        "        guard = super().__agents_bind_function_tool__(function_tool)\n",
        f"{OPENAI}::test_a_copy_of_a_guarded_tool_is_guarded",
    ),
    mutant(
        "openai-agents: a tool is guarded twice",
        tools,
        '    if invoker is None or isinstance(invoker, _Guard) or hasattr(invoker, "_is_guard"):\n',
        "    if invoker is None:\n",
        f"{OPENAI}::test_a_tool_is_guarded_once",
    ),
    mutant(
        "openai-agents: a policy approves what validation changes",
        tools,
        "    if isinstance(copied.on_invoke_tool, _Invoker):\n",
        "    if False:\n",
        f"{OPENAI}::test_who_must_be_asked_before_a_tool_runs_is_asked",
    ),
    mutant(
        "openai-agents: a tool gets another context than it asks for",
        tools,
        "    @functools.wraps(invoker)",
        "    @functools.wraps(lambda ctx, input: None)",
        f"{OPENAI}::test_tools_that_are_made_by_hand",
    ),
    mutant(
        "openai-agents: an agent that is a tool is not told of",
        tools,
        "        if agent is None:\n",
        "        if True:\n",
        OPENAI_FIFTY,
    ),
    mutant(
        "openai-agents: nobody waits for the tools of an agent that is a tool",
        tools,
        "            async with agent_run(agent.name), outlasting_tools():\n",
        "            async with agent_run(agent.name):\n",
        f"{OPENAI}::test_the_clean_up_of_a_delegates_tools_is_waited_for",
    ),
    # --- openai-agents: agents
    mutant(
        "openai-agents: nobody is told that an agent that is a tool thinks",
        agent,
        'given.arguments["hooks"] = ',
        "_ = ",
        OPENAI_FIFTY,
    ),
    mutant(
        "openai-agents: Runner.run hands off to a plain agent",
        agent,
        "        require_user_agents(self)\n",
        "",
        f"{PLAIN}[handoff-asyncio]",
    ),
    mutant(
        "openai-agents: only what is next is looked at",
        agent,
        "        waiting.extend(_next(agent))\n",
        "        waiting.extend(_next(agent) if len(seen) < 2 else ())\n",
        f"{PLAIN}[handoff of a handoff-asyncio]",
    ),
    mutant(
        "openai-agents: a plain agent may be a tool",
        agent,
        "        if found is not None:\n",
        "        if False:\n",
        f"{PLAIN}[tool-asyncio]",
    ),
    Mutant(
        "openai-agents: a plain agent may start",
        (
            (openai, "    require_user_agents(agent)\n    given", "    given"),
            (hooks, "        self._require(agent)\n", ""),
        ),
        (f"{PLAIN}[itself-asyncio]",),
    ),
    Mutant(
        "openai-agents: a plain agent is handed to by a handoff that does not say so",
        (
            (hooks, "        self._require(agent)\n", ""),
            (hooks, "        self._require(to_agent)\n", ""),
        ),
        (f"{PLAIN}[made up-asyncio]",),
    ),
    # --- openai-agents: runs
    mutant(
        "openai-agents: a run takes anybody's context",
        openai,
        "    check_explicit(explicit_in(given))\n",
        "",
        f"{OPENAI}::test_a_context_that_two_users_share_is_refused",
    ),
    mutant(
        "openai-agents: anybody takes up a state",
        openai,
        "        check_explicit(explicit_in(input._context))\n",
        "        pass\n",
        f"{OPENAI}::test_a_state_is_taken_up_by_nobody_else",
    ),
    mutant(
        "openai-agents: a refusal is dressed up",
        openai,
        "            raise refused from None\n",
        "            raise\n",
        f"{OPENAI}::test_contexts_are_compared_at_each_tool",
    ),
    mutant(
        "openai-agents: the end does not say what was used",
        openai,
        "            told.data.update(observer.used())\n",
        "            pass\n",
        f"{OPENAI}::test_the_end_says_what_was_used",
    ),
    mutant(
        "openai-agents: a stream that is left goes on",
        openai,
        "        stream.cancel()\n",
        "",
        LEFT_EARLY,
    ),
    mutant(
        "openai-agents: a stream that was left has ended well",
        openai,
        "            if not is_whole:\n",
        "            if False:\n",
        LEFT_EARLY,
    ),
    mutant(
        "openai-agents: nobody waits for the loop of a stream",
        openai,
        "        cancelled = await wait_out(over, limit)\n",
        "        cancelled = None\n",
        f"{OPENAI}::test_leaving_a_stream_waits_for_its_model",
    ),
    mutant(
        "openai-agents: leaving early is an error",
        openai,
        "        if error is not ending or (isinstance(error, Exception) and not reading):",
        "        if True:",
        LEFT_EARLY,
        f"{OPENAI}::test_a_failure_that_was_dealt_with_in_the_block_is_told_and_not_raised",
    ),
    mutant(
        "openai-agents: a failure that nobody read is lost",
        openai,
        " or (isinstance(error, Exception) and not reading):",
        ":",
        f"{OPENAI}::test_a_failure_that_nobody_read_is_raised",
    ),
    # --- openai-agents: hooks
    mutant(
        "openai-agents: the application's hooks are not called",
        hooks,
        "        await self._theirs.on_tool_end(context, agent, tool, result)\n",
        "        pass\n",
        f"{OPENAI}::test_hooks_of_the_application_are_called",
    ),
    mutant(
        "openai-agents: the user is not told who takes over",
        hooks,
        '        await _tell("agent_handoff"',
        '        _ = ("agent_handoff"',
        OPENAI_FIFTY,
    ),
]
