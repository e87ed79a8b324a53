"""Module functions that have another name now."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Finding
from .names import Names
from .profile import RENAMED

__all__ = ["functions"]


def functions(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one import or use of such a function."""
    if isinstance(node, cst.ImportAlias) and node.evaluated_name in RENAMED:
        yield from _imported(names, node)
    elif isinstance(node, cst.Attribute) and node.attr.value in RENAMED:
        meaning = names.of(node)
        if meaning is not None and meaning.what == "function" and meaning.module:
            yield names.tree.finding(
                "RM213", node, names.tree.replace(node.attr, RENAMED[node.attr.value])
            )


def _imported(names: Names, alias: cst.ImportAlias) -> Iterator[Finding]:
    statement = names.tree.parent[alias]
    if not isinstance(statement, cst.ImportFrom):
        return
    old = alias.evaluated_name
    module = names.absolute(statement)
    if module != "ringfence.legacy" and not names.config.is_legacy(module, old):
        return
    edits = [names.tree.replace(alias.name, RENAMED[old])]
    uses = [] if alias.asname else list(_uses(names, old))
    edits += [names.tree.replace(use, RENAMED[old]) for use in uses]
    reason = ""
    if not uses and not alias.asname:
        reason = "it is not used here: other files may import it from this one"
    yield names.tree.finding("RM213", alias, *edits, reason=reason)


def _uses(names: Names, name: str) -> Iterator[cst.CSTNode]:
    for node in names.tree.nodes:
        if not isinstance(node, cst.Name) or node.value != name:
            continue
        parent = names.tree.parent[node]
        is_member = isinstance(parent, cst.Attribute) and parent.attr is node
        if isinstance(parent, cst.ImportAlias) or is_member:
            continue
        meaning = names.of(node)
        if meaning is not None and meaning.what == "function" and meaning.module:
            yield node
