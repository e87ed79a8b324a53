"""
What was rewritten runs, and prints what it printed.

Each program runs on a small copy of the old class, then on `ringfence.legacy`, and, after all
three phases, on ringfence itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.migrate import rewrite
from ringfence.migrate.config import load

from . import trees

OLD = '''
"""The supervisor's class, as far as these programs use it."""
from dataclasses import dataclass, field, replace
from typing import Any
import uuid

class InvalidContextError(Exception):
    pass

@dataclass(frozen=True)
class UserExecutionContext:
    user_id: str
    thread_id: str
    run_id: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    db_session: Any = None
    session_id: str | None = None
    websocket_connection_id: str | None = None
    metadata: dict = field(default_factory=dict)

    @property
    def operation_depth(self):
        return self.metadata.get("operation_depth", 0)

    @classmethod
    def from_supervisor_style_request(cls, user_id, thread_id, run_id, request_id=None,
                                      db_session=None, websocket_connection_id=None, metadata=None):
        return cls(user_id, thread_id, run_id, request_id or str(uuid.uuid4()), db_session, None,
                   websocket_connection_id, dict(metadata or {}))

    from_request_supervisor = from_supervisor_style_request

    def create_child_context(self, operation_name, additional_metadata=None):
        lineage = {"operation_name": operation_name, "parent_request_id": self.request_id,
                   "operation_depth": self.metadata.get("operation_depth", 0) + 1}
        metadata = {**self.metadata, **(additional_metadata or {}), **lineage}
        return replace(self, request_id=str(uuid.uuid4()), metadata=metadata)

    create_supervisor_style_child_context = create_child_context

def validate_user_context(context):
    if not isinstance(context, UserExecutionContext):
        raise TypeError
    return context

def clear_shared_objects():
    print("cleared")
