"""Children that are made in the supervisor's way, and other methods of its own."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .arguments import Arguments
from .constructors import misplaced
from .findings import Edit, Finding
from .keys import AUDIT
from .names import Names
from .receivers import KNOWN, doubt, receiver
from .rules import RULES

__all__ = ["children_made"]

METHOD = "create_child_context"
SUPERVISOR = ("create_supervisor_style_child_context", "create_child_context_supervisor")
SOCKET = "with_websocket_connection_supervisor"


def children_made(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one call of a context's method."""
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return
    func, method = node.func, node.func.attr.value
    if method not in (METHOD, SOCKET, "to_execution_context", *SUPERVISOR):
        return
    meaning = names.of(func.value)
    if meaning is not None and meaning.is_factory and method == METHOD:
        yield names.tree.finding("RM211", node, reason=RULES["RM211"].why)
        return
    # these names are nobody else's, so what is not known to be a context is looked at as well
    reason = "" if receiver(names, func.value) == KNOWN else doubt(names, func.value)
    if method == "to_execution_context":
        yield names.tree.finding("RM313", node, reason=RULES["RM313"].why)
    elif method == SOCKET:
        edit = names.tree.replace(func.attr, "with_websocket_connection")
        yield names.tree.finding("RM212", func.attr, edit, reason=reason)
    else:
        yield from _child(names, node, func, reason)


def _child(names: Names, node: cst.Call, func: cst.Attribute, doubted: str) -> Iterator[Finding]:
    tree, given = names.tree, Arguments(names, node)
    if func.attr.value in SUPERVISOR:
        edit = tree.replace(func.attr, METHOD)
        yield tree.finding("RM210", func.attr, edit, reason=doubted)
    if given.is_starred:
        yield tree.finding("RM205", node, reason=RULES["RM205"].why)
        return
    yield from misplaced(names, given, "additional_agent_context")
    additions = _additions(names, given, func)
    if len(additions) > 1:
        yield tree.finding("RM209", node, reason="additions are given twice")
    elif additions:
        edits: list[Edit]
        edits, reason = given.split(additions[0], "additional_")
        is_agents = func.attr.value == METHOD and additions[0].keyword is None
        if is_agents and any(AUDIT in edit.text for edit in edits):
            reason = "by position all of them are the agent's, and some are in audit-keys"
        yield tree.finding("RM209", additions[0], *edits, reason=doubted or reason)


def _additions(names: Names, given: Arguments, func: cst.Attribute) -> list[cst.Arg]:
    """By position they are canonical too, where the class is ringfence's own."""
    meaning = names.of(func.value)
    is_canonical = meaning is not None and meaning.module == "ringfence"
    found = [] if is_canonical else given.positional[1:2]
    return found + [
        given.keywords[name] for name in ("additional_metadata", "metadata")
        if name in given.keywords
    ]  # fmt: skip
