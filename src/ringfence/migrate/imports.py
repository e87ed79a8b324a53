"""Imports of the old modules, and how they move to `ringfence.legacy`."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from . import profile
from .findings import Edit, Finding
from .moved import (
    LEGACY,
    cannot_be_split,
    indent_at,
    module_edit,
    moved,
    moved_module,
    newline_at,
)
from .names import Names
from .rules import RULES
from .uses import in_annotations, is_attribute_name, is_in_import, members, uses

__all__ = ["imports", "old_class"]


def imports(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one import."""
    if isinstance(node, cst.ImportFrom):
        module = names.absolute(node)
        legacy = names.config.legacy_names(module)
        if module == LEGACY or module == "ringfence":
            yield from moved(names, node, module)
        elif isinstance(node.names, cst.ImportStar):
            if legacy is not None:
                yield names.tree.finding("RM105", node, reason=RULES["RM105"].why)
        elif legacy is not None:
            yield from _from_old(names, node, module)
        else:
            yield from _of_package(names, node, module)
    elif isinstance(node, cst.Import):
        for alias in node.names:
            yield from _whole(names, alias)


def old_class(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """An old class, in a file of which other things stay."""
    if isinstance(node, cst.ClassDef) and names.config.is_legacy(names.module, node.name.value):
        yield names.tree.finding(
            "RM122", node.name, reason="delete it when nothing uses it, in this file either"
        )


# --- from old.module import names -------------------------------------------------------------


def _from_old(names: Names, node: cst.ImportFrom, module: str) -> Iterator[Finding]:
    aliases = list(node.names) if not isinstance(node.names, cst.ImportStar) else []
    old = [a for a in aliases if names.config.is_legacy(module, a.evaluated_name)]
    moving = [a for a in old if a.evaluated_name in profile.EXPORTED]
    for alias in old:
        if alias not in moving:
            yield names.tree.finding(
                "RM106", alias, reason=f"ringfence.legacy has no `{alias.evaluated_name}`"
            )
    if not moving:
        return
    if len(moving) == len(aliases):
        yield names.tree.finding("RM101", node, module_edit(names, node))
    else:
        yield _split(names, node, aliases, moving)


def _split(
    names: Names, node: cst.ImportFrom, aliases: list[cst.ImportAlias],
    moving: list[cst.ImportAlias],
) -> Finding:  # fmt: skip
    """The names that move get an import of their own in front of the one that stays."""
    tree = names.tree
    reason = cannot_be_split(names, node)
    if reason:
        return tree.finding("RM101", node, reason=reason)
    line = tree.parent[node]
    start = tree.start(line)
    indent = indent_at(tree.source.utf8, start)
    texts = ", ".join(" ".join(tree.code(alias).split()) for alias in moving)
    newline = newline_at(tree.source.utf8, start)
    edits = [Edit(start, start, f"from {LEGACY} import {texts}{newline}{indent}")]
    edits += _without(names, aliases, moving)
    return tree.finding("RM101", node, *edits)


def _without(
    names: Names, aliases: list[cst.ImportAlias], moving: list[cst.ImportAlias]
) -> Iterator[Edit]:
    """Removes names, each with the separator in front of it; the first with the one behind."""
    tree = names.tree
    left = [alias for alias in aliases if alias not in moving]
    for number, alias in enumerate(aliases):
        if alias not in moving:
            continue
        if aliases.index(left[0]) > number:
            yield Edit(tree.start(alias), tree.start(aliases[number + 1]), "")
        else:
            yield Edit(tree.end(aliases[number - 1]), tree.end(alias), "")


# --- from package import old_module -----------------------------------------------------------


def _of_package(names: Names, node: cst.ImportFrom, module: str) -> Iterator[Finding]:
    if isinstance(node.names, cst.ImportStar):
        return
    aliases = list(node.names)
    for alias in aliases:
        name = alias.evaluated_name
        if names.config.legacy_names(f"{module}.{name}") is not None:
            yield _module_of_package(names, node, alias, f"{module}.{name}")
        elif name == profile.CLASS:
            yield names.tree.finding(
                "RM107", alias, reason=f"`{module}` is not configured as an old module"
            )


def _module_of_package(
    names: Names, node: cst.ImportFrom, alias: cst.ImportAlias, module: str
) -> Finding:
    tree = names.tree
    bound = alias.evaluated_alias or alias.evaluated_name
    reason = _foreign_members(names, module, bound)
    if not reason and isinstance(node.names, cst.ImportStar) is False and len(node.names) > 1:  # type: ignore[arg-type]
        reason = cannot_be_split(names, node)
    if reason:
        return tree.finding("RM103", alias, reason=reason)
    new = f"from ringfence import legacy as {bound}"
    if len(node.names) == 1:  # type: ignore[arg-type]
        edits = [Edit(tree.start(node), tree.end(node), new)]
        if "#" in tree.code(node):
            return tree.finding("RM103", alias, reason="comments inside the import")
    else:
        start = tree.start(tree.parent[node])
        text = tree.source.utf8
        edits = [Edit(start, start, f"{new}{newline_at(text, start)}{indent_at(text, start)}")]
        edits += _without(names, list(node.names), [alias])  # type: ignore[arg-type]
    return tree.finding("RM103", alias, *edits)


def _foreign_members(names: Names, module: str, bound: str) -> str:
    """A module that moves as a whole must not be used for what stays where it is."""
    for used in sorted(members(names, bound), key=str):
        if used is None:
            return f"`{bound}` itself is handed on"
        if not names.config.is_legacy(module, used):
            return f"`{used}` of `{module}` is used as well, and stays where it is"
        if used not in profile.EXPORTED:
            return f"ringfence.legacy has no `{used}`"
    return ""


# --- import old.module ------------------------------------------------------------------------


def _whole(names: Names, alias: cst.ImportAlias) -> Iterator[Finding]:
    module = alias.evaluated_name
    tree = names.tree
    if module == LEGACY:
        yield moved_module(names, alias, LEGACY)
    if names.config.legacy_names(module) is None:
        return
    bound = alias.evaluated_alias or module
    reason = _foreign_members(names, module, bound)
    if reason or alias.asname is not None:
        yield tree.finding("RM102", alias, tree.replace(alias.name, LEGACY), reason=reason)
        return
    reason = _cannot_be_renamed(names, module)
    edits = [tree.replace(alias, LEGACY)]
    edits += [tree.replace(use, LEGACY) for use in uses(names, module)]
    edits += in_annotations(names, module, LEGACY)
    yield tree.finding("RM102", alias, *edits, reason=reason)


def _cannot_be_renamed(names: Names, module: str) -> str:
    """`import a.b.c` binds `a`, which other code of the file may rely upon."""
    top = module.partition(".")[0]
    if any(binding.how != "module" for binding in names.root.bindings.get("ringfence", [])):
        return "the file has another `ringfence`"
    whole = {id(node) for use in uses(names, module) for node in _leftmost(use)}
    others = [
        node
        for node in names.tree.nodes
        if isinstance(node, cst.Name) and node.value == top and id(node) not in whole
        and not is_in_import(names, node) and not is_attribute_name(names, node)
    ]  # fmt: skip
    if others and not _is_bound_otherwise(names, top, module):
        return f"`{top}` is used for other modules too, and bound by this import alone"
    return ""


def _leftmost(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    while isinstance(node, cst.Attribute):
        node = node.value
    yield node


def _is_bound_otherwise(names: Names, top: str, module: str) -> bool:
    return any(
        binding.how == "module"
        and isinstance(binding.node, cst.ImportAlias)
        and binding.node.evaluated_name != module
        for binding in names.root.bindings.get(top, [])
    )
