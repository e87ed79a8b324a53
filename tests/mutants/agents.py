"""Mutants of agents: their runs and tools, the limits handed down, the registry."""

from __future__ import annotations

from .mutant import Mutant, mutant

HERE = "tests/agents"
RUNS = f"{HERE}/test_runs.py"
LIMITS = f"{HERE}/test_limits.py"
PLACES = f"{HERE}/test_places.py"
RECORDS = f"{HERE}/test_records.py"
REGISTRY = f"{HERE}/test_registry.py"
TOOLS = f"{HERE}/test_tools.py"
USERS = f"{HERE}/test_users.py"
TREES = f"{HERE}/test_trees.py"
DELIVERY = f"{HERE}/test_delivery.py"

explicit = "agents/explicit.py"
runs, limits, places, records = (
    f"agents/{name}.py" for name in ("runs", "limits", "places", "records")
)
registry, registered, tools, delivery = (
    f"agents/{name}.py" for name in ("registry", "registered", "tools", "delivery")
)

MUTANTS = [
    # --- runs
    mutant(
        "agents: a run may stand in a generator",
        runs,
        "        if frame.f_code.co_flags & GENERATOR_FLAGS or frame.f_code is EXIT_STACK:\n",
        "        if False:\n",
        f"{RUNS}::test_it_cannot_stand_in_a_generator",
    ),
    mutant(
        "agents: an exit stack carries a run out of a generator",
        runs,
        " or frame.f_code is EXIT_STACK:\n",
        ":\n",
        f"{RUNS}::test_it_cannot_stand_in_a_generator",
    ),
    mutant(
        "agents: a beginning that cannot be told leaves its scope open",
        runs,
        "            await scope.__aexit__(type(error), error, error.__traceback__)\n            raise\n\n    async def _begin",
        "            raise\n\n    async def _begin",
        f"{RUNS}::test_a_refused_beginning_leaves_nothing_open",
    ),
    mutant(
        "agents: errors name the library's line",
        runs,
        "        scope._opened_code, scope._opened_instruction = frame.f_code, frame.f_lasti\n",
        "",
        f"{RUNS}::test_errors_name_where_it_was_opened",
    ),
    mutant(
        "agents: the end is not told",
        runs,
        "        if self._told is None:  # the scope's own coroutine: it names who awaits it\n",
        "        if True:\n",
        f"{TREES}::test_each_beginning_has_its_one_end",
    ),
    # --- whose it is said to be
    mutant(
        "agents: what a framework says of the user is not heard",
        explicit,
        "    if said != context.user_id or tenant != context.tenant_id:\n",
        "    if tenant != context.tenant_id:\n",
        f"{HERE}/test_explicit.py",
    ),
    mutant(
        "agents: what a framework says of the tenant is not heard",
        explicit,
        "    if said != context.user_id or tenant != context.tenant_id:\n",
        "    if said != context.user_id:\n",
        f"{HERE}/test_explicit.py",
    ),
    mutant(
        "agents: what a mapping says is not heard",
        explicit,
        "    if isinstance(given, Mapping):\n",
        "    if False:\n",
        f"{HERE}/test_explicit.py",
    ),
    # --- limits
    mutant(
        "agents: what is spent is taken here alone",
        limits,
        "            is_over = is_over or limits.budget[name] < 0\n        limits = limits.above\n",
        "            return limits.budget[name] < 0\n        limits = limits.above\n",
        f"{LIMITS}::test_a_limit_above_holds_where_the_own_one_would_not",
        f"{LIMITS}::test_what_is_spent_is_taken_here_and_above",
    ),
    mutant(
        "agents: a child's budget grows beyond what is left",
        limits,
        "    own = {name: min(amount, above.get(name, amount)) for name, amount in asked.items()}\n",
        "    own, limits = dict(asked), None\n",
        f"{LIMITS}::test_a_child_gets_at_most_what_is_left",
    ),
    mutant(
        "agents: what was too much does not count",
        limits,
        "            limits.budget[name] -= amount\n",
        "            limits.budget[name] -= amount if amount <= limits.budget[name] else 0\n",
        f"{LIMITS}::test_what_was_spent_counts_though_it_was_too_much",
        f"{LIMITS}::test_all_of_it_may_be_spent_and_no_more",
    ),
    mutant(
        "agents: depth grows on the way down",
        limits,
        "        deepest = min(deepest, scope.context.operation_depth + depth)\n",
        "        deepest = scope.context.operation_depth + depth\n",
        f"{LIMITS}::test_depth_is_handed_down",
    ),
    mutant(
        "agents: one deeper than a run allows",
        limits,
        "        if parent.context.operation_depth >= limits.deepest:\n",
        "        if parent.context.operation_depth > limits.deepest:\n",
        f"{LIMITS}::test_no_depth_at_all",
    ),
    mutant(
        "agents: limits are kept for ever",
        limits,
        "_given: WeakKeyDictionary[RequestScope, Limits] = WeakKeyDictionary()\n",
        "_given: dict[RequestScope, Limits] = {}\n",
        f"{LIMITS}::test_limits_go_with_their_runs",
    ),
    mutant(
        "agents: what is left can be written",
        limits,
        "MappingProxyType(_budget(limits))",
        "limits.budget if limits else _budget(limits)",
        f"{LIMITS}::test_what_is_left_cannot_be_written",
    ),
    mutant(
        "agents: less than nothing can be spent",
        limits,
        "        or not (amount >= 0 and math.isfinite(amount))\n",
        "",
        f"{LIMITS}::test_amounts_are_numbers_from_0",
    ),
    # --- places
    mutant(
        "agents: one too many runs of a user",
        places,
        "        if self._taken.get(user, 0) >= self._per_user:\n",
        "        if self._taken.get(user, 0) > self._per_user:\n",
        f"{REGISTRY}::test_too_many_runs_are_refused",
    ),
    mutant(
        "agents: there is no limit in all",
        places,
        '        return "max_running" if self._count >= self._in_all else None\n',
        "        return None\n",
        f"{REGISTRY}::test_too_many_runs_are_refused",
    ),
    mutant(
        "agents: a place given to a cancelled task is lost",
        places,
        "            if waiter.has_place:  # given just as the task was cancelled\n",
        "            if False:\n",
        f"{PLACES}::test_whoever_is_cancelled_just_as_there_is_a_place_gives_it_back",
    ),
    mutant(
        "agents: a user who is full keeps others waiting",
        places,
        "            if self._is_full_for(waiter.user) is None:\n",
        "            if self._is_full_for(waiter.user) is not None:\n                return\n            if True:\n",
        f"{PLACES}::test_one_user_who_is_full_keeps_nobody_else_waiting",
    ),
    mutant(
        "agents: whoever comes overtakes whoever waits",
        places,
        "                self._add(waiter.user)\n                waiter.has_place = True\n",
        "                waiter.has_place = True\n",
        f"{PLACES}::test_nobody_overtakes",
    ),
    mutant(
        "agents: the queue has no end",
        places,
        "        return of_user >= self._per_user or len(self._waiting) >= self._in_all\n",
        "        return False\n",
        f"{PLACES}::test_the_queue_has_an_end",
    ),
    mutant(
        "agents: users who are gone keep an entry",
        places,
        "            del self._taken[user]  # users who are gone are forgotten\n",
        "            pass\n",
        f"{RECORDS}::test_users_who_come_and_go_leave_nothing_but_bounded_records",
    ),
    # --- records
    mutant(
        "agents: records of all users are unbounded",
        records,
        "            if self._count <= self._in_all and kept.used >= oldest:\n",
        "            if kept.used >= oldest:\n",
        f"{RECORDS}::test_in_all_it_is_bounded_and_whoever_ran_least_lately_is_forgotten",
    ),
    mutant(
        "agents: who does not come back is remembered",
        records,
        "            if self._count <= self._in_all and kept.used >= oldest:\n",
        "            if self._count <= self._in_all:\n",
        f"{RECORDS}::test_who_does_not_come_back_is_forgotten",
    ),
    mutant(
        "agents: results of any size are remembered",
        records,
        "    return text if len(text) <= max_bytes else None\n",
        "    return text\n",
        f"{RECORDS}::test_what_is_kept_of_a_result",
    ),
    mutant(
        "agents: a record holds the result itself",
        records,
        "        return None if self._result is None else json.loads(self._result)\n",
        "        return None if self._result is None else vars(json).setdefault(self._result, json.loads(self._result))\n",
        f"{RECORDS}::test_two_who_read_a_result_share_nothing",
    ),
    mutant(
        "agents: a record holds the text of an error",
        records,
        "            said = error.code if isinstance(error, RingfenceError) else type(error).__name__\n",
        "            said = repr(error)\n",
        f"{REGISTRY}::test_each_ending_is_told_and_recorded",
    ),
    # --- the registry
    mutant(
        "agents: tenants are one",
        registry,
        "    return UserKey(context.tenant_id, context.user_id)\n",
        "    return UserKey(None, context.user_id)\n",
        f"{USERS}::test_each_sees_their_own_runs_alone",
    ),
    mutant(
        "agents: a run is counted to the user of every tenant",
        registry,
        "        user = UserKey(context.tenant_id, context.user_id)\n",
        "        user = UserKey(None, context.user_id)\n",
        f"{USERS}::test_each_sees_their_own_runs_alone",
    ),
    mutant(
        "agents: whoever knows an id cancels",
        registry,
        "        mine = self._running.get(_user_here(), {})\n        running = mine.get(request_id)",
        "        mine = {key: each for some in self._running.values() for key, each in some.items()}\n        running = mine.get(request_id)",
        f"{USERS}::test_another_users_run_and_none_cannot_be_told_apart",
    ),
    Mutant(
        "agents: a run is known after its beginning was told",
        (
            (
                runs,
                "        if self._on_open is not None:\n            self._on_open(scope)\n        if not",
                "        if not",
            ),
            (
                runs,
                "        await told.__aenter__()\n",
                "        await told.__aenter__()\n        import anyio; await anyio.sleep(0.05)\n        self._on_open and self._on_open(scope)\n",
            ),
        ),
        (f"{REGISTRY}::test_a_run_can_be_cancelled_as_soon_as_it_is_told_of",),
    ),
    mutant(
        "agents: a cancelled run is a result",
        registry,
        "            raise _stopped(running)\n",
        "            return None\n",
        f"{REGISTRY}::test_a_cancelled_run_is_an_error_to_whoever_waits",
    ),
    mutant(
        "agents: a run goes on though what is above has ended",
        registry,
        "        running.is_closed = True\n        running.stop.cancel()\n",
        "        running.is_closed = True\n",
        f"{REGISTRY}::test_the_end_of_what_is_above_ends_the_run",
    ),
    mutant(
        "agents: the end of its own scope cancels a run",
        registry,
        "    if running.scope.is_parent_closed:\n",
        "    if True:\n",
        f"{REGISTRY}::test_each_ending_is_told_and_recorded",
    ),
    mutant(
        "agents: a place is kept after an error",
        registry,
        "        finally:\n            self._places.give_back(user)\n",
        "        except GeneratorExit:\n            self._places.give_back(user)\n",
        f"{REGISTRY}::test_every_ending_gives_its_place_back",
    ),
    mutant(
        "agents: users who are gone keep an empty list of runs",
        registry,
        "        if not mine:\n            del self._running[user]\n",
        "",
        f"{RECORDS}::test_users_who_come_and_go_leave_nothing_but_bounded_records",
    ),
    mutant(
        "agents: as deep as anybody likes",
        registry,
        "        if self.max_depth is not None and context.operation_depth >= self.max_depth:\n",
        "        if False:\n",
        f"{REGISTRY}::test_deeper_than_the_registry_allows",
    ),
    mutant(
        "agents: a name is registered over another",
        registry,
        "        if name in self._agents:\n",
        "        if False:\n",
        f"{REGISTRY}::test_a_name_is_given_once",
    ),
    mutant(
        "agents: an object of a class is of all runs",
        registered,
        "    return cls(**given)\n",
        "    return vars(cls).get('made') or (setattr(cls, 'made', cls(**given)), cls.made)[1]\n",
        f"{REGISTRY}::test_a_class_is_made_anew_for_each_run",
    ),
    mutant(
        "agents: the container is not asked for a class",
        registered,
        '    if services is not None and cls in getattr(services, "registered", (cls,)):\n',
        "    if False:\n",
        f"{REGISTRY}::test_a_class_comes_from_the_container_if_that_provides_it",
    ),
    mutant(
        "agents: an agent that blocks is registered",
        registered,
        "    if not is_async(target):\n",
        "    if False:\n",
        f"{REGISTRY}::test_what_is_no_agent",
    ),
    mutant(
        "agents: a parameter is taken from an agent",
        registered,
        "    if taken:\n",
        "    if False:\n",
        f"{REGISTRY}::test_what_is_no_agent",
    ),
    # --- tools
    mutant(
        "tools: what is injected is of the scope above",
        tools,
        "        async with tool_call(name, timeout=timeout):\n            if needs is not None:\n                args = needs.placed(args, kwargs)\n                await fill(needs, kwargs)  # here, where what needs an `await` can have it\n",
        "        if needs is not None:\n            args = needs.placed(args, kwargs)\n            await fill(needs, kwargs)\n        async with tool_call(name, timeout=timeout):\n",
        f"{TOOLS}::test_a_thread_gets_what_needs_an_await",
    ),
    mutant(
        "tools: a thread's tool stops everybody",
        tools,
        "await anyio.to_thread.run_sync(lambda: (target(*args, **kwargs),))",
        "(target(*args, **kwargs),)",
        f"{TOOLS}::test_what_is_not_async_runs_in_a_thread_as_the_same_user",
    ),
    mutant(
        "tools: a result that comes too late is one",
        tools,
        "            await checkpoint_if_cancelled()  # a result that comes too late is none\n",
        "",
        f"{TOOLS}::test_endings",
    ),
    mutant(
        "tools: what was not awaited is a result",
        tools,
        "            if isinstance(result, Awaitable):\n",
        "            if False:\n",
        f"{TOOLS}::test_a_plain_function_that_gives_something_to_await_is_refused",
    ),
    mutant(
        "tools: a generator is a tool",
        tools,
        '    refuse_generators(target, "Tool")\n',
        "",
        f"{TOOLS}::test_what_is_no_tool",
    ),
    mutant(
        "tools: frameworks see what is injected",
        tools,
        "    return functools.update_wrapper(around(inner, name, timeout), inner)\n",
        "    return functools.update_wrapper(around(inner, name, timeout), target)\n",
        f"{TOOLS}::test_the_signature_is_what_a_caller_gives",
    ),
    # --- WebSocket managers
    mutant(
        "agents: a manager is set where nothing comes through",
        delivery,
        "        if recipes is None or recipes.events is not self:\n",
        "        if False:\n",
        f"{DELIVERY}::test_events_that_go_elsewhere_are_said_to",
    ),
    mutant(
        "agents: a manager that fails ends the run",
        delivery,
        "            except Exception:\n",
        "            except ZeroDivisionError:\n",
        f"{DELIVERY}::test_a_manager_that_fails_is_given_up_and_the_run_goes_on",
    ),
    mutant(
        "agents: a manager that is stuck ends the run",
        delivery,
        "            limit = min(self._send_timeout, scope.settings.finaliser_timeout / 2)\n",
        "            limit = self._send_timeout\n",
        f"{DELIVERY}::test_a_stuck_manager_holds_up_nobody_else",
    ),
    mutant(
        "agents: a manager that fails is tried again and again",
        delivery,
        "        self._forget(connected, {connected.context.request_id, connected.scope.request_id})\n",
        "",
        f"{DELIVERY}::test_a_manager_that_fails_is_given_up_and_the_run_goes_on",
    ),
    mutant(
        "agents: the hub does not hear of it",
        delivery,
        "            event_id = await self._hub.emit(kind, data, only_origin=only_origin)\n",
        "            event_id = generate_id()\n",
        f"{DELIVERY}::test_the_hub_hears_it_too_and_under_the_same_id",
    ),
    mutant(
        "agents: the hub is left open",
        delivery,
        "            await self._hub.aclose()\n",
        "            pass\n",
        f"{DELIVERY}::test_the_fence_stops_and_closes_the_hub_behind_it",
    ),
]  # fmt: skip
