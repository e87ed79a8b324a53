"""Defects of events that show where something is away, or means ill."""

from __future__ import annotations

from .events import (
    DELIVERY,
    STARTED,
    VALKEY,
    begun,
    delivery,
    doorbell,
    over_socket,
    position,
    redis,
    scripts,
)
from .mutant import Mutant, mutant

cutting = "integrations/_cut_off.py"
PROCESSES = "tests/integration/test_event_processes.py"
ATTACKED = "tests/integration/test_events_attacked.py"
UNTOLD = f"{STARTED}::test_what_runs_is_not_stopped_by_what_tells_of_it"
ORIGIN = f"{DELIVERY}::test_a_request_says_which_of_its_user_s_connections_it_came_from"

MUTANTS: list[Mutant] = [
    mutant(
        "events away: an end that cannot be told stops the agent",
        begun,
        "        except EventLogError as error:\n            untold(kind, error)\n",
        "        except EventLogError as error:\n            raise error\n",
        UNTOLD,
    ),
    mutant(
        "events away: what never began ends",
        begun,
        "                self._is_over = not error.may_be_stored",
        "                self._is_over = False",
        UNTOLD,
    ),
    mutant(
        "events away: what may have begun does not end",
        begun,
        "                self._is_over = not error.may_be_stored",
        "                self._is_over = True",
        UNTOLD,
    ),
    mutant(
        "events away: a log that does not answer holds up the scope",
        begun,
        "    with anyio.move_on_after(0.9 * scope.settings.finaliser_timeout):\n",
        "    with anyio.move_on_after(float('inf')):\n",
        f"{STARTED}::test_a_log_that_does_not_answer_holds_nobody_for_long",
    ),
    mutant(
        "events away: what was sent is said not to be stored",
        redis,
        "        before, self.may_have_run = self.may_have_run, True",
        "        before, self.may_have_run = self.may_have_run, False",
        f"{VALKEY}::test_what_was_sent_and_not_answered_may_be_stored",
    ),
    mutant(
        "events away: what was never sent may be stored",
        redis,
        "        except (_Unreached, ResponseError):\n",
        "        except ResponseError:\n",
        f"{VALKEY}::test_a_server_that_is_away_is_said_to_be",
    ),
    mutant(
        "events away: a call waits for as long as it likes",
        redis,
        "            async with asyncio.timeout(self._call_timeout * (1 if script is APPEND else 4)):\n",
        "            async with asyncio.timeout(None):\n",
        f"{VALKEY}::test_a_server_that_stops_answering_is_waited_for_within_bounds",
    ),
    mutant(
        "events away: a bell that may not ring loses the event",
        scripts,
        "redis.pcall('PUBLISH', bell, sequence)\n",
        "redis.call('PUBLISH', bell, sequence)\n",
        f"{VALKEY}::test_an_event_is_stored_where_its_bell_is_forbidden",
    ),
    mutant(
        "events away: a socket is not told to come back",
        over_socket,
        ", AWAY: again}",
        "}",
        f"{DELIVERY}::test_a_log_that_is_away_ends_it_for_now",
    ),
    mutant(
        "events origin: a child forgets which connection it is for",
        "current.py",
        '        object.__setattr__(scope._context, "websocket_client_id", websocket_client_id)\n',
        "        pass\n",
        ORIGIN,
    ),
    mutant(
        "events origin: what a client sends is not checked",
        "current.py",
        '        settings.id_rules.check("websocket_client_id", websocket_client_id)\n    ',
        "        pass\n    ",
        ORIGIN,
    ),
    mutant(
        "valkey: who leaves takes the bell away",
        doorbell,
        '            self._spawn(self._say("subscribe", name))',
        '            await self._say("subscribe", name)',
        f"{VALKEY}::test_who_leaves_while_the_bell_is_hung_leaves_it_to_the_others",
    ),
    mutant(
        "valkey: everybody looks at once",
        doorbell,
        "            self._share = math.ceil(len(self._to_look) / self._looks)\n",
        "            self._share = len(self._to_look)\n",
        f"{VALKEY}::test_not_everybody_looks_at_once",
    ),
    mutant(
        "cut off: who does not read keeps the socket",
        cutting,
        "        transport.abort()\n        await checkpoint()",
        "        await checkpoint()",
        "tests/integration/test_events.py::test_a_client_that_never_reads_is_cut_off_and_slows_nobody",
    ),
    mutant(
        "cut off: who is closed and does not read keeps the socket",
        cutting,
        "        asyncio.get_running_loop().call_later(seconds, _abort_unread, transport)\n",
        "        pass\n",
        "tests/integration/test_events.py::test_who_is_closed_and_does_not_read_is_cut_off_too",
    ),
    mutant(
        "events processes: a bell is heard in its own process only",
        redis,
        "        epoch, sequence = await self._run(APPEND, (state, log), given)\n",
        "        epoch, sequence = await self._run(APPEND, (state, log), (*given[:-1], str(id(self))))\n",
        f"{PROCESSES}::test_an_agent_in_one_process_is_heard_in_the_other",
    ),
    mutant(
        "events processes: who comes back gets what there is, not what was missed",
        scripts,
        "local start = tonumber(ARGV[4])\n",
        "local start = last\n",
        f"{PROCESSES}::test_who_was_connected_to_a_process_that_died_resumes_at_another",
    ),
    mutant(
        "events processes: a connection for bells is had once",
        doorbell,
        "            await asyncio.sleep(pause)\n",
        "            await asyncio.sleep(1e9)\n",
        f"{PROCESSES}::test_connections_for_bells_that_are_killed_lose_nothing",
    ),
    mutant(
        "valkey: cancellations are lost where redis-py sends",
        redis,
        "            if _cancels() > cancels:\n",
        "            if False:\n",
        f"{VALKEY}::test_no_cancellation_is_lost",
    ),
    mutant(
        "events attacked: an id may be followed by anything",
        position,
        '[0-9]{0,14})", re.ASCII).fullmatch',
        '[0-9]{0,14})", re.ASCII).match',
        f"{ATTACKED}::test_what_is_no_id_of_an_event_is_refused",
    ),
    mutant(
        "events attacked: an origin is compared letter by letter",
        delivery,
        "self._is_allowed(sent[0].lower(), scope, headers)",
        "self._is_allowed(sent[0], scope, headers)",
        f"{ATTACKED}::test_origins",
    ),
    mutant(
        "events attacked: a client may say anything",
        over_socket,
        "            self._code = _code_for(message)\n",
        "            return\n",
        f"{ATTACKED}::test_a_frame_closes_its_own_connection_alone",
    ),
]
