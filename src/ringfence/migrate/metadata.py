"""What is done with `ctx.metadata`: one merged mapping that is two dictionaries now."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Edit, Finding
from .keys import AGENT, AUDIT, LINEAGE, home, undecided
from .names import Names
from .receivers import NAMED, doubt, receiver
from .tree import literal

__all__ = ["metadata"]

READ, WHOLE, WRITTEN, ASSIGNED = "RM303", "RM304", "RM305", "RM306"
METHODS = {"get": READ, "pop": WRITTEN, "setdefault": WRITTEN, "update": WRITTEN,
           "clear": ASSIGNED, "popitem": ASSIGNED}  # fmt: skip
Decision = tuple[str, list[Edit], str]
"""The rule, its edits, and why there are none."""


def metadata(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one use of a context's metadata."""
    if not isinstance(node, cst.Attribute) or node.attr.value != "metadata":
        return
    known = receiver(names, node.value)
    if known is None:
        return
    code, edits, reason = _decided(names, node)
    if known == NAMED:
        reason = reason or doubt(names, node.value)
    yield names.tree.finding(code, node, *edits, reason=reason)


def _decided(names: Names, node: cst.Attribute) -> Decision:
    parent = names.tree.parent[node]
    if isinstance(parent, cst.Subscript) and parent.value is node:
        return _subscript(names, node, parent)
    if isinstance(parent, cst.Attribute):
        return _method(names, node, parent)
    if isinstance(parent, cst.ComparisonTarget):
        return _membership(names, node, parent)
    if is_written(names, node):
        return ASSIGNED, [], "contexts are immutable: make another one"
    return WHOLE, [], "it is two dictionaries now"


def is_written(names: Names, node: cst.CSTNode) -> bool:
    """Whether an expression is assigned to or deleted."""
    parent = names.tree.parent[node]
    if isinstance(parent, (cst.Element, cst.Tuple)):
        return is_written(names, parent)
    return isinstance(parent, (cst.AssignTarget, cst.Del)) or (
        isinstance(parent, (cst.AugAssign, cst.AnnAssign, cst.For, cst.CompFor, cst.NamedExpr))
        and parent.target is node
    )


def _subscript(names: Names, node: cst.Attribute, subscript: cst.Subscript) -> Decision:
    code = WRITTEN if is_written(names, subscript) else READ
    index = subscript.slice[0].slice
    key = literal(index.value) if isinstance(index, cst.Index) else None
    where, reason = _home(names, key, code)
    if where == LINEAGE and key is not None:
        return code, [_field(names, node, subscript, key)], ""
    return code, _renamed(names, node, where), reason


def _home(names: Names, key: str | None, code: str) -> tuple[str | None, str]:
    """Where a key belongs, or why nobody knows."""
    if key is None:
        return None, "the key is known only when it runs"
    where = home(key, names.config)
    if where is None:
        return None, undecided(key)
    if where == LINEAGE and code == WRITTEN:
        return None, f"`{key}` is lineage, which cannot be written"
    return where, ""


def _renamed(names: Names, node: cst.Attribute, where: str | None) -> list[Edit]:
    return [names.tree.replace(node.attr, where)] if where in (AGENT, AUDIT) else []


def _field(names: Names, node: cst.Attribute, whole: cst.CSTNode, key: str) -> Edit:
    return Edit(names.tree.end(node.value), names.tree.end(whole), f".{key}")


def _method(names: Names, node: cst.Attribute, parent: cst.Attribute) -> Decision:
    call = names.tree.parent[parent]
    name = parent.attr.value
    if not isinstance(call, cst.Call) or name not in METHODS:
        return WHOLE, [], "it is two dictionaries now"
    code = METHODS[name]
    if code == ASSIGNED:
        return code, [], "it is two dictionaries now"
    if name == "update":
        return _update(names, node, call)
    key = literal(call.args[0].value) if call.args and not call.args[0].star else None
    where, reason = _home(names, key, code)
    if where == LINEAGE and key is not None:
        return _got_lineage(names, node, call, key)
    return code, _renamed(names, node, where), reason


def _got_lineage(names: Names, node: cst.Attribute, call: cst.Call, key: str) -> Decision:
    """The field is there at the root too; `get` gave its default."""
    default = names.tree.code(call.args[1].value) if len(call.args) > 1 else "None"
    if default != {"operation_depth": "0", "parent_request_id": "None"}[key]:
        return READ, [], f"at the root it gave `{default}`, and the field `{key}` gives another"
    return READ, [_field(names, node, call, key)], ""


def _update(names: Names, node: cst.Attribute, call: cst.Call) -> Decision:
    keys = _updated(call)
    homes = [_home(names, key, WRITTEN) for key in keys]
    reasons = [reason for _, reason in homes if reason]
    if reasons:
        return WRITTEN, [], reasons[0]
    if len({where for where, _ in homes}) > 1:
        return WRITTEN, [], "its keys belong to both dictionaries: write two updates"
    where = homes[0][0] if homes else AGENT
    return WRITTEN, _renamed(names, node, where), ""


def _updated(call: cst.Call) -> list[str | None]:
    """The keys of `update({...}, k=v)`, `None` for each that is not written there."""
    keys: list[str | None] = []
    for arg in call.args:
        if arg.keyword is not None:
            keys.append(arg.keyword.value)
        elif isinstance(arg.value, cst.Dict) and not arg.star:
            keys += [literal(getattr(element, "key", None)) for element in arg.value.elements]
        else:
            keys.append(None)
    return keys


def _membership(names: Names, node: cst.Attribute, target: cst.ComparisonTarget) -> Decision:
    comparison = names.tree.parent[target]
    if not isinstance(comparison, cst.Comparison) or len(comparison.comparisons) > 1:
        return WHOLE, [], "it is two dictionaries now"
    if not isinstance(target.operator, (cst.In, cst.NotIn)):
        return WHOLE, [], "it is two dictionaries now"
    key = literal(comparison.left)
    where, reason = _home(names, key, READ)
    if where == LINEAGE:
        return READ, [], f"`{key}` is a field, which is always there"
    return READ, _renamed(names, node, where), reason
