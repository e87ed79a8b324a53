"""Defects of the migration."""

from __future__ import annotations

from .mutant import Mutant, mutant

CORPUS = "tests/migrate/test_corpus.py"
BYTES = "tests/migrate/test_bytes.py"
ROLLBACK = "tests/migrate/test_rollback.py"
FILES = "tests/migrate/test_files.py"
COMMAND = "tests/migrate/test_command.py"
TREES = "tests/migrate/test_trees.py"
CONFIG = "tests/migrate/test_config.py"
WORKERS = "tests/migrate/test_workers.py"
RUNNING = "tests/migrate/test_running.py"
AUDITED = "tests/migrate/test_audited.py"

BECOMES = f"{CORPUS}::test_it_becomes_what_it_says"
LEFT = f"{CORPUS}::test_what_is_left_to_a_person_is_listed_with_its_reason"


def _case(name: str) -> str:
    return f"{BECOMES}[{name}]"


def _left(name: str) -> str:
    return f"{LEFT}[{name}]"


MUTANTS: list[Mutant] = [
    # --- what is rewritten
    mutant(
        "migrate: every name of the factory's module moves",
        "migrate/config.py",
        "return names == profile.ALL or (isinstance(names, tuple) and name in names)",
        "return names is not None",
        _left("imports_factory_keeps_what_stays"),
    ),
    mutant(
        "migrate: a relative import counts one package too many",
        "migrate/names.py",
        "above = self.package[: len(self.package) - level + 1]",
        "above = self.package[: len(self.package) - level]",
        _case("imports_relative"),
    ),
    mutant(
        "migrate: a comment is lost where imports become one",
        "migrate/moved.py",
        "if line.trailing_whitespace.comment or any(empty.comment for empty in line.leading_lines):",
        "if False:",
        _case("imports_not_merged_over_a_comment"),
    ),
    mutant(
        "migrate: the package that an import binds is taken away",
        "migrate/imports.py",
        "    if others and not _is_bound_otherwise(names, top, module):",
        "    if False:",
        _case("imports_module_whole_that_binds_the_package"),
    ),
    mutant(
        "migrate: a module moves whose other names stay",
        "migrate/imports.py",
        "        if used not in profile.EXPORTED:",
        "        if False:",
        _case("imports_module_with_a_foreign_member"),
    ),
    mutant(
        "migrate: a module that is handed on moves",
        "migrate/uses.py",
        "        found.add(parent.attr.value if is_member else None)",
        "        found |= {parent.attr.value} if is_member else set()",
        _left("imports_module_that_is_handed_on"),
    ),
    mutant(
        "migrate: strings that nobody is known to read are rewritten",
        "migrate/strings.py",
        "    if not _is_target(names, node):",
        "    if False:",
        _case("strings_that_a_person_has_to_read"),
    ),
    mutant(
        "migrate: what is called like a context is rewritten",
        "migrate/receivers.py",
        "return KNOWN if names.config.trust_receivers else NAMED",
        "return KNOWN",
        _case("reads_by_name_alone"),
    ),
    mutant(
        "migrate: one of two meanings is enough",
        "migrate/names.py",
        "if not meanings or any(meaning is None for meaning in meanings):",
        "meanings = [meaning for meaning in meanings if meaning is not None]\n        if not meanings:",
        _case("reads_a_name_that_may_be_two_things"),
    ),
    mutant(
        "migrate: a name in a function is that of the module",
        "migrate/names.py",
        'binding = Binding("other", None, outside)',
        "return",
        _case("nested_functions_and_shadows"),
    ),
    mutant(
        "migrate: a default belongs inside of its function",
        "migrate/names.py",
        "        if type(parent) is cst.Param and around.parent is not None:",
        "        if False:",
        _case("lambda_as_a_default"),
    ),
    mutant(
        "migrate: an audited key goes to the agent",
        "migrate/keys.py",
        "(audit if key in names.config.audit_keys else agent).append(text)",
        "agent.append(text)",
        _case("calls_metadata_split"),
    ),
    mutant(
        "migrate: audited keys move while other writes are undecided",
        "migrate/rewrite.py",
        "doing = apart([one for one in due if not (is_holding and is_held(one))])",
        "doing = apart(due)",
        AUDITED,
    ),
    mutant(
        "migrate: what is the agent's by position goes to the audit trail",
        "migrate/children.py",
        "        if is_agents and any(AUDIT in edit.text for edit in edits):",
        "        if False:",
        _left("calls_children"),
    ),
    mutant(
        "migrate: a subclass takes what the class takes",
        "migrate/constructors.py",
        "    if made.makes_itself:",
        "    if False:",
        _case("calls_subclass_with_a_constructor"),
    ),
    mutant(
        "migrate: a match binds no name",
        "migrate/names.py",
        "    elif isinstance(node, (cst.MatchAs, cst.MatchStar)) and node.name is not None:",
        "    elif False:",
        _case("reads_names_bound_otherwise"),
    ),
    mutant(
        "migrate: nonlocal is not heard of",
        "migrate/names.py",
        "            scope.lent[name] = owner or self.root",
        "            pass",
        _case("reads_names_bound_otherwise"),
    ),
    mutant(
        "migrate: lineage goes to the agent",
        "migrate/keys.py",
        "        if key in LINEAGE_KEYS:\n            lineage",
        "        if False:\n            lineage",
        _case("calls_metadata_split"),
    ),
    mutant(
        "migrate: comments between keys are lost",
        "migrate/keys.py",
        'if found.only is None and "#" in names.tree.code(node) and _has_comment(node):',
        "if False:",
        _case("calls_metadata_undecided"),
    ),
    mutant(
        "migrate: a key that nobody assigned is read from the agent's data",
        "migrate/keys.py",
        'if key in config.agent_keys or config.other_keys == "agent":',
        "if True:",
        _case("reads_metadata_undecided"),
    ),
    mutant(
        "migrate: lineage is written",
        "migrate/metadata.py",
        "    if where == LINEAGE and code == WRITTEN:",
        "    if False:",
        _case("writes_metadata_undecided"),
    ),
    mutant(
        "migrate: a default of lineage is lost",
        "migrate/metadata.py",
        '    if default != {"operation_depth": "0", "parent_request_id": "None"}[key]:',
        "    if False:",
        _case("reads_metadata_undecided"),
    ),
    mutant(
        "migrate: session and metadata of one call are rewritten at once",
        "migrate/arguments.py",
        "        if there.keyword is not None:  # nobody else may rename the literal in the same round",
        "        if False:",
        _case("calls_session_id"),
    ),
    mutant(
        "migrate: a string in an f-string has the quotes around it",
        "migrate/tree.py",
        "            if isinstance(around, cst.FormattedString):",
        "            if False:",
        _case("reads_session_id"),
    ),
    mutant(
        "migrate: a function that others import from here is renamed",
        "migrate/functions.py",
        "    if not uses and not alias.asname:",
        "    if False:",
        _case("calls_clear_shared_objects_exported"),
    ),
    mutant(
        "migrate: the factory's children are children like others",
        "migrate/children.py",
        "if meaning is not None and meaning.is_factory and method == METHOD:",
        "if False:",
        _left("calls_execution_factory"),
    ),
    mutant(
        "migrate: a missing run id is not noticed",
        "migrate/constructors.py",
        'if "run_id" not in given.keywords and len(given.positional) < 3:',
        "if False:",
        _left("calls_that_cannot_run"),
    ),
    mutant(
        "migrate: a task group's tasks are flagged as well",
        "migrate/laws.py",
        'return method in TASKS and receiver in ("", *OPENERS)',
        "return method in TASKS",
        f"{CORPUS}::test_notes_are_those_it_says[tasks_and_generators]",
    ),
    mutant(
        "migrate: half of a finding is made",
        "migrate/findings.py",
        "        if not any(_overlap(edit, other) for edit in finding.edits for other in made):",
        "        if True:",
        _case("calls_children_nested"),
    ),
    mutant(
        "migrate: one round is enough",
        "migrate/rewrite.py",
        "        source = attrs.evolve(source, utf8=edited)\n",
        "        source = attrs.evolve(source, utf8=edited)\n"
        "        return Change(path, data, source.encode(edited), made, tuple(found))\n",
        _case("calls_session_id"),
    ),
    # --- bytes
    mutant(
        "migrate: a result that does not parse is written",
        "migrate/rewrite.py",
        "            refuse_unparsed(source.encode(edited))",
        "            pass",
        f"{BYTES}::test_a_result_that_does_not_parse_is_not_taken",
    ),
    mutant(
        "migrate: everything is UTF-8",
        "migrate/source.py",
        "        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)",
        '        encoding = "utf-8"',
        f"{BYTES}::test_everything_else_is_kept_byte_for_byte",
    ),
    mutant(
        "migrate: a form feed is lost",
        "migrate/tree.py",
        "        if self.module.code != text:",
        "        if False:",
        f"{BYTES}::test_what_is_not_understood_is_reported_and_left_alone",
    ),
    mutant(
        "migrate: a new line ends as on Unix",
        "migrate/moved.py",
        'return "\\r\\n" if end > 0 and data[end - 1 : end] == b"\\r" else "\\n"',
        'return "\\n"',
        f"{BYTES}::test_a_new_line_ends_like_the_one_it_came_from",
    ),
    # --- writing and going back
    mutant(
        "migrate: a file is changed before it is recorded",
        "migrate/rewrite.py",
        "            journal.record(Entry(relative, change.before, change.after))\n            try:\n"
        "                replace(change.path, change.after)\n",
        "            try:\n                replace(change.path, change.after)\n"
        "                journal.record(Entry(relative, change.before, change.after))\n",
        f"{ROLLBACK}::test_a_file_is_recorded_before_it_is_changed",
    ),
    mutant(
        "migrate: what changed in the meantime is overwritten",
        "migrate/rewrite.py",
        "return not change.path.is_symlink() and read(change.path) == change.before",
        "return True",
        f"{ROLLBACK}::test_a_file_that_changed_in_the_meantime_is_not_written",
    ),
    mutant(
        "migrate: a mode is lost",
        "migrate/writing.py",
        "            os.fchmod(file.fileno(), before.st_mode & 0o7777)\n",
        "",
        f"{ROLLBACK}::test_modes_line_ends_and_encodings_come_back",
    ),
    mutant(
        "migrate: an edit of somebody's is rolled back with ours",
        "migrate/rollback.py",
        "    if now == entry.after or is_forced:",
        "    if True:",
        f"{ROLLBACK}::test_what_somebody_edited_since_is_left_and_shown",
    ),
    mutant(
        "migrate: a rollback writes through links",
        "migrate/rollback.py",
        "    if path.is_symlink() or not path.resolve().is_relative_to(home.resolve()):",
        "    if False:",
        f"{ROLLBACK}::test_a_link_is_never_written_through",
        f"{ROLLBACK}::test_a_journal_cannot_lead_out_of_the_project",
    ),
    mutant(
        "migrate: a killed run leaves its new file",
        "migrate/rollback.py",
        "    path.with_name(path.name + SUFFIX).unlink(missing_ok=True)  # of a run that was killed\n",
        "",
        f"{ROLLBACK}::test_a_run_that_was_killed_can_be_rolled_back[3]",
    ),
    mutant(
        "migrate: a journal's half line spoils the next",
        "migrate/journal.py",
        '            file.truncate(file.read().rfind(b"\\n") + 1)',
        "            pass",
        f"{ROLLBACK}::test_a_journal_cut_off_anywhere_can_be_rolled_back",
    ),
    mutant(
        "migrate: a journal that was changed is believed",
        "migrate/journal.py",
        'if (digest(entry.before), digest(entry.after)) != (line["before"], line["after"]):',
        "if False:",
        f"{ROLLBACK}::test_a_journal_that_was_changed_is_refused",
    ),
    mutant(
        "migrate: a run is rolled back again and again",
        "migrate/rollback.py",
        "        journal.rolled_back()",
        "        pass",
        f"{ROLLBACK}::test_two_runs_go_back_one_by_one",
    ),
    # --- trees and the command
    mutant(
        "migrate: links are followed",
        "migrate/files.py",
        "        return stat.S_ISREG(file.lstat().st_mode)",
        "        return file.is_file()",
        f"{FILES}::test_links_are_not_followed",
    ),
    mutant(
        "migrate: what git ignores is rewritten",
        "migrate/git.py",
        ', "--exclude-standard"',
        "",
        f"{FILES}::test_with_git_what_it_ignores_is_left_out",
    ),
    mutant(
        "migrate: calls of the old classes are modernised",
        "migrate/rewrite.py",
        '        used = [site for site in left.left("imports") if site[1].kind == AUTOMATIC]',
        "        used = []",
        f"{TREES}::test_later_phases_wait_for_earlier_ones",
    ),
    mutant(
        "migrate: a dirty tree is rewritten",
        "cli/migrate.py",
        "    if is_write and not allow_dirty:",
        "    if False:",
        f"{COMMAND}::test_a_dirty_tree_is_refused_unless_told",
    ),
    mutant(
        "migrate: a journal makes the tree dirty",
        "migrate/journal.py",
        '        (folder.parent / ".gitignore").write_text("*\\n")  # else it would make the tree dirty\n',
        "",
        f"{COMMAND}::test_a_journal_makes_no_tree_dirty",
    ),
    mutant(
        "migrate: verify passes whatever is left",
        "cli/migrate.py",
        "    sys.exit(1 if len(left) > limit else 0)",
        "    sys.exit(0)",
        f"{COMMAND}::test_rewrite_writes_verify_judges_and_rollback_restores",
    ),
    mutant(
        "migrate: the page runs what it quotes",
        "migrate/reports/page.py",
        'f"{finding.code}</a><td><code>{escape(finding.text)}</code>{reason}"',
        'f"{finding.code}</a><td><code>{finding.text}</code>{reason}"',
        f"{COMMAND}::test_scan_as_a_page_that_asks_nobody_and_runs_nothing",
    ),
    mutant(
        "migrate: a file that kills its process takes the others with it",
        "migrate/workers.py",
        "    except BrokenProcessPool:\n        _one_by_one(",
        "    except ZeroDivisionError:\n        _one_by_one(",
        f"{WORKERS}::test_a_file_that_kills_its_process_is_reported_and_the_others_are_done",
    ),
    mutant(
        "migrate: an unknown key of the configuration is not noticed",
        "migrate/config.py",
        "        if key not in known:\n            raise _unknown",
        "        if key not in known:\n            continue\n            raise _unknown",
        f"{CONFIG}::test_what_is_wrong_is_said",
    ),
]
