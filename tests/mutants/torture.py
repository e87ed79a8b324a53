"""Defects of the torture kit: each would let a leak of an application pass."""

from __future__ import annotations

from .mutant import Mutant, mutant

TESTS = "tests/test_testing_torture.py"
COMMAND = "tests/test_cli_torture.py"
KIT = "testing/torture"

MUTANTS: list[Mutant] = [
    mutant(
        "torture: a canary across the border of two pieces is not found",
        f"{KIT}/canaries.py",
        "        self._end = data[-(SIZE - 1) :]\n",
        "        self._end = data[-(SIZE - 2) :]\n",
        f"{TESTS}::test_a_canary_is_found_across_the_borders_of_pieces",
    ),
    mutant(
        "torture: nobody may see the data of who asked otherwise",
        f"{KIT}/driver.py",
        "            if owner == step.user and not step.is_nobody:\n",
        "            if owner == step.user:\n",
        f"{TESTS}::test_nobody_must_see_not_even_what_belongs_to_who_asked_otherwise",
    ),
    mutant(
        "torture: what nobody said itself is a leak",
        f"{KIT}/driver.py",
        "            elif owner not in self._in_request(step):\n",
        "            else:\n",
        f"{TESTS}::test_nobody_may_be_told_what_the_request_itself_said",
    ),
    mutant(
        "torture: nobody keeps the credentials that the scenario gave to the request",
        f"{KIT}/workload.py",
        "pair[0].lower() not in _CREDENTIALS]",
        "pair[0].lower()]",
        f"{TESTS}::test_nobody_reads_and_has_no_credentials",
    ),
    mutant(
        "torture: what is left open is clean",
        f"{KIT}/report.py",
        "        return not (self.leak_count or self.fault_count or self.left)\n",
        "        return not (self.leak_count or self.fault_count)\n",
        f"{TESTS}::test_a_report_with_a_finding_is_not_clean",
    ),
    mutant(
        "torture: a run that could find nothing is clean",
        f"{KIT}/driver.py",
        "        if not self._has_own and not self._stopped:\n",
        "        if False:\n",
        f"{TESTS}::test_a_scenario_that_can_find_nothing_is_an_error",
    ),
    mutant(
        "torture: another's canary in a log record is not heard",
        f"{KIT}/observer.py",
        "            if owner in asked.allowed:\n",
        "            if owner in asked.allowed or where == 'log':\n",
        f"{TESTS}::test_what_is_logged_and_printed_is_heard",
    ),
    mutant(
        "torture: another's canary that is printed is not heard",
        f"{KIT}/observer.py",
        '            self._hear(text, "output")\n',
        "            pass\n",
        f"{TESTS}::test_what_is_logged_and_printed_is_heard",
    ),
    mutant(
        "torture: what a handler adds to a record is not heard",
        f"{KIT}/observer.py",
        "                now[1].append(line)\n",
        "                pass\n",
        f"{TESTS}::test_what_handlers_add_to_a_log_record_is_heard",
    ),
    mutant(
        "torture: what a buffer gives away of others is a leak",
        f"{KIT}/observer.py",
        "            if now is not None and now[0] is record:",
        "            if now is not None:",
        f"{TESTS}::test_a_buffer_that_gives_away_what_others_logged_is_no_leak",
    ),
    mutant(
        "torture: what a WebSocket says unasked is not judged",
        f"{KIT}/wire.py",
        "                self._watch.feed(_said(event))\n",
        "                pass\n",
        f"{TESTS}::test_all_that_a_websocket_says_is_judged",
    ),
    mutant(
        "torture: a login that says who logs in is an answer that could be mixed up",
        f"{KIT}/driver.py",
        "                self._has_own |= exchange.turn.attack != LOGIN\n",
        "                self._has_own = True\n",
        f"{TESTS}::test_a_login_that_says_who_logs_in_is_no_answer_that_could_be_mixed_up",
    ),
    mutant(
        "torture: rows without any canary are observed",
        f"{KIT}/driver.py",
        "(self._report.observed if own else self._report.not_observed)",
        "(self._report.observed if rows else self._report.not_observed)",
        f"{TESTS}::test_rows_are_judged",
    ),
    mutant(
        "torture: a row of another is not judged",
        f"{KIT}/driver.py",
        "                if whose != owner:\n",
        "                if whose == owner:\n",
        f"{TESTS}::test_rows_are_judged",
    ),
    mutant(
        "torture: a hanging application is waited for",
        f"{KIT}/driver.py",
        "        if self._unanswered >= UNANSWERED:\n",
        "        if self._unanswered >= 10**6:\n",
        f"{TESTS}::test_an_application_that_hangs_is_not_waited_for_without_end",
    ),
    mutant(
        "torture: the same seed does not plan the same",
        f"{KIT}/workload.py",
        '        random = Random(f"{self.canaries.seed}/{lane}/{number}")\n',
        "        random = Random()\n",
        f"{TESTS}::test_the_same_seed_plans_the_same",
        f"{TESTS}::test_only_takes_out_of_the_same_plan",
    ),
    mutant(
        "torture: a part of the plan is another plan",
        f"{KIT}/workload.py",
        "            number, planned = number + 1, planned + len(turn.steps)\n"
        "            if not only or turn.attack in only:\n",
        "            planned += len(turn.steps)\n"
        "            if not only or turn.attack in only:\n"
        "                number += 1\n",
        f"{TESTS}::test_only_takes_out_of_the_same_plan",
    ),
    mutant(
        "torture: the application sees the kit's header",
        f"{KIT}/observer.py",
        "for name, value in headers if name != _MARK]",
        "for name, value in headers]",
        f"{TESTS}::test_the_application_does_not_see_the_kits_own_header",
    ),
    mutant(
        "torture: what was not observed is shown as observed",
        f"{KIT}/driver.py",
        "            if most.get(what):\n",
        "            if what in most or True:\n                most.setdefault(what, 0)\n",
        f"{TESTS}::test_what_is_right_passes_and_what_was_not_seen_is_said",
    ),
    mutant(
        "torture: pipelined requests are not",
        f"{KIT}/driver.py",
        '        data = b"".join(exchange.sent.data for exchange in exchanges)\n'
        "        await self._within(wire.write(data))\n",
        "        return await self._one_by_one(wire, turn)\n",
        f"{TESTS}::test_pipelined_requests_are_in_one_write",
    ),
    mutant(
        "torture: a template is written over a scenario",
        f"{KIT}/template.py",
        '        with path.open("x") as file:\n',
        '        with path.open("w") as file:\n',
        f"{COMMAND}::test_the_template_runs_as_it_is_and_is_not_overwritten",
    ),
    mutant(
        "torture: a server outlives a kit that was killed",
        f"{KIT}/serve.py",
        "    os.kill(os.getpid(), signal.SIGTERM)\n",
        "    pass\n",
        f"{COMMAND}::test_the_server_ends_with_the_kit",
    ),
    mutant(
        "torture: leaks end with exit code 0",
        "cli/torture.py",
        "    sys.exit(0 if report.is_clean else FOUND)\n",
        "    sys.exit(0)\n",
        f"{COMMAND}::test_leaks_are_reported_with_a_replay_that_finds_them_again",
    ),
]
