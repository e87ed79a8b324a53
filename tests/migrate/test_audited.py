"""Audited keys move all at once: not while a write of other keys is left to a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.migrate import rewrite
from ringfence.migrate.config import load
from ringfence.migrate.scan import scan

from . import trees

HEAD = "from ringfence.legacy import UserExecutionContext\n\n\n"
READER = HEAD + (
    "def client(ctx: UserExecutionContext):\n"
    '    ctx.metadata["client_ip"] = "1"\n'
    '    return ctx.metadata.get("client_ip"), ctx.metadata.get("operation_name")\n'
)
MAKER = HEAD + (
    "def made(user):\n"
    '    return UserExecutionContext(user, "t-1", "r-1", metadata={"user_agent": "u"})\n'
)
WRITES = {
    "metadata= of a name": "def f(m): return UserExecutionContext('u-1', 't', 'r', metadata=m)\n",
    "**": "def f(m): return UserExecutionContext('u-1', 't', 'r', **m)\n",
    "additions by position": "def f(ctx: UserExecutionContext):\n"
    "    return ctx.create_child_context('op', {'client_ip': 1})\n",
    "an unknown key": "def f(ctx: UserExecutionContext, k): ctx.metadata[k] = 1\n",
    "the whole": "def f(ctx: UserExecutionContext): g(ctx.metadata)\n",
    "by name alone": "def f(ctx): ctx.metadata['client_ip'] = 1\n",
}


def _project(folder: Path, write: str) -> Path:
    return trees.write(folder, {
        "pyproject.toml": "", "reader.py": READER, "maker.py": MAKER, "writer.py": HEAD + write,
    })  # fmt: skip


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_they_wait_for_a_write_that_nobody_has_decided(write: str, tmp_path: Path) -> None:
    project = _project(tmp_path, write)
    rewriting = rewrite.plan(project, load(project), "calls")
    (change,) = rewriting.changes  # what is the agent's does not wait
    assert change.after.decode() == READER.replace(
        'metadata.get("operation_name")', 'agent_context.get("operation_name")'
    )
    left = {file.path: [one.code for one in file.findings if "is to be decided first" in one.reason]
            for file in rewriting.report.files}  # fmt: skip
    assert (left["reader.py"], left["maker.py"]) == (["RM305", "RM303"], ["RM202"]) or (
        left["reader.py"], left["maker.py"]) == (["RM303", "RM305"], ["RM202"])  # fmt: skip
    scanned = scan(project, load(project))
    assert sum("is to be decided first" in one.reason for _, one in scanned.findings()) == 3


def test_they_move_once_it_is_decided(tmp_path: Path) -> None:
    waived = WRITES["an unknown key"].rstrip() + "  # ringfence: reviewed RM305\n"
    project = _project(tmp_path, waived)
    rewriting = rewrite.plan(project, load(project), "calls")
    after = {change.path.name: change.after.decode() for change in rewriting.changes}
    assert 'audit_metadata.get("client_ip")' in after["reader.py"]
    assert 'audit_metadata["client_ip"] = "1"' in after["reader.py"]
    assert 'audit_metadata={"user_agent": "u"}' in after["maker.py"]
    assert rewriting.report.left("calls") == []
