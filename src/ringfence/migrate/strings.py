"""Dotted paths of old modules in strings: targets of patch, importlib, monkeypatch."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from . import profile
from .findings import Edit, Finding
from .moved import LEGACY
from .names import Names
from .tree import dotted, literal

__all__ = ["strings"]

READERS = frozenset(
    "patch patch.object patch.dict mock.patch mocker.patch unittest.mock.patch import_module "
    "importlib.import_module __import__ monkeypatch.setattr monkeypatch.delattr "
    "pytest.importorskip importorskip find_spec importlib.util.find_spec reload import_string "
    "sys.modules.get sys.modules.pop".split()
)
"""Calls whose first argument is the dotted path of a thing."""


def strings(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one string."""
    if not isinstance(node, cst.SimpleString):
        return
    text = literal(node)
    if text is None or not _is_dotted(text):
        return
    module, name = _divided(names, text)
    if module is None or _is_annotation(names, node) or _stays(names, module, name):
        return
    reason = _reason(names, node, module, name)
    start = names.tree.start(node) + len(node.prefix) + len(node.quote)
    edit = Edit(start, start + len(module), LEGACY)
    if not reason and names.tree.code(node).count(module) != 1:
        reason = "it is written with escapes"
    yield names.tree.finding("RM104", node, edit, reason=reason)


def _is_dotted(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _divided(names: Names, text: str) -> tuple[str | None, str]:
    """The old module that the path begins with, and the name in it."""
    parts = text.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        if names.config.legacy_names(module) is not None:
            name = parts[count] if count < len(parts) else ""
            return module, name
    return None, ""


def _stays(names: Names, module: str, name: str) -> bool:
    return name != "" and not names.config.is_legacy(module, name)


def _is_annotation(names: Names, node: cst.CSTNode) -> bool:
    return any(isinstance(around, cst.Annotation) for around in names.tree.around(node))


def _reason(names: Names, node: cst.CSTNode, module: str, name: str) -> str:
    if not _is_target(names, node):
        return "what reads this string is not known"
    wanted = names.config.legacy_names(module)
    if not name and wanted != profile.ALL:
        return f"part of `{module}` stays where it is"
    if name and name not in profile.EXPORTED:
        return f"ringfence.legacy has no `{name}`: what was patched there is elsewhere now"
    return ""


def _is_target(names: Names, node: cst.CSTNode) -> bool:
    argument = names.tree.parent[node]
    call = names.tree.parent.get(argument)
    if not isinstance(argument, cst.Arg) or not isinstance(call, cst.Call):
        return False
    called = dotted(call.func) or ""
    is_reader = called in READERS or called.rpartition(".")[2] in ("patch", "import_module")
    return is_reader and call.args[0] is argument
