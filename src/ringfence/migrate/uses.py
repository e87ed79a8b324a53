"""Where a file uses a module that it imported as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Edit
from .names import Names
from .tree import dotted

__all__ = ["in_annotations", "is_attribute_name", "is_in_import", "members", "uses"]


def uses(names: Names, module: str) -> Iterator[cst.CSTNode]:
    """Every place but imports where the name of a module stands, dotted or not."""
    for node in names.tree.nodes:
        if isinstance(node, (cst.Attribute, cst.Name)) and dotted(node) == module:
            if not is_in_import(names, node) and not is_attribute_name(names, node):
                yield node


def members(names: Names, module: str) -> set[str | None]:
    """What of a module is used; `None` among it if the module itself is handed on."""
    found: set[str | None] = set()
    for node in uses(names, module):
        parent = names.tree.parent[node]
        is_member = isinstance(parent, cst.Attribute) and parent.value is node
        found.add(parent.attr.value if is_member else None)  # type: ignore[attr-defined]
    return found


def is_in_import(names: Names, node: cst.CSTNode) -> bool:
    """Whether a node is part of an import."""
    return any(isinstance(a, (cst.Import, cst.ImportFrom)) for a in names.tree.around(node))


def is_attribute_name(names: Names, node: cst.CSTNode) -> bool:
    """Whether a name is that of an attribute or a keyword, and so of nothing in the file."""
    parent = names.tree.parent[node]
    return (isinstance(parent, cst.Attribute) and parent.attr is node) or (
        isinstance(parent, (cst.Arg, cst.Param))
        and node in (getattr(parent, "keyword", None), getattr(parent, "name", None))
    )


def in_annotations(names: Names, old: str, new: str) -> Iterator[Edit]:
    """The edits of annotations that are written as strings."""
    for node in names.tree.nodes:
        if isinstance(node, cst.SimpleString) and any(
            isinstance(around, cst.Annotation) for around in names.tree.around(node)
        ):
            text = names.tree.code(node)
            if f"{old}." in text:
                yield names.tree.replace(node, text.replace(f"{old}.", f"{new}."))
