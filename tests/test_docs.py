"""The pages of docs/ tell the truth: their programs run, and print what the pages say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import psycopg
import pytest

import ringfence
from ringfence import RingfenceError, Settings
from ringfence.cli import graph, migrate, torture
from ringfence.current import TRANSACTIONS
from ringfence.integrations._exchange import CLOSE_CODES
from ringfence.integrations.problems import problem_of
from ringfence.testing.postgres import ADDRESS, PostgresServer, find_binaries

from .docs_servers import Stopped, serve_and_stop
from .integrations.test_sqlalchemy_guard import PERMITTED

for partner in (
    "agents", "aiosqlite", "dishka", "fastapi", "joserfc", "pydantic_ai", "sqlalchemy", "sqlmodel",
    "svcs",
):  # fmt: skip
    pytest.importorskip(partner)

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

RUN = "python"
OUTPUT = "text"  # what the block of Python above it prints
NOT_RUN = {
    "sh": "command lines of a terminal; that what they name exists is checked below",
    "picture": "drawings",
}

# --- what a page says of its blocks -----------------------------------------------------------

ONE_PROGRAM = "The blocks of this page are one program"
EACH_SECTION = "Each section of this page is a program"
EACH_BLOCK = "Each block of this page is a program"
BEGINS = "begins with the first block"


class Block(NamedTuple):
    source: str
    said: str
    """What the page says that it prints."""


def _blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    for language, body in FENCE.findall(text):
        if language == RUN:
            blocks.append(Block(body, ""))
        elif language == OUTPUT:
            blocks[-1] = Block(blocks[-1].source, blocks[-1].said + body)
    return blocks


def _programs(text: str) -> list[list[Block]]:
    """The programs of a page, as it divides itself."""
    flowing = " ".join(text.split())
    if ONE_PROGRAM in flowing:
        return [_blocks(text)]
    if EACH_BLOCK in flowing:
        programs = [[block] for block in _blocks(text)]
    elif EACH_SECTION in flowing:
        programs = [_blocks(section) for section in re.split(r"^## ", text, flags=re.MULTILINE)]
    else:
        assert not _blocks(text), "The page does not say what its programs are."
        programs = []
    programs = [program for program in programs if program]
    if BEGINS not in flowing:
        return programs
    (first,), *others = programs
    return [[first, *program] for program in others]


# --- running them -----------------------------------------------------------------------------


def _printed(programs: list[list[Block]], folder: Path) -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs_runner"],
        input=json.dumps([[block.source for block in program] for program in programs]),
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    printed: list[list[str]] = json.loads(done.stdout)
    return printed


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGFENCE_")}
    paths = [str(ROOT), str(ROOT / "src")]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_programs_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    programs = _programs(page.read_text())
    if not programs:
        return
    if "postgres_server()" in page.read_text() and not (find_binaries() or os.environ.get("CI")):
        pytest.skip("The page starts a PostgreSQL, and there is none.")
    for program, printed in zip(programs, _printed(programs, tmp_path), strict=True):
        for block, said in zip(program, printed, strict=True):
            assert said == block.said, block.source


def _asks_for_fixtures(program: list[Block]) -> bool:
    return any(re.search(r"^def test_\w+\(\w", block.source, re.MULTILINE) for block in program)


def test_what_asks_for_fixtures_is_run_by_pytest(postgres: PostgresServer, tmp_path: Path) -> None:
    programs = [program for page in PAGES for program in _programs(page.read_text())]
    asking = [program for program in programs if _asks_for_fixtures(program)]
    assert asking
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:  # others have tables there
        connection.execute("drop database if exists pages")
        connection.execute("create database pages")
    address = urlsplit(postgres.dsn)._replace(path="/pages").geturl()
    for number, program in enumerate(asking):
        file = tmp_path / f"test_page_{number}.py"
        file.write_text("\n".join(block.source for block in program))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:asyncio", file],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=tmp_path,
            env={**_environment(), ADDRESS: address},
        )
        assert re.search(r"^[1-9]\d* passed in", done.stdout, re.MULTILINE), (
            done.stdout + done.stderr
        )


# --- nothing escapes --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_compared_or_named_here(page: Path) -> None:
    text = page.read_text()
    languages = [language for language, _ in FENCE.findall(text)]
    assert set(languages) <= {RUN, OUTPUT, *NOT_RUN}
    assert len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) == 2 * len(languages)
    assert not re.search(r"^(?: {4}|\t)(?!- )\S", FENCE.sub("", text), re.MULTILINE), "indented"
    run = {block.source for program in _programs(text) for block in program}
    assert run == {body for language, body in FENCE.findall(text) if language == RUN}


@pytest.mark.parametrize(
    "text",
    ["no word about its blocks", EACH_BLOCK + "\n```text\nfirst\n```\n```python\n1\n```\n"],
    ids=["undeclared", "output first"],
)
def test_a_page_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        _programs(text + "\n```python\nprint(1)\n```\n")


def test_how_pages_are_divided() -> None:
    blocks = "\n".join(f"## {n}\n```python\nprint({n})\n```\n```text\n{n}\n```" for n in "123")
    one, two, three = (Block(f"print({n})\n", f"{n}\n") for n in "123")
    assert _programs(f"{ONE_PROGRAM}.\n{blocks}") == [[one, two, three]]
    assert _programs(f"{EACH_BLOCK}.\n{blocks}") == [[one], [two], [three]]
    assert _programs(f"{EACH_SECTION}.\n{blocks}") == [[one], [two], [three]]
    assert _programs(f"{EACH_BLOCK} and {BEGINS}.\n{blocks}") == [[one, two], [one, three]]


def test_what_a_program_prints_is_told_by_block(tmp_path: Path) -> None:
    said = _printed([[Block("x = 1\nprint(x)\n", ""), Block("\nprint(x / 0)\n", "")]], tmp_path)
    assert said == [["1\n", "ZeroDivisionError: division by zero\n"]]


# --- what cannot be run is looked up ----------------------------------------------------------

SERVERS = ("uvicorn", "hypercorn", "granian")
OTHER_COMMANDS = ("curl", "export", "kill", "make", "pytest", "python", "ringfence")


def _command_lines() -> list[list[str]]:
    found = []
    for page in PAGES:
        for language, body in FENCE.findall(page.read_text()):
            if language == "sh":
                lines = body.replace("\\\n", " ").splitlines()
                found += [shlex.split(line, comments=True) for line in lines]
    return [line for line in found if line]


OWN_COMMANDS = {"graph": graph.command, "migrate": migrate.command, "torture": torture.command}


@cache
def _options_of(server: str) -> set[str]:
    help_text = subprocess.run(
        [sys.executable, "-m", server, "--help"], capture_output=True, text=True, timeout=50
    ).stdout
    return set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", help_text))


def test_command_lines_name_what_there_is() -> None:
    lines = _command_lines()
    assert {line[0] for line in lines} <= {"pip", *SERVERS, *OTHER_COMMANDS}
    for command, *words in lines:
        if command in SERVERS:
            assert {word for word in words if word.startswith("-")} <= _options_of(command)
        if command == "ringfence":
            own: Any = OWN_COMMANDS[words[0]]
            own = own.commands[words[1]] if isinstance(own, click.Group) else own
            known = {option for param in own.params for option in param.opts}
            assert {word for word in words if word.startswith("--")} <= known
        if command == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)
        if command == "pip":
            assert set(_extras_in(words)) <= set(_project()["optional-dependencies"])
    assert {*SERVERS, "pip"} <= {line[0] for line in lines}


def _extras_in(words: list[str]) -> list[str]:
    named = [match[1] for word in words if (match := re.fullmatch(r"ringfence\[(.*)\]", word))]
    return [extra for names in named for extra in names.split(",")]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


# --- links ------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")


# --- errors.md --------------------------------------------------------------------------------

ERRORS = (ROOT / "docs" / "errors.md").read_text()
SECTIONS = {
    match[0]: section
    for section in re.split(r"^## ", ERRORS, flags=re.MULTILINE)[1:]
    if (match := re.match(r"RF\d\d\d \w+", section))
}
CLASSES = [
    kind
    for kind in (getattr(ringfence, name) for name in ringfence.__all__)
    if isinstance(kind, type) and issubclass(kind, RingfenceError) and kind is not RingfenceError
]


def test_every_error_has_a_section_and_no_section_is_stale() -> None:
    assert list(SECTIONS) == sorted(f"{kind.code} {kind.__name__}" for kind in CLASSES)
    table = re.findall(r"^\| \[(RF\d+)\]\(.*?\) \| `(\w+)` \|", ERRORS, re.MULTILINE)
    assert [" ".join(row) for row in table] == list(SECTIONS)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_its_section_shows_it_says_how_to_mend_it_and_what_clients_see(kind: Any) -> None:
    section = SECTIONS[f"{kind.code} {kind.__name__}"]
    shown = [said for _, said in _blocks(section)]
    assert f"ringfence.errors.{kind.__name__}: " in "".join(shown) or kind.__name__ in _OTHERWISE
    assert any("ringfence.errors." not in said for said in shown), "no corrected program"
    error = kind("x", [ValueError()]) if issubclass(kind, ExceptionGroup) else kind("x")
    status = re.search(r"Over\s+HTTP: (\d+)", section)
    assert status is not None
    assert int(status[1]) == problem_of(error).status


_OTHERWISE = {"ContextLimitError"}  # its message names a request that has a random id


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_it_is_said_which_are_raised(kind: type) -> None:
    source = ROOT / "src" / "ringfence"
    modules = {*source.rglob("*.py")} - {source / "errors.py", source / "__init__.py"}
    is_used = any(re.search(rf"\b{kind.__name__}\b", module.read_text()) for module in modules)
    section = SECTIONS[f"{kind.code} {kind.__name__}"]  # type: ignore[attr-defined]
    assert is_used is not ("Nothing in this version raises it" in section)


# --- sessions-and-transactions.md -------------------------------------------------------------

NOT_NOTICED = {
    "reading a loaded attribute": "| reading an attribute that is loaded |",
    "setting an attribute, after other changes": "| setting an attribute, after other changes |",
    "object_session": "| `object_session`, ",
    "session.sync_session": ", `session.sync_session`, ",
    "begin, not entered": ", `begin()` without entering it |",
    "identity_key": "| `session.identity_key(...)` |",
    "run_sync of what does not use it": "| `run_sync` of a function that does not use it |",
    "rows that were fetched": "| rows that were fetched, ",
    "rows of a stream": " rows of a stream whose statement was checked |",
    "facts of a held connection": "| facts of a held connection, ",
    "a held driver connection": "| a driver's connection that somebody holds |",
}


def test_what_is_not_noticed_is_said() -> None:
    page = (ROOT / "docs" / "sessions-and-transactions.md").read_text()
    assert set(NOT_NOTICED) == set(PERMITTED)
    assert all(said in page for said in NOT_NOTICED.values())
    assert all(f"| `{policy}`" in page for policy in TRANSACTIONS)


# --- shutdown.md ------------------------------------------------------------------------------

GRACE, NO_LIFESPAN = "--timeout-graceful-shutdown 1", " --lifespan off"
STOPPED = {
    # server, options: seconds that the request takes, its answer, whether it was cleaned up
    ("uvicorn", ""): ("1", 200, True),
    ("uvicorn", GRACE): ("30", 500, True),
    ("uvicorn", GRACE + NO_LIFESPAN): ("30", None, False),
    ("hypercorn", "--graceful-timeout 1"): ("30", 500, True),
    ("granian", ""): ("1", 200, True),
    ("granian", "--workers-kill-timeout 1"): ("30", None, False),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Future[Stopped]]:
    """All of them at once: they mostly wait."""
    folder = tmp_path_factory.mktemp("served")
    page = (ROOT / "docs" / "shutdown.md").read_text()
    (folder / "app.py").write_text(_blocks(page)[0].source)

    def stop(server: str, options: str, seconds: str) -> Stopped:
        words = shlex.split(options) + ["--interface", "asgi"] * (server == "granian")
        return serve_and_stop(server, words, seconds, folder)

    with ThreadPoolExecutor(len(STOPPED)) as pool:
        return {key: pool.submit(stop, *key, STOPPED[key][0]) for key in STOPPED}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("key", STOPPED, ids=" ".join)
def test_what_a_server_makes_of_sigterm(
    key: tuple[str, str], stopped: dict[tuple[str, str], Future[Stopped]]
) -> None:
    seconds, status, is_cleaned_up = STOPPED[key]
    result = stopped[key].result()
    assert result.status == status, result.said
    assert (f"cleaned up after {seconds}\n" in result.said) is is_cleaned_up, result.said


def test_its_table_says_so() -> None:
    page = (ROOT / "docs" / "shutdown.md").read_text()
    for (server, options), (_, status, is_cleaned_up) in STOPPED.items():
        if NO_LIFESPAN in options:
            assert f"`{NO_LIFESPAN.strip()}` is the same" in page
            continue
        row = f"| {server} `{options}`" if options else f"| {server} |"
        line = next(line for line in page.splitlines() if line.startswith(row))
        assert f"| {status or 'connection lost'}" in line
        assert ("| runs" in line) is is_cleaned_up


def test_its_table_of_settings() -> None:
    page, settings = (ROOT / "docs" / "shutdown.md").read_text(), Settings()
    for name in ("drain_timeout", "finaliser_timeout"):
        value = f"{getattr(settings, name):g} s"
        assert f"| `{name}` | `RINGFENCE_{name.upper()}` | {value} |" in page


# --- boundary.md ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ringfence.NoContextError("x"), "| 401 | denied with 401, else closed with 4401 |"),
        (ringfence.ForbiddenError("x"), "| 403 | denied with 403, else closed with 1008 |"),
        (ringfence.DrainingError("x"), "| 503, `Retry-After` | denied with 503, else closed with "),
        (ringfence.OwnershipError("x"), "| 500 | denied with 500, else closed with 1011 |"),
    ],
    ids=["nobody", "forbidden", "draining", "other"],
)
def test_its_table_of_answers(error: Exception, said: str) -> None:
    status = problem_of(error).status
    code = CLOSE_CODES.get(status, 1008)
    page = (ROOT / "docs" / "boundary.md").read_text()
    line = next(line for line in page.splitlines() if said in line)
    assert f"denied with {status}, else closed with {code} |" in line
