"""Each legacy name warns once per call site and names its successor; canonical names never do."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import time
import typing
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import ringfence
from ringfence import legacy
from ringfence.legacy.arguments import ChildKeywords, ContextKeywords, RequestKeywords
from ringfence.legacy.deprecations import SUCCESSORS

from .words import Session, make

IDS = "'alice-1', 't-1', 'r-1'"

USES = {
    # a line of somebody's program -> the legacy names in it
    "ctx.metadata['a'] = 1": ["metadata"],
    "ctx.metadata.get('a')": ["metadata"],
    "hasattr(ctx, 'metadata')": ["metadata"],
    "ctx.metadata = {}": ["metadata"],
    "object.__setattr__(ctx, 'metadata', {})": ["metadata"],
    "setattr(ctx, 'metadata', {})": ["metadata"],
    "ctx.websocket_connection_id": ["websocket_connection_id"],
    "getattr(ctx, 'websocket_connection_id')": ["websocket_connection_id"],
    "ctx.session_id": ["session_id"],
    f"Context({IDS}, metadata={{}})": ["metadata="],
    f"Context({IDS}, metadata=None)": ["metadata="],
    f"Context({IDS}, session_id='s-1')": ["session_id="],
    f"Context({IDS}, websocket_connection_id='ws-1')": ["websocket_connection_id="],
    f"Context({IDS}, Session())": ["a session as fourth argument"],
    f"Context.from_request({IDS}, metadata={{}})": ["metadata="],
    f"Context.from_request({IDS}, session_id='s-1')": ["session_id="],
    f"Context.from_request({IDS}, websocket_connection_id=None)": ["websocket_connection_id="],
    f"Context.from_request({IDS}, Session())": ["a session as fourth argument"],
    f"Context.from_supervisor_style_request({IDS})": ["from_supervisor_style_request"],
    f"Context.from_supervisor_style_request({IDS}, None, None, 'ws-1', {{'a': 1}})": [
        "from_supervisor_style_request"
    ],
    f"Context.from_request_supervisor({IDS})": ["from_request_supervisor"],
    "ctx.create_child_context('tool', additional_metadata={})": [
        "create_child_context(additional_metadata=)"
    ],
    "ctx.create_child_context('tool', metadata={})": ["create_child_context(metadata=)"],
    "ctx.create_supervisor_style_child_context('tool', {})": [
        "create_supervisor_style_child_context"
    ],
    "ctx.create_child_context_supervisor('tool', {})": ["create_child_context_supervisor"],
    "ctx.with_websocket_connection_supervisor('ws-1')": ["with_websocket_connection_supervisor"],
    "clear_shared_objects()": ["clear_shared_objects"],
}

CANONICAL = [
    f"Context({IDS}, 'q-1', Session(), 'ws-1', None, {{'a': 1}}, {{'b': 2}}, 0, None)",
    f"Context({IDS}, None, Session())",
    f"Context({IDS}, tenant_id='acme')",
    f"Context.from_request({IDS}, agent_context={{}}, audit_metadata={{}})",
    "ctx.create_child_context('tool', {'extra': 'data'}, {'why': 'asked'})",
    "ctx.websocket_client_id, ctx.agent_context, ctx.audit_metadata, ctx.operation_depth",
    "ctx.with_websocket_connection('ws-1').with_db_session(Session())",
    "ctx.to_dict(), ctx.get_audit_trail(), ctx.get_correlation_id(), ctx.verify_isolation()",
    "repr(ctx), hash(ctx), ctx == ctx",
    "legacy.validate_user_context(ctx)",
    "legacy.register_shared_object(Session()), legacy.clear_shared_object_registry()",
    "legacy.managed_user_context(ctx)",
    "ringfence.user_context(ctx)",
    "import ringfence.legacy; from ringfence.legacy import *",
]


def _warned(source: str, action: Any = "default") -> list[warnings.WarningMessage]:
    """The warnings of a program, in which `ctx` is a legacy context."""
    program = compile(source, "program.py", "exec")
    names = {
        "ctx": make(), "Context": legacy.UserExecutionContext, "Session": Session,
        "clear_shared_objects": legacy.clear_shared_objects, "legacy": legacy,
        "ringfence": ringfence, "__name__": "program",
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        exec(program, names)
    return caught


@pytest.mark.parametrize("use", USES)
def test_a_legacy_name_warns_where_it_is_used(use: str) -> None:
    caught = _warned(f"\n\n{use}\n")
    assert [str(each.message) for each in caught] == [
        f"ringfence.legacy: `{name}` is deprecated; use {SUCCESSORS[name]}." for name in USES[use]
    ]
    for each in caught:
        assert each.category is DeprecationWarning
        assert (each.filename, each.lineno) == ("program.py", 3)


def test_several_in_one_call_warn_one_by_one() -> None:
    source = (
        f"Context({IDS}, Session(), metadata={{}}, session_id='s', websocket_connection_id='w')"
    )
    names = {str(each.message).split("`")[1] for each in _warned(source)}
    assert names == {
        "a session as fourth argument", "metadata=", "session_id=", "websocket_connection_id=",
    }  # fmt: skip


def test_every_legacy_name_is_tried() -> None:
    assert {name for names in USES.values() for name in names} == set(SUCCESSORS)


def test_every_legacy_name_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    for name, successor in SUCCESSORS.items():
        word = re.sub(r"create_child_context\((.*)\)", r"\1", name).rstrip("=")
        rows = [line for line in table if re.search(rf"\b{word}", line.rpartition(" | ")[0])]
        new = re.findall(r"`(\w+)", successor)
        assert any(all(each in row.rpartition(" | ")[2] for each in new) for row in rows), name


@pytest.mark.parametrize("use", CANONICAL)
def test_a_canonical_name_never_warns(use: str) -> None:
    assert _warned(use, "always") == []


def test_what_the_class_adds_is_legacy_and_its_successor_is_canonical() -> None:
    """A name added without a warning would be found here."""
    canonical = vars(ringfence.UserExecutionContext)
    for name, member in vars(legacy.UserExecutionContext).items():
        if not name.startswith("_") and name not in canonical:
            assert isinstance(member, (FunctionType, classmethod, property))
            assert name in SUCCESSORS
    canonical_keywords = {
        *inspect.signature(ringfence.UserExecutionContext).parameters,
        *inspect.signature(ringfence.UserExecutionContext.create_child_context).parameters,
    }
    for keywords in (ContextKeywords, RequestKeywords, ChildKeywords):
        for keyword in set(typing.get_type_hints(keywords)) - canonical_keywords:
            assert {f"{keyword}=", f"create_child_context({keyword}=)"} & set(SUCCESSORS)


def test_one_site_warns_once_and_two_sites_twice() -> None:
    caught = _warned("for _ in range(1000):\n    ctx.metadata\n    ctx.metadata\n")
    assert [each.lineno for each in caught] == [2, 3]


@pytest.mark.parametrize("action", ["default", "ignore"])
def test_a_million_uses_would_cost_seconds(action: str) -> None:
    """1.3 to 3 microseconds each, where it was measured; the limit is 20."""
    began = time.process_time()
    caught = _warned("for _ in range(250_000):\n    ctx.websocket_connection_id\n", action)
    assert time.process_time() - began < 5
    assert len(caught) == (action == "default")


def test_as_an_error_it_is_one() -> None:
    with pytest.raises(DeprecationWarning, match="use `agent_context` or `audit_metadata`"):
        make().metadata  # noqa: B018


PROGRAM = """
import logging, sys
from ringfence.legacy import UserExecutionContext
if sys.argv[1:]:
    logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
