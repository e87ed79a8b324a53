"""Imports of the old modules, and how they move to `ringfence.legacy`."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from . import profile
from .findings import Edit, Finding
from .names import Names
from .rules import RULES
from .tree import dotted

__all__ = ["imports"]

LEGACY = "ringfence.legacy"


def imports(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one import."""
    if isinstance(node, cst.ImportFrom):
        module = names.absolute(node)
        legacy = names.config.legacy_names(module)
        if module == LEGACY or module == "ringfence":
            yield from _already(names, node, module)
        elif isinstance(node.names, cst.ImportStar):
            if legacy is not None:
                yield names.tree.finding("RM105", node, reason=RULES["RM105"].does)
        elif legacy is not None:
            yield from _from_old(names, node, module)
        else:
            yield from _of_package(names, node, module)
    elif isinstance(node, cst.Import):
        for alias in node.names:
            yield from _whole(names, alias)


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
        yield names.tree.finding("RM101", node, _module_edit(names, node))
    else:
        yield _split(names, node, aliases, moving)


def _module_edit(names: Names, node: cst.ImportFrom, new: str = LEGACY) -> Edit:
    """The module alone is replaced, with the dots in front of it: nothing else is touched."""
    first = node.relative[0] if node.relative else node.module
    last = node.module or node.relative[-1]
    if first is None:
        return Edit(0, 0, "")
    start = names.tree.start(first)
    text = names.tree.source.utf8[start : names.tree.end(last)]
    return Edit(start, start + len(text), new)


def _split(
    names: Names, node: cst.ImportFrom, aliases: list[cst.ImportAlias],
    moving: list[cst.ImportAlias],
) -> Finding:  # fmt: skip
    """The names that move get an import of their own in front of the one that stays."""
    tree = names.tree
    reason = _cannot_be_split(names, node)
    if reason:
        return tree.finding("RM101", node, reason=reason)
    line = tree.parent[node]
    start = tree.start(line)
    indent = _indent(tree.source.utf8, start)
    texts = ", ".join(" ".join(tree.code(alias).split()) for alias in moving)
    newline = _newline(tree.source.utf8, start)
    edits = [Edit(start, start, f"from {LEGACY} import {texts}{newline}{indent}")]
    edits += _without(names, aliases, moving)
    return tree.finding("RM101", node, *edits)


def _cannot_be_split(names: Names, node: cst.ImportFrom) -> str:
    line = names.tree.parent[node]
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) > 1:
        return "several statements on one line: write the import on a line of its own"
    if "#" in names.tree.code(node):
        return "comments between its names: which name each belongs to is not known"
    return ""


def _without(
    names: Names, aliases: list[cst.ImportAlias], moving: list[cst.ImportAlias]
) -> Iterator[Edit]:
    """Removes names from a list, each with the separator in front of it, the first with the next."""
    tree = names.tree
    left = [alias for alias in aliases if alias not in moving]
    for number, alias in enumerate(aliases):
        if alias not in moving:
            continue
        if aliases.index(left[0]) > number:
            yield Edit(tree.start(alias), tree.start(aliases[number + 1]), "")
        else:
            yield Edit(tree.end(aliases[number - 1]), tree.end(alias), "")


def _indent(data: bytes, start: int) -> str:
    line = data[data.rfind(b"\n", 0, start) + 1 : start].decode()
    return line if not line.strip() else ""


def _newline(data: bytes, start: int) -> str:
    """The line end that the statement itself has, else the file's first."""
    end = data.find(b"\n", start)
    end = end if end >= 0 else data.find(b"\n")
    return "\r\n" if end > 0 and data[end - 1 : end] == b"\r" else "\n"


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
        reason = _cannot_be_split(names, node)
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
        edits = [Edit(start, start, f"{new}{_newline(text, start)}{_indent(text, start)}")]
        edits += _without(names, list(node.names), [alias])  # type: ignore[arg-type]
    return tree.finding("RM103", alias, *edits)


def _foreign_members(names: Names, module: str, bound: str) -> str:
    """A module that moves as a whole must not be used for what stays where it is."""
    for used in sorted(_members(names, bound)):
        if not names.config.is_legacy(module, used):
            return f"`{used}` of `{module}` is used as well, and stays where it is"
        if used not in profile.EXPORTED:
            return f"ringfence.legacy has no `{used}`"
    return ""


def _members(names: Names, bound: str) -> set[str]:
    return {
        node.attr.value
        for node in names.tree.nodes
        if isinstance(node, cst.Attribute) and dotted(node.value) == bound
    }


# --- import old.module ------------------------------------------------------------------------


def _whole(names: Names, alias: cst.ImportAlias) -> Iterator[Finding]:
    module = alias.evaluated_name
    tree = names.tree
    if module == LEGACY:
        yield tree.finding(
            "RM121", alias, reason="a module as a whole: import the names from ringfence"
        )
    if names.config.legacy_names(module) is None:
        return
    bound = alias.evaluated_alias or module
    reason = _foreign_members(names, module, bound)
    if reason or alias.asname is not None:
        yield tree.finding("RM102", alias, tree.replace(alias.name, LEGACY), reason=reason)
        return
    reason = _cannot_be_renamed(names, module)
    edits = [tree.replace(alias, LEGACY)]
    edits += [tree.replace(use, LEGACY) for use in _uses(names, module)]
    edits += _in_annotations(names, module)
    yield tree.finding("RM102", alias, *edits, reason=reason)


