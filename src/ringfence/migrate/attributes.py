"""Attributes of a context that are called otherwise now, or are gone."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Edit, Finding
from .metadata import is_written
from .names import Names
from .receivers import KNOWN, NAMED, doubt, receiver
from .rules import RULES
from .tree import dotted, literal

__all__ = ["attributes", "builtins"]

OLD, NEW = "websocket_connection_id", "websocket_client_id"
IDENTITY = ("user_id", "thread_id", "run_id", "request_id")
ACCOUNTING = ("active_runs", "run_history", "execution_metrics", "cleanup_callbacks", "status")
DATACLASSES = ("asdict", "astuple", "attrs.evolve", "fields", "is_dataclass", "replace")


def attributes(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one attribute."""
    if not isinstance(node, cst.Attribute):
        return
    name = node.attr.value
    if name not in (OLD, "session_id", *IDENTITY, *ACCOUNTING):
        return
    known = receiver(names, node.value)
    written = is_written(names, node)
    if known is None or (name in ACCOUNTING and known != KNOWN):
        return
    if name in IDENTITY and (not written or _is_expected_to_fail(names, node)):
        return
    code = {OLD: "RM301", "session_id": "RM307"}.get(name, "RM308")
    code = "RM309" if name in IDENTITY else code
    reason = _reason(names, node, code, written, known)
    yield names.tree.finding(code, node, *_edits(names, node), reason=reason)


def _reason(names: Names, node: cst.Attribute, code: str, written: bool, known: str) -> str:
    if code in ("RM308", "RM309"):
        return RULES[code].why
    if written:
        return "contexts are immutable: make another one"
    return doubt(names, node.value) if known == NAMED else ""


def _edits(names: Names, node: cst.Attribute) -> Iterator[Edit]:
    if node.attr.value == OLD:
        yield names.tree.replace(node.attr, NEW)
    elif node.attr.value == "session_id":
        key = names.tree.quoted(node, "session_id")
        yield names.tree.replace(node.attr, f"agent_context.get({key})")


def _is_expected_to_fail(names: Names, node: cst.CSTNode) -> bool:
    """A test that contexts are immutable stays true."""
    return any(
        isinstance(around, cst.With)
        and any((dotted(getattr(item.item, "func", None)) or "").endswith("raises")
                for item in around.items)
        for around in names.tree.around(node)
    )  # fmt: skip


# --- the same by functions --------------------------------------------------------------------


def builtins(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of `getattr`, `isinstance` and the like."""
    if not isinstance(node, cst.Call) or len(node.args) < 1:
        return
    called, first = dotted(node.func) or "", node.args[0].value
    if called in ("getattr", "hasattr", "setattr") and len(node.args) > 1:
        yield from _by_name(names, node, called, first)
    elif called == "object.__setattr__" and receiver(names, first):
        yield names.tree.finding("RM310", node, reason=RULES["RM310"].why)
    elif called.removeprefix("dataclasses.") in DATACLASSES and receiver(names, first):
        yield names.tree.finding("RM311", node, reason=RULES["RM311"].why)
    elif called == "isinstance" and len(node.args) > 1 and _has_class(names, node.args[1].value):
        yield names.tree.finding("RM312", node, reason=RULES["RM312"].why)


def _by_name(names: Names, node: cst.Call, called: str, first: cst.CSTNode) -> Iterator[Finding]:
    text, known = literal(node.args[1].value), receiver(names, first)
    if known is None or text not in (OLD, "metadata", "session_id"):
        return
    edits, reason = [], ""
    if text != OLD or called == "setattr":
        reason = f"`{called}` of `{text}` means something else now"
    elif known == NAMED:
        reason = doubt(names, first)
    else:
        string = node.args[1].value
        code = names.tree.code(string)
        edits = [names.tree.replace(string, code.replace(OLD, NEW))]
    yield names.tree.finding("RM302", node, *edits, reason=reason)


def _has_class(names: Names, node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Tuple):
        return any(_has_class(names, element.value) for element in node.elements)
    meaning = names.of(node)
    return meaning is not None and meaning.what == "class"
