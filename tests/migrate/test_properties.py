"""Files put together by hypothesis: rewriting is idempotent, and its result parses."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.migrate.config import Config
from ringfence.migrate.rewrite import rewritten
from ringfence.migrate.rules import PHASES

PATH = Path("/project/app/file.py")
KEYS = ("a", "client_ip", "operation_depth", "parent_request_id", "user_id", "session_id", "it's")
IMPORTS = (
    "from ringfence.legacy import UserExecutionContext",
    "from netra.services.user_execution_context import (UserExecutionContext,)",
    "from netra.agents.supervisor.execution_factory import X, UserExecutionContext, Y",
    "import netra.models.user_execution_context as models",
    "from ringfence.legacy import clear_shared_objects; clear_shared_objects()",
    "from netra.services import user_execution_context as uec, other",
    "from ringfence import UserExecutionContext",
)
CALLS = (
    "UserExecutionContext('u', 't', 'r', {})",
    "UserExecutionContext({})",
    "UserExecutionContext.from_request('u', 't', {})",
    "UserExecutionContext.from_supervisor_style_request('u', 't', 'r', {})",
    "ctx.create_child_context('op', {})",
    "ctx.create_supervisor_style_child_context('op', {})",
)
KEYWORDS = ("metadata", "agent_context", "session_id", "websocket_connection_id",
            "additional_metadata", "run_id ", "audit_metadata")  # fmt: skip
LEAVES = (
    "1",
    "ctx.websocket_connection_id",
    "ctx.session_id",
    "'é'",
    "ctx.metadata",
    "(ctx).metadata",
)
USES = (
    "ctx.metadata[{key!r}]",
    "ctx.metadata.get({key!r}, {value})",
    "({key!r} in ctx.metadata)",
    "ctx.metadata.update({value})",
    "getattr(ctx, 'websocket_connection_id', {value})",
    "[{value}, (ctx).session_id, {value}]",
    "ctx.create_child_context('op', {value})",
)
STATEMENTS = (
    "x = {value}",
    "ctx.metadata[{key!r}] = {value}",
    'print(f"{{ctx.session_id}} {{ctx.metadata}}", {value})',
    "ctx = {value}",
    "async def f(ctx: UserExecutionContext): yield {value}",
    "del ctx.metadata[{key!r}]",
)


class Author:
    """Writes programs by the choices that hypothesis makes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def one(self, texts: tuple[str, ...]) -> str:
        return self.draw(st.sampled_from(texts))

    def value(self, depth: int) -> str:
        if depth == 0:
            return self.one(LEAVES)
        kind = self.draw(st.integers(0, 3))
        if kind == 0:
            return self.one(LEAVES)
        if kind == 1:
            return self.one(USES).format(key=self.one(KEYS), value=self.value(depth - 1))
        return self.call(depth - 1) if kind == 2 else self.literal(depth - 1)

    def literal(self, depth: int) -> str:
        count = self.draw(st.integers(0, 3))
        comma = self.one((", ", ",\n    ", ",  # why\n    "))
        entries = [self.entry(depth) for _ in range(count)]
        return "{" + comma.join(entries) + (",\n}" if entries and "\n" in comma else "}")

    def entry(self, depth: int) -> str:
        if self.draw(st.integers(0, 7)) == 0:
            return self.one(("**more", "key: 1"))
        return f"{self.one(KEYS)!r}: {self.value(depth)}"

    def call(self, depth: int) -> str:
        names = self.draw(st.lists(st.sampled_from(KEYWORDS), max_size=3, unique=True))
        arguments = [f"{name}={self.argument(depth)}" for name in names]
        return self.one(CALLS).format(", ".join(arguments))

    def argument(self, depth: int) -> str:
        return self.literal(depth) if self.draw(st.booleans()) else self.value(depth)

    def program(self) -> str:
        imports = [self.one(IMPORTS) for _ in range(self.draw(st.integers(1, 3)))]
        statements = [
            self.one(STATEMENTS).format(key=self.one(KEYS), value=self.value(3))
            for _ in range(self.draw(st.integers(1, 3)))
        ]
        made = "ctx = UserExecutionContext('u', 't', 'r')"
        return self.one(("\n", "\r\n")).join([*imports, made, *statements, ""])


@st.composite
def _programs(draw: st.DrawFn) -> str:
    return Author(draw).program()


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


FILES = _programs().filter(_parses)


@given(FILES, st.sampled_from(PHASES), st.sampled_from(["person", "agent"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_twice_is_once_and_the_result_parses(source: str, phase: str, others: str) -> None:
    config = Config(other_keys=others)
    once = rewritten(PATH, source.encode(), config, phase)
    assert "RM904" not in [finding.code for finding in once.left], source
    compile(once.after, "result", "exec")
    twice = rewritten(PATH, once.after, config, phase)
    assert twice.after == once.after
    assert not [f for f in once.left if f.edits and f.phase == phase]


@given(FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_first_phase_changes_nothing_but_imports(source: str) -> None:
    """Apart from imports, the tree of the program is the same."""
    after = rewritten(PATH, source.encode(), Config(), "imports").after.decode()
    assert _without_imports(after) == _without_imports(source)


def _without_imports(source: str) -> list[str]:
    return [
        ast.dump(node)
        for node in ast.parse(source).body
        if not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
