"""Defects of events: whose they are, their order, their bounds, and how they are delivered."""

from __future__ import annotations

from .mutant import Mutant, mutant

HUB = "tests/events/test_hub.py"
STARTED = "tests/events/test_started.py"
DELIVERY = "tests/events/test_delivery.py"
VALKEY = "tests/events/test_valkey.py"
MANY = "tests/events/test_many.py"

hub = "events/hub.py"
subscription = "events/subscription.py"
memory = "events/memory.py"
envelope = "events/envelope.py"
position = "events/position.py"
begun = "events/started.py"
delivery = "integrations/_event_delivery.py"
over_socket = "integrations/_event_socket.py"
stream = "integrations/_event_stream.py"
redis = "integrations/redis.py"
scripts = "integrations/_redis_scripts.py"
doorbell = "integrations/_doorbell.py"

WHOSE = f"{HUB}::test_events_go_to_the_current_user_and_to_nobody_else"
MISSED = f"{HUB}::test_after_an_id_exactly_what_was_missed"

MUTANTS: list[Mutant] = [
    # --- whose
    mutant(
        "events: everybody hears everything",
        hub,
        "        user = UserKey(context.tenant_id, context.user_id)\n        to",
        '        user = UserKey(None, "all")\n        to',
        WHOSE,
    ),
    mutant(
        "events: users of two tenants are one",
        subscription,
        "        self._user = UserKey(context.tenant_id, context.user_id)\n",
        "        self._user = UserKey(None, context.user_id)\n",
        WHOSE,
    ),
    mutant(
        "events: another request reads them",
        subscription,
        "            scope._require_here()\n",
        "",
        f"{HUB}::test_another_request_cannot_read_from_a_subscription",
    ),
    mutant(
        "events: an origin that is not there is everybody",
        hub,
        "    if context.websocket_client_id is None:\n",
        "    if False:\n",
        f"{HUB}::test_an_origin_that_is_not_there_does_not_become_everybody",
    ),
    mutant(
        "events: each of the user's connections gets what is for one",
        subscription,
        "                if entry.to is None or entry.to == self._client_id:\n",
        "                if True:\n",
        f"{HUB}::test_only_the_connection_that_the_request_came_from",
    ),
    mutant(
        "events: a client id may be anything",
        subscription,
        '            scope.settings.id_rules.check("websocket_client_id", self._client_id)\n',
        "            pass\n",
        f"{HUB}::test_a_client_id_is_an_id",
    ),
    mutant(
        "events: two connections share their data",
        envelope,
        "        found: EventDocument = json.loads(self.json())\n",
        "        found: EventDocument = vars(json).setdefault(self.position, json.loads(self.json()))\n",
        f"{HUB}::test_two_connections_share_no_data",
    ),
    # --- order, resuming
    mutant(
        "events: the one after the last is missed",
        position,
        "    return after.sequence, None\n",
        "    return min(after.sequence + 1, last), None\n",
        MISSED,
    ),
    mutant(
        "events: the last one comes again",
        position,
        "    return after.sequence, None\n",
        "    return max(after.sequence - 1, first - 1), None\n",
        MISSED,
    ),
    mutant(
        "events: a gap is not said",
        position,
        '        return first - 1, "trimmed"\n',
        "        return first - 1, None\n",
        f"{HUB}::test_away_for_too_long",
    ),
    mutant(
        "events: a gap is said where there is none",
        position,
        "    if after.sequence < first - 1:\n",
        "    if after.sequence < first:\n",
        f"{HUB}::test_exactly_at_the_edge_nothing_is_missing",
    ),
    mutant(
        "events: another life of the log passes for this one",
        position,
        "    if after.epoch != epoch:\n",
        "    if False:\n",
        f"{HUB}::test_an_id_of_another_user_gives_nothing_of_theirs",
    ),
    mutant(
        "events: beyond the end there is no gap",
        position,
        '        return last, "ahead"\n',
        "        return last, None\n",
        f"{HUB}::test_further_than_there_is",
    ),
    mutant(
        "events: all users have one epoch",
        memory,
        "        self.epoch = os.urandom(8).hex()\n",
        '        self.epoch = "00c0ffee00c0ffee"\n',
        f"{HUB}::test_who_is_forgotten_is_told_so",
    ),
    mutant(
        "events: an id may end in a newline",
        position,
        ", re.ASCII).fullmatch\n",
        ", re.ASCII).match\n",
        f"{HUB}::test_what_is_no_id_is_refused_and_not_shown",
    ),
    mutant(
        "events: what comes while it reads does not ring",
        subscription,
        "        self._has_news = False  # before reading: what comes meanwhile rings again\n"
        "        try:\n"
        "            page = await self._hub.log.read(self._user_key, self._after, _PAGE)\n",
        "        try:\n"
        "            page = await self._hub.log.read(self._user_key, self._after, _PAGE)\n"
        "            self._has_news = False\n",
        f"{HUB}::test_what_comes_while_it_reads_is_not_forgotten",
    ),
    mutant(
        "events: a page is all there is",
        subscription,
        "        self._has_news = self._has_news or len(page.entries) > 0\n",
        "",
        MISSED,
    ),
    mutant(
        "events: two tasks read one subscription",
        subscription,
        "        if self._is_busy:\n",
        "        if False:\n",
        f"{HUB}::test_it_is_not_read_by_two_tasks",
    ),
    # --- ends
    mutant(
        "events: it outlives its scope",
        subscription,
        "        self._forget = scope.callback(self._stop)\n",
        "        self._forget = lambda: None\n",
        f"{HUB}::test_it_ends_with_its_scope",
    ),
    mutant(
        "events: its reader is not woken when it ends",
        subscription,
        "        self._hub._release(self, self._user)\n        self._ring()\n",
        "        self._hub._release(self, self._user)\n",
        f"{HUB}::test_shutdown_ends_it_at_once",
    ),
    mutant(
        "events: shutdown waits for connections",
        "fence.py",
        "            self.events.stop()  # what waits for events would be waited for\n",
        "            pass\n",
        f"{HUB}::test_shutdown_ends_it_at_once",
    ),
    mutant(
        "events: shutdown ends those of other applications",
        hub,
        "            if scope is not None and scope._recipes is not None and scope._recipes.is_draining:\n",
        "            if scope is not None:\n",
        f"{HUB}::test_shutdown_ends_it_at_once",
    ),
    mutant(
        "events: one may begin during shutdown",
        subscription,
        "        if scope._recipes is not None and scope._recipes.is_draining:\n            raise draining()\n",
        "",
        f"{HUB}::test_none_begins_during_shutdown",
    ),
    mutant(
        "events: the fence leaves connections of the log open",
        "fence.py",
        "                await self.events.aclose()\n",
        "                pass\n",
        f"{HUB}::test_the_fence_closes_it",
    ),
    # --- bounds
    mutant(
        "events: a user has as many connections as they like",
        hub,
        "        if count >= self.max_connections_per_user or (\n",
        "        if (\n",
        f"{HUB}::test_connections_per_user_and_in_all",
    ),
    mutant(
        "events: connections are counted for ever",
        hub,
        "        left = self._per_user[user] - 1\n",
        "        left = self._per_user[user]\n",
        f"{HUB}::test_connections_per_user_and_in_all",
    ),
    mutant(
        "events: the log is unbounded in bytes",
        memory,
        "        while len(stream.entries) > self._max_events or stream.bytes > self._max_bytes:\n",
        "        while len(stream.entries) > self._max_events:\n",
        f"{HUB}::test_the_log_is_bounded_in_length_and_bytes",
    ),
    mutant(
        "events: the log is unbounded in length",
        memory,
        "        while len(stream.entries) > self._max_events or stream.bytes > self._max_bytes:\n",
        "        while stream.bytes > self._max_bytes:\n",
        f"{HUB}::test_away_for_too_long",
    ),
    mutant(
        "events: all users together are unbounded",
        memory,
        "        while self._bytes > self._max_total_bytes:\n",
        "        while False:\n",
        f"{HUB}::test_all_users_together_are_bounded",
    ),
    mutant(
        "events: who writes little pays for who writes much",
        memory,
        "            if quietest is not current:\n",
        "            if False:\n",
        f"{HUB}::test_who_writes_much_costs_others_who_are_connected_nothing_new",
    ),
    mutant(
        "events: users who left are kept for ever",
        memory,
        "            if stream is current or not (is_over or stream.used < oldest):\n",
        "            if True:\n",
        f"{HUB}::test_idle_users_are_forgotten",
    ),
    mutant(
        "events: whoever wrote first is forgotten first",
        memory,
        "        self._idle.move_to_end(user)\n",
        "",
        f"{HUB}::test_users_are_bounded_and_the_least_recently_used_is_forgotten",
    ),
    mutant(
        "events: who is connected is forgotten",
        memory,
        "        self._idle.pop(user, None)\n        self._watched[user] = stream\n",
        "        self._watched[user] = stream\n",
        f"{HUB}::test_all_users_together_are_bounded",
    ),
    mutant(
        "events: a burst starves its readers",
        memory,
        "        await cancel_shielded_checkpoint()  # a burst lets its readers run, and is not cut in two\n",
        "",
        f"{HUB}::test_a_burst_lets_its_readers_run",
    ),
    mutant(
        "events: nothing rings",
        memory,
        "        for ring in tuple(stream.bells):\n            ring()\n",
        "",
        f"{HUB}::test_a_reader_that_waits_is_rung_for",
    ),
    mutant(
        "events: everybody's bell rings",
        memory,
        "        for ring in tuple(stream.bells):\n            ring()\n",
        "        for other in tuple(self._watched.values()):\n            for ring in tuple(other.bells):\n                ring()\n",
        MANY,
    ),
    # --- what they say
    mutant(
        "events: one may be of any size",
        envelope,
        "    if len(record) > limit:\n",
        "    if False:\n",
        f"{HUB}::test_data_that_is_too_large",
    ),
    mutant(
        "events: NaN is written as if JSON had it",
        envelope,
        "allow_nan=False",
        "allow_nan=True",
        f"{HUB}::test_data_that_json_has_no_words_for",
    ),
    mutant(
        "events: an application says that there was a gap",
        envelope,
        " and _is_kind(kind) and kind not in RESERVED:\n",
        " and _is_kind(kind):\n",
        f"{HUB}::test_kinds_that_cannot_be",
    ),
    # --- started
    mutant(
        "started: an end may be cancelled away",
        begun,
        "    job = Job(work, \"ringfence event\", scope._own_context())\n    return await job.wait(scope.settings.finaliser_timeout)\n",
        "    try:\n        await work()\n    except Exception as error:\n        return error, None\n    return None, None\n",
        f"{STARTED}::test_cancelled_while_it_is_told",
    ),
    mutant(
        "started: cancelled while it begins, it never ends",
        begun,
        "        if cancelled is not None and not self._is_over:\n",
        "        if False:\n",
        f"{STARTED}::test_a_task_that_is_cancelled_while_its_beginning_is_told",
    ),
    mutant(
        "started: the end of the scope is not its end",
        begun,
        '        self._forget = scope.callback(self._end, "closed", None, scope)\n',
        "        self._forget = lambda: None\n",
        f"{STARTED}::test_the_scope_ends_while_it_runs",
    ),
    mutant(
        "started: it ends without a beginning",
        begun,
        "            if not self._is_over:\n                self._is_over = True\n",
        "            if True:\n",
        f"{STARTED}::test_what_has_not_begun_does_not_end",
    ),
    mutant(
        "started: its scope does not wait for its end",
        begun,
        "        outcome = _outcome(exc, scope)\n",
        "        if self._forget is not None:\n            self._forget()\n        outcome = _outcome(exc, scope)\n",
        f"{STARTED}::test_the_scope_waits_for_an_end_that_is_being_told",
    ),
    mutant(
        "started: its scope ends before its beginning is told",
        begun,
        "        await self._is_told.wait()  # the scope may end while the beginning is being told\n",
        "",
        f"{STARTED}::test_the_scope_ends_while_it_is_told",
    ),
    mutant(
        "started: the text of an error is shown",
        begun,
        "            facts[\"error\"] = exc.code if isinstance(exc, RingfenceError) else type(exc).__name__\n",
        "            facts[\"error\"] = repr(exc)\n",
        f"{STARTED}::test_one_end_on_every_ending",
    ),
    mutant(
        "started: a time-out is a cancellation",
        begun,
        "        is_late = deadline is not None and anyio.current_time() >= deadline\n",
        "        is_late = False\n",
        f"{STARTED}::test_the_time_out_of_its_scope",
    ),
    mutant(
        "started: what cannot be said hides the end",
        begun,
        "            await _emit(kind, facts, scope)\n            raise\n",
        "            raise\n",
        f"{STARTED}::test_what_cannot_be_said_does_not_hide_the_end",
    ),
    # --- delivery
    mutant(
        "delivery: any page may read",
        delivery,
        "        self._check_origin(scope, headers)\n",
        "",
        f"{DELIVERY}::test_origins",
    ),
    mutant(
        "delivery: an origin is one that begins like it",
        delivery,
        "            return bool(page.hostname) and (page.hostname, _port(page, page.scheme)) == (\n",
        "            return bool(page.hostname) and page.hostname.startswith(host.hostname or '?') or (page.hostname, _port(page, page.scheme)) == (\n",
        f"{DELIVERY}::test_origins",
    ),
    mutant(
        "delivery: the port is nothing",
        delivery,
        "    return port or _DEFAULT_PORTS.get(scheme)\n",
        "    return None\n",
        f"{DELIVERY}::test_origins",
    ),
    mutant(
        "delivery: the first of two origins counts",
        delivery,
        "        elif len(sent) == 1 and self._is_allowed(",
        "        elif self._is_allowed(",
        f"{DELIVERY}::test_two_origins_are_none",
    ),
    mutant(
        "delivery: a page that says no origin takes connections",
        delivery,
        '            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):\n',
        "            if True:\n",
        f"{DELIVERY}::test_a_page_that_could_not_read_the_answer_takes_no_connection",
    ),
    mutant(
        "delivery: a plain page reads what is encrypted",
        delivery,
        "        if here in _SECURE and page.scheme not in _SECURE:\n",
        "        if False:\n",
        f"{DELIVERY}::test_origins",
    ),
    mutant(
        "delivery: an identity never expires",
        delivery,
        "            if _seconds_until(expires_at) <= 0:\n",
        "            if False:\n",
        f"{DELIVERY}::test_no_event_is_sent_once_it_has_expired",
    ),
    mutant(
        "delivery: it is noticed only when something comes that an identity has expired",
        delivery,
        "                with anyio.move_on_after(min(self.heartbeat, left)):\n",
        "                with anyio.move_on_after(self.heartbeat):\n",
        f"{DELIVERY}::test_an_identity_that_expires_ends_it",
    ),
    mutant(
        "delivery: it beats because a clock is ahead",
        delivery,
        "            if found is None and left < self.heartbeat:\n",
        "            if False:\n",
        f"{DELIVERY}::test_clocks_that_differ_send_no_heartbeat",
    ),
    mutant(
        "started: a generator that is closed never ends",
        begun,
        "            _leave_behind(end, scope)\n",
        "",
        f"{STARTED}::test_a_generator_that_is_closed",
    ),
    mutant(
        "delivery: it waits for ever for a client that does not read",
        delivery,
        "            with anyio.move_on_after(self.send_timeout) as limit:\n",
        "            with anyio.move_on_after(3600) as limit:\n",
        f"{DELIVERY}::test_a_client_that_never_reads_is_cut_off_and_slows_nobody",
    ),
    mutant(
        "delivery: silence is silent",
        delivery,
        "                await (beat() if found is None else send(found))\n",
        "                if found is not None:\n                    await send(found)\n",
        f"{DELIVERY}::test_silence_is_filled_with_heartbeats",
    ),
    mutant(
        "delivery: one connection too many is a bad request",
        delivery,
        "        return 429\n",
        "        return 400\n",
        f"{DELIVERY}::test_too_many_connections",
    ),
    mutant(
        "delivery: a socket lets its client talk",
        over_socket,
        "            self._code = _code_for(message)\n        stop.cancel()\n",
        "            await self._watch(stop)\n            return\n        stop.cancel()\n",
        f"{DELIVERY}::test_a_client_has_nothing_to_say",
    ),
    mutant(
        "delivery: a socket does not notice that its client left",
        over_socket,
        "            tasks.start_soon(self._watch, tasks.cancel_scope)\n",
        "",
        f"{DELIVERY}::test_a_client_that_leaves_leaves_nothing",
    ),
    mutant(
        "delivery: a stream does not notice that its client left",
        stream,
        "            tasks.start_soon(_watch, receive, tasks.cancel_scope)\n",
        "",
        f"{DELIVERY}::test_a_client_that_leaves_leaves_nothing",
    ),
    mutant(
        "delivery: a stream's log that is away is a client that left",
        stream,
        "            except ClientDisconnect:\n",
        "            except (ClientDisconnect, OSError):\n",
        f"{DELIVERY}::test_a_log_that_is_away_ends_it_loudly",
    ),
    mutant(
        "delivery: the header does not win",
        delivery,
        '        last_id = headers.get("last-event-id") or query.get("last_event_id") or None\n',
        '        last_id = query.get("last_event_id") or headers.get("last-event-id") or None\n',
        f"{DELIVERY}::test_the_header_wins",
    ),
    # --- Valkey
    mutant(
        "valkey: names of users are confused",
        redis,
        '        who = f":{user_id}" if tenant is None else f"{len(tenant)}:{tenant}:{user_id}"\n',
        '        who = user_id if tenant is None else f"{tenant}:{user_id}"\n',
        f"{VALKEY}::test_names_of_users_cannot_be_confused",
    ),
    mutant(
        "valkey: a call that is repeated appends twice",
        scripts,
        "if attempt > 0 then\n",
        "if false then\n",
        f"{VALKEY}::test_a_call_that_is_repeated_appends_once",
    ),
    mutant(
        "valkey: a call that fails is not repeated",
        redis,
        "                if attempt == _ATTEMPTS - 1:\n",
        "                if True:\n",
        f"{VALKEY}::test_a_call_that_is_repeated_appends_once",
    ),
    mutant(
        "valkey: nothing rings",
        scripts,
        "redis.pcall('PUBLISH', bell, sequence)\n",
        "",
        f"{VALKEY}::test_one_process_emits_and_another_hears",
    ),
    mutant(
        "valkey: a lost bell connection does not come back",
        doorbell,
        '                counters.count("events.bell_lost")\n',
        "                return\n",
        f"{VALKEY}::test_a_lost_bell_connection_comes_back",
    ),
    mutant(
        "valkey: what came while no bell could ring is forgotten",
        doorbell,
        "                self._pubsub = pubsub\n            self._ring_all()\n",
        "                self._pubsub = pubsub\n",
        f"{VALKEY}::test_a_lost_bell_connection_comes_back",
    ),
    mutant(
        "valkey: without a bell nobody looks",
        doorbell,
        "        while self._next_look <= now:",
        "        while False:",
        f"{VALKEY}::test_a_bell_that_never_rings_costs_time_only",
    ),
    mutant(
        "valkey: without a connection for bells nobody looks",
        doorbell,
        "            self._look_if_due()\n            await asyncio.sleep(pause)\n",
        "            await asyncio.sleep(pause)\n",
        f"{VALKEY}::test_without_pub_sub_it_costs_time_only",
    ),
    mutant(
        "valkey: an error that nobody expected ends the listener",
        doorbell,
        "            except Exception as error:  # whatever it is: without a listener no bell would ring\n",
        "            except _EXPECTED as error:\n",
        f"{VALKEY}::test_without_pub_sub_it_costs_time_only",
    ),
    mutant(
        "valkey: channels are kept for ever",
        doorbell,
        '            self._spawn(self._say("unsubscribe", name))\n',
        "            pass\n",
        f"{VALKEY}::test_channels_are_given_up_with_their_last_connection",
    ),
    mutant(
        "valkey: a user who comes back at once is given up",
        doorbell,
        '            if self._pubsub is None or is_wanted is not (verb == "subscribe"):\n',
        "            if self._pubsub is None:\n",
        f"{VALKEY}::test_a_user_who_comes_and_goes_at_once_is_rung_for",
    ),
    mutant(
        "valkey: the log is unbounded in length",
        scripts,
        "while length > 1 and (length > max_events or bytes > max_bytes) do\n",
        "while length > 1 and (bytes > max_bytes) do\n",
        f"{VALKEY}::test_gaps_are_said",
    ),
    mutant(
        "valkey: the log is unbounded in bytes",
        scripts,
        "while length > 1 and (length > max_events or bytes > max_bytes) do\n",
        "while length > 1 and (length > max_events) do\n",
        f"{VALKEY}::test_the_log_is_bounded_in_length_and_bytes",
    ),
    mutant(
        "valkey: nobody is ever forgotten",
        scripts,
        "  redis.call('PEXPIRE', log, ARGV[2])\n",
        "",
        f"{VALKEY}::test_the_log_is_bounded_in_length_and_bytes",
    ),
    mutant(
        "valkey: half a log passes for a whole one",
        scripts,
        "  redis.call('DEL', log)\n",
        "",
        f"{VALKEY}::test_half_a_log_is_no_log",
    ),
    mutant(
        "valkey: closing leaves connections",
        redis,
        "        await self.doorbell.aclose()\n",
        "",
        f"{VALKEY}::test_closed_it_leaves_no_connection_and_may_be_used_again",
    ),
]  # fmt: skip
