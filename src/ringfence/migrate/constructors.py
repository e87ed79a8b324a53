"""Contexts that are made: by the class, by `from_request`, by the supervisor's factory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from .arguments import Arguments
from .findings import Edit, Finding
from .names import Meaning, Names
from .rules import RULES
from .tree import literal

__all__ = ["constructors"]

REQUEST: Sequence[str] = (
    "user_id thread_id run_id request_id db_session websocket_client_id agent_context "
    "audit_metadata"
).split()
CLASS = [*REQUEST, "created_at", "operation_depth", "parent_request_id",
         "tenant_id", "expires_at", "client_request_id"]  # fmt: skip
OLD = ("websocket_connection_id", "metadata", "session_id")
SUPERVISOR = ("from_supervisor_style_request", "from_request_supervisor")


def constructors(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one call that makes a context."""
    if not isinstance(node, cst.Call):
        return
    made = names.of(node.func)
    if made is not None and made.what == "class":
        yield from _made(names, node, made, CLASS)
    elif isinstance(node.func, cst.Attribute):
        owner, method = names.of(node.func.value), node.func.attr.value
        if owner is not None and owner.what == "class":
            if method in SUPERVISOR:
                yield _supervisor(names, node, node.func)
            if method in ("from_request", *SUPERVISOR):
                yield from _made(names, node, owner, REQUEST)


def _made(
    names: Names, node: cst.Call, made: Meaning, parameters: Sequence[str]
) -> Iterator[Finding]:
    given, tree = Arguments(names, node), names.tree
    if made.makes_itself:
        yield from _of_its_own(names, given)
        return
    if given.is_starred:
        yield tree.finding("RM205", node, reason=RULES["RM205"].why)
        return
    if "run_id" not in given.keywords and len(given.positional) < 3:
        yield tree.finding("RM204", node, reason=RULES["RM204"].why)
    for name, arg in given.keywords.items():
        if name not in parameters and name not in OLD:
            yield tree.finding("RM206", arg, reason=f"`{name}=`: no class has it")
    if len(given.positional) > 3 and parameters is CLASS and made.module != "ringfence":
        yield from _fourth(names, given)
    yield from _renamed(names, given)
    yield from _split(names, given, "created_at" in parameters)
    yield from misplaced(names, given, "agent_context")
    if "session_id" in given.keywords:
        edits, reason = given.into_agent_context("session_id")
        yield tree.finding("RM203", given.keywords["session_id"], *edits, reason=reason)


def _of_its_own(names: Names, given: Arguments) -> Iterator[Finding]:
    """What a constructor of somebody's own takes is not known here."""
    codes = {"websocket_connection_id": "RM201", "metadata": "RM202", "session_id": "RM203"}
    for name in OLD:
        if name in given.keywords:
            yield names.tree.finding(
                codes[name], given.keywords[name],
                reason="this subclass has a constructor of its own",
            )  # fmt: skip


def misplaced(names: Names, given: Arguments, name: str) -> Iterator[Finding]:
    """An audited key beside the agent's data, as an earlier configuration may have put it."""
    arg = given.keywords.get(name)
    if arg is None or not isinstance(arg.value, cst.Dict):
        return
    for element in arg.value.elements:
        key = literal(getattr(element, "key", None))
        if key in names.config.audit_keys:
            yield names.tree.finding("RM214", element, reason=f"`{key}` is in audit-keys")


def _fourth(names: Names, given: Arguments) -> Iterator[Finding]:
    """A literal string is the request id in every class that has one there."""
    arg = given.positional[3]
    if literal(arg.value) is None:
        yield names.tree.finding("RM207", arg, reason=RULES["RM207"].why)


def _renamed(names: Names, given: Arguments) -> Iterator[Finding]:
    old = given.keywords.get("websocket_connection_id")
    if old is not None:
        edits, reason = given.renamed("websocket_connection_id", "websocket_client_id")
        yield names.tree.finding("RM201", old, *edits, reason=reason)


def _split(names: Names, given: Arguments, takes_lineage: bool) -> Iterator[Finding]:
    arg = given.keywords.get("metadata")
    if arg is not None:
        edits, reason = given.split(arg, takes_lineage=takes_lineage)
        yield names.tree.finding("RM202", arg, *edits, reason=reason)


def _supervisor(names: Names, node: cst.Call, func: cst.Attribute) -> Finding:
    """Its first six parameters are those of `from_request`; the seventh was the metadata."""
    given = Arguments(names, node)
    edits: list[Edit] = [names.tree.replace(func.attr, "from_request")]
    reason = ""
    if len(given.positional) > 6:
        more, reason = given.split(given.positional[6])
        edits += more
    return names.tree.finding("RM208", func.attr, *edits, reason=reason)