'''
HEAD = "from netra.agents.supervisor.user_execution_context import UserExecutionContext\n"
PROGRAMS = {
    "socket": HEAD
    + """
ctx = UserExecutionContext("user-1", "thread-1", "run-1", websocket_connection_id="socket-1")
print(ctx.websocket_connection_id, getattr(ctx, "websocket_connection_id", None))
print(f"{ctx.websocket_connection_id!r:>12}")
""",
    "keys": HEAD
    + """
ctx = UserExecutionContext(
    user_id="user-1", thread_id="thread-1", run_id="run-1",
    metadata={"plan": "basic", "client_ip": "1.2.3.4"},  # both
)
print(ctx.metadata["plan"], ctx.metadata.get("client_ip"), "plan" in ctx.metadata)
ctx.metadata["plan"] = "better"
ctx.metadata["client_ip"] = "4.3.2.1"
ctx.metadata.update({"steps": 1})
ctx.metadata["steps"] += 1
print(ctx.metadata["plan"], ctx.metadata["client_ip"], ctx.metadata.pop("steps"))
print("steps" in ctx.metadata, ctx.metadata.setdefault("steps", 7))
del ctx.metadata["plan"]
print(ctx.metadata.get("plan", "none"))
""",
    "lineage": HEAD
    + """
ctx = UserExecutionContext("user-1", "thread-1", "run-1",
                           metadata={"operation_depth": 2, "plan": 1})
child = ctx.create_child_context("op", additional_metadata={"plan": 2, "client_ip": "1.2.3.4"})
print(ctx.metadata.get("operation_depth", 0), child.metadata["operation_depth"])
print(child.metadata["parent_request_id"] == ctx.request_id, child.metadata["operation_name"])
print(child.metadata["plan"], ctx.metadata["plan"], child.metadata["client_ip"])
""",
    "factory": HEAD
    + """
ctx = UserExecutionContext.from_request_supervisor(
    "user-1", "thread-1", "run-1", "request-1", None, "socket-1", {"plan": 1})
same = UserExecutionContext.from_supervisor_style_request(
    "user-1", "thread-1", "run-1", websocket_connection_id="socket-1", metadata={"plan": 1})
print(ctx.request_id, ctx.websocket_connection_id, ctx.metadata["plan"], same.metadata["plan"])
print(ctx.create_supervisor_style_child_context("op", {"plan": 2}).metadata["plan"])
""",
    "session": HEAD
    + """
ctx = UserExecutionContext("user-1", "thread-1", "run-1", session_id="session-1",
                           metadata={"plan": 1})
print(ctx.session_id, f"{ctx.session_id}", ctx.metadata["plan"])
""",
    "imports": """
import netra.agents.supervisor.user_execution_context
from netra.agents.supervisor import user_execution_context as uec
from netra.agents.supervisor.execution_factory import Engine

def late():
    from netra.agents.supervisor.user_execution_context import (
        InvalidContextError as Invalid, UserExecutionContext as Context)
    try:
        raise Invalid("x")
    except Invalid as error:
        return Context("user-1", "thread-1", "run-1")

print(type(late()).__name__, Engine)
print(uec.validate_user_context(late()).user_id)
print(netra.agents.supervisor.user_execution_context.validate_user_context(late()).user_id)
""",
    "functions": """
from netra.agents.supervisor.user_execution_context import UserExecutionContext, \\
    validate_user_context

def f(ctx: "UserExecutionContext") -> "UserExecutionContext":
    held = ctx

    def inner():
        return held.websocket_connection_id

    return validate_user_context(ctx).create_child_context(inner(), metadata) if False else ctx

metadata = {}
print(f(UserExecutionContext("user-1", "thread-1", "run-1", websocket_connection_id="s")).user_id)
""",
}
KEYS = '[tool.ringfence.migrate]\nagent-keys = ["plan", "steps"]\n'


def _printed(program: Path, *paths: Path, quiet: str = "error") -> str:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-W", "error", "-W", quiet, program]
    done = subprocess.run(command, env=environ, timeout=50, capture_output=True, text=True)
    assert done.returncode == 0, program.read_text() + done.stderr
    return done.stdout


SOURCE = Path(rewrite.__file__).parents[2]


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"imports", "functions"}))
def test_it_prints_the_same_on_ringfence(name: str, tmp_path: Path) -> None:
    old = trees.write(tmp_path / "old", {
        "netra/agents/supervisor/user_execution_context.py": OLD,
        "netra/agents/supervisor/execution_factory.py": "Engine = 'engine'\n",
    })  # fmt: skip
    project = trees.write(
        tmp_path / "project", {"pyproject.toml": KEYS, "program.py": PROGRAMS[name]}
    )
    program = project / "program.py"
    before = _printed(program, old)
    assert before
    for phase in ("imports", "calls", "removal"):
        rewriting = rewrite.plan(project, load(project), phase)
        assert rewriting.report.left(phase) == [], program.read_text()
        rewrite.write(rewriting)
    assert "netra" not in program.read_text()
    assert "legacy" not in program.read_text()
    assert _printed(program, SOURCE) == before


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_it_prints_the_same_once_its_imports_are_moved(name: str, tmp_path: Path) -> None:
    """On ringfence.legacy, beside what stays of the old packages."""
    old = trees.write(tmp_path / "old", {
        "netra/agents/supervisor/user_execution_context.py": OLD,
        "netra/agents/supervisor/execution_factory.py": "Engine = 'engine'\n",
    })  # fmt: skip
    project = trees.write(tmp_path / "project", {"program.py": PROGRAMS[name]})
    program = project / "program.py"
    before = _printed(program, old)
    rewriting = rewrite.plan(project, load(project), "imports")
    assert rewriting.report.left("imports") == []
    rewrite.write(rewriting)
    (old / "netra/agents/supervisor/user_execution_context.py").unlink()
    assert _printed(program, old, SOURCE, quiet="ignore:ringfence.legacy") == before