ctx = UserExecutionContext("u-17", "t-1", "r-1")
for _ in range(3):
    ctx.metadata["a"] = 1
"""


def _run(*arguments: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """In a module that is not `__main__`, whose deprecations Python does not show by itself."""
    return subprocess.run(
        [sys.executable, *arguments], input=program, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip


IMPORTED = "import runpy, sys; sys.argv[1:] = {}; runpy.run_path('app.py', run_name='app')"


@pytest.fixture
def app(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("app")
def test_by_default_python_shows_none() -> None:
    assert _run("-c", IMPORTED.format([])).stderr == ""


@pytest.mark.usefixtures("app")
def test_one_filter_shows_ours_and_no_others() -> None:
    ours = "default:ringfence.legacy:DeprecationWarning"
    done = _run("-W", ours, "-c", IMPORTED.format([]))
    assert done.stderr.count("DeprecationWarning") == 1
    assert "app.py:9: DeprecationWarning: ringfence.legacy: `metadata` is" in done.stderr
    other = "import warnings\ndef f(): warnings.warn('old', DeprecationWarning, 2)\nf()"
    assert _run("-W", "ignore", "-W", ours, "-c", other).stderr == ""


@pytest.mark.usefixtures("app")
def test_they_can_go_to_the_log() -> None:
    done = _run("-W", "default:ringfence.legacy", "-c", IMPORTED.format(["log"]))
    assert done.stdout.startswith("py.warnings WARNING ")
    assert done.stdout.count("app.py:9: DeprecationWarning: ringfence.legacy: `metadata`") == 1
    assert done.stderr == ""


@pytest.mark.usefixtures("app")
def test_they_can_fail_a_build() -> None:
    done = _run("-W", "error:ringfence.legacy", "-c", IMPORTED.format([]))
    assert done.returncode == 1
    assert "DeprecationWarning: ringfence.legacy: `metadata` is deprecated" in done.stderr
