"""Imports of `ringfence.legacy`: where they may be joined, and how they move on to ringfence."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from . import profile
from .findings import Edit, Finding
from .names import Names
from .uses import in_annotations, members, uses

__all__ = ["cannot_be_split", "indent_at", "module_edit", "moved", "moved_module", "newline_at"]

LEGACY = "ringfence.legacy"


def moved(names: Names, node: cst.ImportFrom, module: str) -> Iterator[Finding]:
    """What is to be said of an import from ringfence or its compatibility layer."""
    if isinstance(node.names, cst.ImportStar):
        if module == LEGACY:
            yield names.tree.finding("RM121", node, reason="a star import: name what is used")
        return
    if module == "ringfence":
        for alias in node.names:
            if alias.evaluated_name == "legacy":
                yield moved_module(names, alias, alias.evaluated_alias or "legacy")
        return
    strange = [a.evaluated_name for a in node.names if a.evaluated_name not in profile.CANONICAL]
    reason = f"ringfence has no `{strange[0]}`" if strange else ""
    edit = module_edit(names, node, "ringfence")
    yield names.tree.finding("RM121", node, edit, reason=reason)
    earlier = _earlier(names, node)
    if earlier is not None and _may_be_joined(names, node):
        yield _joined(names, earlier, node)


def moved_module(names: Names, alias: cst.ImportAlias, bound: str) -> Finding:
    """An import of the compatibility layer as a whole, under a name or under its own."""
    tree, statement = names.tree, names.tree.parent[alias]
    bound = alias.evaluated_alias or bound
    strange = sorted(members(names, bound) - profile.CANONICAL, key=str)
    reason = f"ringfence has no `{strange[0]}`" if strange else ""
    if None in strange:
        reason = f"`{bound}` itself is handed on"
    if isinstance(statement, cst.ImportFrom):
        if len(statement.names) > 1 or "#" in tree.code(statement):  # type: ignore[arg-type]
            reason = reason or "write the import on a line of its own"
        edits = [tree.replace(statement, f"import ringfence as {bound}")]
    elif alias.asname is not None:
        edits = [tree.replace(alias.name, "ringfence")]
    else:
        edits = [tree.replace(alias, "ringfence")]
        edits += [tree.replace(use, "ringfence") for use in uses(names, LEGACY)]
        edits += in_annotations(names, LEGACY, "ringfence")
    return tree.finding("RM121", alias, *edits, reason=reason)


def _earlier(names: Names, node: cst.ImportFrom) -> cst.ImportFrom | None:
    """An import of ringfence.legacy before this one in the same block, alone on its line too."""
    line = names.tree.parent[node]
    block = names.tree.parent.get(line)
    if cannot_be_split(names, node) or not isinstance(block, (cst.Module, cst.IndentedBlock)):
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


def _may_be_joined(names: Names, node: cst.ImportFrom) -> bool:
    """Two imports are right as well, so what would lose a comment or a meaning stays."""
    line = names.tree.parent[node]
    if not isinstance(line, cst.SimpleStatementLine) or isinstance(node.names, cst.ImportStar):
        return False
    if line.trailing_whitespace.comment or any(empty.comment for empty in line.leading_lines):
        return False
    scope = names.scopes[node]
    bound = [alias.evaluated_alias or alias.evaluated_name for alias in node.names]
    return all(all(binding.how == "import" for binding in scope.bindings[name]) for name in bound)


def _joined(names: Names, first: cst.ImportFrom, second: cst.ImportFrom) -> Finding:
    tree, line = names.tree, names.tree.parent[second]
    data = tree.source.utf8
    start, end = tree.start(line), tree.end(line)
    start -= len(indent_at(data, start).encode())
    end = data.find(b"\n", end) + 1 or len(data)
    there, wanted = (
        [" ".join(tree.code(alias).split()) for alias in statement.names]  # type: ignore[union-attr]
        for statement in (first, second)
    )
    more = [text for text in dict.fromkeys(wanted) if text not in there]
    last = tree.end(first.names[-1])  # type: ignore[index]
    edits = [Edit(last, last, f", {', '.join(more)}")] if more else []
    return tree.finding("RM108", second, *edits, Edit(start, end, ""))


# --- what other imports need too -----------------------------------------------------------


def module_edit(names: Names, node: cst.ImportFrom, new: str = LEGACY) -> Edit:
    """The module alone is replaced, with the dots in front of it: nothing else is touched."""
    first = node.relative[0] if node.relative else node.module
    last = node.module or node.relative[-1]
    if first is None:
        return Edit(0, 0, "")
    start = names.tree.start(first)
    text = names.tree.source.utf8[start : names.tree.end(last)]
    return Edit(start, start + len(text), new)


def cannot_be_split(names: Names, node: cst.ImportFrom) -> str:
    """Why an import cannot become two, or be joined with another; empty if it can."""
    line = names.tree.parent[node]
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) > 1:
        return "several statements on one line: write the import on a line of its own"
    if "#" in names.tree.code(node):
        return "comments between its names: which name each belongs to is not known"
    return ""


def indent_at(data: bytes, start: int) -> str:
    """The white space in front of a statement, if there is nothing else."""
    line = data[data.rfind(b"\n", 0, start) + 1 : start].decode()
    return line if not line.strip() else ""


def newline_at(data: bytes, start: int) -> str:
    """The line end that the statement itself has, else the file's first."""
    end = data.find(b"\n", start)
    end = end if end >= 0 else data.find(b"\n")
    return "\r\n" if end > 0 and data[end - 1 : end] == b"\r" else "\n"