def _uses(names: Names, module: str) -> Iterator[cst.CSTNode]:
    for node in names.tree.nodes:
        if isinstance(node, cst.Attribute) and dotted(node) == module:
            if not _is_in_import(names, node):
                yield node


def _is_in_import(names: Names, node: cst.CSTNode) -> bool:
    return any(isinstance(a, (cst.Import, cst.ImportFrom)) for a in names.tree.around(node))


def _in_annotations(names: Names, module: str) -> Iterator[Edit]:
    for node in names.tree.nodes:
        if isinstance(node, cst.SimpleString) and any(
            isinstance(around, cst.Annotation) for around in names.tree.around(node)
        ):
            text = names.tree.code(node)
            if f"{module}." in text:
                yield names.tree.replace(node, text.replace(f"{module}.", f"{LEGACY}."))


def _cannot_be_renamed(names: Names, module: str) -> str:
    """`import a.b.c` binds `a`, which other code of the file may rely upon."""
    top = module.partition(".")[0]
    if any(
        isinstance(node, cst.Name) and node.value == "ringfence" and not _is_in_import(names, node)
        and isinstance(names.of(node), type(None))
        for node in names.tree.nodes
    ):  # fmt: skip
        return "the file has another `ringfence`"
    whole = {id(node) for use in _uses(names, module) for node in _leftmost(use)}
    others = [
        node
        for node in names.tree.nodes
        if isinstance(node, cst.Name) and node.value == top and id(node) not in whole
        and not _is_in_import(names, node) and not _is_attribute_name(names, node)
    ]  # fmt: skip
    if others and not _is_bound_otherwise(names, top, module):
        return f"`{top}` is used for other modules too, and bound by this import alone"
    return ""


def _leftmost(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    while isinstance(node, cst.Attribute):
        node = node.value
    yield node


def _is_attribute_name(names: Names, node: cst.Name) -> bool:
    parent = names.tree.parent[node]
    return (isinstance(parent, cst.Attribute) and parent.attr is node) or (
        isinstance(parent, cst.Arg) and parent.keyword is node
    )


def _is_bound_otherwise(names: Names, top: str, module: str) -> bool:
    return any(
        binding.how == "module"
        and isinstance(binding.node, cst.ImportAlias)
        and binding.node.evaluated_name != module
        for binding in names.root.bindings.get(top, [])
    )


# --- imports that have moved already ----------------------------------------------------------


def _already(names: Names, node: cst.ImportFrom, module: str) -> Iterator[Finding]:
    if isinstance(node.names, cst.ImportStar):
        if module == LEGACY:
            yield names.tree.finding("RM121", node, reason="a star import: name what is used")
        return
    if module == "ringfence":
        for alias in node.names:
            if alias.evaluated_name == "legacy":
                yield names.tree.finding(
                    "RM121", alias, reason="a module as a whole: import the names from ringfence"
                )
        return
    strange = [a.evaluated_name for a in node.names if a.evaluated_name not in profile.CANONICAL]
    reason = f"ringfence has no `{strange[0]}`" if strange else ""
    edit = _module_edit(names, node, "ringfence")
    yield names.tree.finding("RM121", node, edit, reason=reason)
    earlier = _earlier(names, node)
    if earlier is not None and not strange:
        yield _merged(names, earlier, node)


def _earlier(names: Names, node: cst.ImportFrom) -> cst.ImportFrom | None:
    """An import of ringfence.legacy before this one in the same block, alone on its line too."""
    line = names.tree.parent[node]
    block = names.tree.parent.get(line)
    if _cannot_be_split(names, node) or not isinstance(block, (cst.Module, cst.IndentedBlock)):
        return None
    if block.body[-1:] == [line] and len(block.body) == 1:
        return None
    for other in block.body[: list(block.body).index(line)]:  # type: ignore[arg-type]
        if isinstance(other, cst.SimpleStatementLine) and len(other.body) == 1:
            first = other.body[0]
            if (
                isinstance(first, cst.ImportFrom)
                and names.absolute(first) == LEGACY
                and not isinstance(first.names, cst.ImportStar)
            ):
                return first
    return None


def _merged(names: Names, first: cst.ImportFrom, second: cst.ImportFrom) -> Finding:
    tree, line = names.tree, names.tree.parent[second]
    data = tree.source.utf8
    start, end = tree.start(line), tree.end(line)
    start -= len(_indent(data, start).encode())
    rest = data[end : data.find(b"\n", end) + 1 or len(data)]
    if rest.strip() or isinstance(first.names, cst.ImportStar):
        return tree.finding("RM108", second, reason="a comment behind it: join them by hand")
    there = {" ".join(tree.code(alias).split()) for alias in first.names}
    wanted = [
        text
        for alias in second.names  # type: ignore[union-attr]
        if (text := " ".join(tree.code(alias).split())) not in there
    ]
    last = tree.end(first.names[-1])
    edits = [Edit(last, last, f", {', '.join(dict.fromkeys(wanted))}")] if wanted else []
    return tree.finding("RM108", second, *edits, Edit(start, end + len(rest), ""))
