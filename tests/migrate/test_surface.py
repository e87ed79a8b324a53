"""
Every pattern of the counted code base has a rule, or a reason why it needs none.

Each row: the pattern, how many sites a day after the first rewriting (before it, where none were
left), a line that shows it, and the rules that find it. Names whose own page of the migration
counts them nought are left out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.migrate.config import Config
from ringfence.migrate.examine import examine, mentions

SERVICES = "from netra.services.user_execution_context import UserExecutionContext"
HEAD = (
    "from ringfence.legacy import UserExecutionContext\nctx = UserExecutionContext('u', 't', 'r')\n"
)
IDS = "UserExecutionContext('u', 't', 'r', "

ROWS: list[tuple[str, int, str, str]] = [
    ("from ..services.. import", 307, SERVICES, "RM101"),
    ("from ..supervisor.. import", 157,
     "from a.agents.supervisor.user_execution_context import UserExecutionContext", "RM101"),
    ("from ..models.. import", 29,
     "from a.models.user_execution_context import UserExecutionContext", "RM101"),
    ("from ..execution_factory import the class", 16,
     "from a.agents.supervisor.execution_factory import UserExecutionContext, Engine", "RM101"),
    ("from ..unified_corpus_admin import", 2,
     "from a.admin.corpus.unified_corpus_admin import UserExecutionContext", "RM107"),
    ("import of a module that does not exist", 1,
     "from a.core.user_execution_context import UserExecutionContext", "RM107"),
    ("import in a function", 53, f"def f():\n    {SERVICES}", "RM101"),
    ("import under TYPE_CHECKING", 22, f"if TYPE_CHECKING:\n    {SERVICES}", "RM101"),
    ("import in try", 6, f"try:\n    {SERVICES}\nexcept ImportError:\n    pass", "RM101"),
    ("import with several names", 58, f"{SERVICES}, validate_user_context", "RM101"),
    ("import with `as`", 6, f"{SERVICES} as C", "RM101"),
    ("dotted path as a string", 16,
     "patch('a.services.user_execution_context.validate_user_context')", "RM104"),
    ("constructor metadata=", 142, HEAD + IDS + "metadata={})", "RM202"),
    ("constructor websocket_connection_id=", 59,
     HEAD + IDS + "websocket_connection_id='w')", "RM201"),
    ("constructor session_id=", 41, HEAD + IDS + "session_id='s')", "RM203"),
    ("constructor without run_id", 91,
     HEAD + "UserExecutionContext(user_id='u', thread_id='t')", "RM204"),
    ("constructor with **kwargs", 4, HEAD + "UserExecutionContext(**kwargs)", "RM205"),
    ("constructor keywords that no class had", 28, HEAD + IDS + "permissions=[])", "RM206"),
    ("constructor, fourth positional", 0, HEAD + IDS + "session)", "RM207"),
    ("from_request with metadata=", 25,
     HEAD + "UserExecutionContext.from_request('u', 't', 'r', metadata={})", "RM202"),
    ("from_request with websocket_connection_id=", 14,
     HEAD + "UserExecutionContext.from_request('u', 't', 'r', websocket_connection_id='w')",
     "RM201"),
    ("from_request_supervisor", 2,
     HEAD + "UserExecutionContext.from_request_supervisor('u', 't', 'r')", "RM208"),
    ("create_child_context(x, {..})", 12, HEAD + "ctx.create_child_context('op', {})", "RM209"),
    ("create_child_context(additional_metadata=)", 18,
     HEAD + "ctx.create_child_context('op', additional_metadata={})", "RM209"),
    ("create_child_context(metadata=)", 2,
     HEAD + "ctx.create_child_context('op', metadata={})", "RM209"),
    ("read ctx.websocket_connection_id", 69, HEAD + "ctx.websocket_connection_id", "RM301"),
    ("getattr/hasattr of either name", 7,
     HEAD + "getattr(ctx, 'websocket_connection_id')", "RM302"),
    ("ctx.metadata.get(..)", 113, HEAD + "ctx.metadata.get('k')", "RM303"),
    ("ctx.metadata[k] read", 114, HEAD + "ctx.metadata['k']", "RM303"),
    ("k in ctx.metadata", 60, HEAD + "'k' in ctx.metadata", "RM303"),
    ("ctx.metadata whole", 63, HEAD + "f(ctx.metadata)", "RM304"),
    ("ctx.metadata.copy/.items/.keys", 6, HEAD + "ctx.metadata.items()", "RM304"),
    ("ctx.metadata[k] = v", 57, HEAD + "ctx.metadata['k'] = 1", "RM305"),
    ("ctx.metadata.update/pop(..)", 6, HEAD + "ctx.metadata.update({'k': 1})", "RM305"),
    ("ctx.metadata = ..", 6, HEAD + "ctx.metadata = {}", "RM306"),
    ('hasattr(ctx, "metadata")', 12, HEAD + "hasattr(ctx, 'metadata')", "RM302"),
    ("ctx.session_id read", 12, HEAD + "ctx.session_id", "RM307"),
    ("ctx.session_id write", 2, HEAD + "ctx.session_id = 1", "RM307"),
    ("assignment to user_id / thread_id / run_id", 38, HEAD + "ctx.run_id = 1", "RM309"),
    ("object.__setattr__(ctx, ..)", 12, HEAD + "object.__setattr__(ctx, 'a', 1)", "RM310"),
    ("dataclasses.replace(ctx, ..)", 3, HEAD + "dataclasses.replace(ctx, user_id='x')", "RM311"),
    ("dataclasses.asdict(ctx), fields(ctx)", 0,
     HEAD + "dataclasses.asdict(ctx), fields(ctx)", "RM311"),
    ("isinstance(x, UserExecutionContext)", 29,
     HEAD + "isinstance(x, UserExecutionContext)", "RM312"),
    ("clear_shared_objects", 9,
     "from ringfence.legacy import clear_shared_objects\nclear_shared_objects()", "RM213"),
    ("to_execution_context", 2, HEAD + "ctx.to_execution_context()", "RM313"),
    ("execution_factory's create_child_context(child_id)", 0,
     "from a.agents.supervisor.execution_factory import UserExecutionContext\n"
     "def f(c: UserExecutionContext): c.create_child_context('c')", "RM101 RM211"),
    ("execution_factory's run accounting", 0,
     "from a.agents.supervisor.execution_factory import UserExecutionContext\n"
     "def f(c: UserExecutionContext): c.active_runs", "RM101 RM308"),
]  # fmt: skip

SAME: list[tuple[str, int, str, str]] = [
    ("constructor", 618, IDS + "agent_context={})", "the same signature"),
    ("constructor with positional ids", 0, "UserExecutionContext('u', 't', 'r')", "the same order"),
    ("from_request(..)", 174, "UserExecutionContext.from_request('u', 't', 'r')", "the same"),
    ("from_request with positional ids", 15,
     "UserExecutionContext.from_request('u', 't', 'r', 'q')", "the same order in both classes"),
    ("from_fastapi_request(..)", 3,
     "UserExecutionContext.from_fastapi_request(q, 'u', 't', 'r')", "the same signature"),
    ("create_child_context(x)", 44, "ctx.create_child_context('op')", "the same"),
    ("create_child_context(additional_agent_context=)", 18,
     "ctx.create_child_context('op', additional_agent_context={})", "canonical already"),
    ("read ctx.websocket_client_id", 67, "ctx.websocket_client_id", "canonical already"),
    ("ctx.agent_context / ctx.audit_metadata read", 139,
     "ctx.agent_context, ctx.audit_metadata", "canonical already"),
    ("validate_user_context(..)", 55, "validate_user_context(ctx)", "the same function"),
    ("verify_isolation / get_correlation_id", 145,
     "ctx.verify_isolation(), ctx.get_correlation_id()", "the same methods"),
    ("with_db_session / with_websocket_connection", 74,
     "ctx.with_db_session(s).with_websocket_connection('w')", "the same methods"),
    ("register_shared_object / clear_shared_object_registry", 28,
     "register_shared_object(x); clear_shared_object_registry()", "the same functions"),
    ("managed_user_context / get_audit_trail", 27,
     "managed_user_context(ctx), ctx.get_audit_trail()", "the same"),
    ("except InvalidContextError / ValueError", 0,
     "try:\n    pass\nexcept (InvalidContextError, ValueError):\n    pass",
     "the two classes become one by their import, and it is a ValueError"),
]  # fmt: skip


BY_NAME_ALONE = (
    "ctx.metadata['k']",
    "self.context.session_id",
    "ctx.user_id = 'u-18'",
    "hasattr(context, 'metadata')",
    "setattr(self.context, 'metadata', {})",
    "object.__setattr__(ctx, 'a', 1)",
    "dataclasses.replace(ctx, user_id='x')",
    "asdict(self.ctx)",
    "ctx.create_child_context('op', {})",
    "ctx.create_supervisor_style_child_context('op')",
    "ctx.create_child_context_supervisor('op')",
    "ctx.with_websocket_connection_supervisor('w')",
    "ctx.to_execution_context()",
    "ctx.websocket_connection_id",
)
"""What rules find in a file that imports nothing of ours."""


@pytest.mark.parametrize("source", BY_NAME_ALONE)
def test_a_file_with_nothing_else_is_examined(source: str) -> None:
    config = Config()
    assert examine(Path("/project/app/file.py"), source.encode(), config)
    assert mentions(source.encode(), config)


@pytest.mark.parametrize("source", ["ctx.user_id == 1", "print(ctx.user_id)", "getattr(x, 'y')"])
def test_most_files_are_not(source: str) -> None:
    assert not mentions(source.encode(), Config())


def _found(source: str) -> set[str]:
    found = examine(Path("/project/app/file.py"), source.encode(), Config())
    return {one.code for one in found} - {"RM121"}


@pytest.mark.parametrize(
    ("pattern", "count", "source", "rules"), ROWS, ids=[f"{row[0]} ({row[1]})" for row in ROWS]
)
def test_it_has_a_rule(pattern: str, count: int, source: str, rules: str) -> None:
    assert _found(source) == set(rules.split())


@pytest.mark.parametrize(
    ("pattern", "count", "source", "why"), SAME, ids=[f"{row[0]} ({row[1]})" for row in SAME]
)
def test_it_needs_none(pattern: str, count: int, source: str, why: str) -> None:
    assert why
    assert _found(HEAD + source) == set()
