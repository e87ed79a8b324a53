"""Examining one file: every rule asked about every node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import libcst as cst

from . import profile
from .attributes import IDENTITY, attributes, builtins
from .children import children_made
from .config import Config
from .constructors import constructors
from .findings import Finding
from .functions import functions
from .imports import imports, old_class
from .laws import laws
from .metadata import metadata
from .names import Names
from .rules import RULES
from .source import Source, UnreadableError, decode
from .strings import strings
from .tree import Tree

__all__ = ["examine", "mentions", "own_module"]

Rule = Callable[[Names, cst.CSTNode], Iterable[Finding]]
RULES_ASKED: dict[type[cst.CSTNode], tuple[Rule, ...]] = {
    cst.Attribute: (functions, metadata, attributes),
    cst.Call: (constructors, children_made, builtins, laws),
    cst.ClassDef: (old_class,),
    cst.FunctionDef: (laws,),
    cst.Import: (imports,),
    cst.ImportAlias: (functions,),
    cst.ImportFrom: (imports,),
    cst.SimpleString: (strings,),
}
"""Which rules have something to say of which nodes."""
WORDS = frozenset(
    "UserExecutionContext ringfence websocket_connection_id create_child_context "
    "create_child_context_supervisor create_supervisor_style_child_context "
    "with_websocket_connection_supervisor to_execution_context".split()
)
"""What no other code has, and rules look for."""
FUNCTIONS = r"getattr|hasattr|setattr|__setattr__|replace|evolve|asdict|astuple|fields"
"""Functions that rules look for where they are given what is called like a context."""
_WAIVED = re.compile(rb"#\s*ringfence:\s*reviewed\b((?:[\s,]*RM\d{3})*)")


def mentions(data: bytes, config: Config) -> bool:
    """
    Whether a file can hold anything to find, asked of its bytes: parsing all would take minutes.
    """
    return _words(config).search(data) is not None


def _words(config: Config) -> re.Pattern[bytes]:
    words = "|".join(map(re.escape, sorted(config.leaves() | WORDS)))
    receivers = "|".join(map(re.escape, config.receivers)) or "(?!)"
    identity = "|".join(IDENTITY)
    return re.compile(
        rf"\b(?:{words})\b"
        rf"|\b(?:{receivers})\s*\.\s*(?:(?:metadata|session_id)\b|(?:{identity})\s*=[^=])"
        rf"|\b(?:{FUNCTIONS})\s*\(\s*(?:\w+\s*\.\s*)*(?:{receivers})\b".encode()
    )


def own_module(parts: tuple[str, ...], config: Config) -> bool:
    """Whether a file, by the parts of its path, is an old module of which nothing stays."""
    return config.legacy_names(_module(parts)) == profile.ALL


def _module(parts: tuple[str, ...]) -> str:
    return ".".join(parts[:-1] if parts[-1:] == ("__init__",) else parts)


def examine(path: Path, data: bytes, config: Config) -> list[Finding]:
    """
    What is to be said of one file, in the order of its lines; nothing of it is ever fatal.

    `path` is absolute: relative imports are resolved by it.
    """
    parts = path.with_suffix("").parts[1:]
    if own_module(parts, config):
        return [Finding("RM122", 1, path.name, RULES["RM122"].why)]
    try:
        return examine_source(decode(data), parts, config)
    except UnreadableError as error:
        return [_unreadable(data, error)]


def _unreadable(data: bytes, error: UnreadableError) -> Finding:
    lines = data.splitlines()
    text = lines[error.line - 1][:200] if error.line <= len(lines) else b""
    return Finding(error.code, error.line, text.decode("ascii", "replace").strip(), error.reason)


def examine_source(source: Source, parts: tuple[str, ...], config: Config) -> list[Finding]:
    """What is to be said of a text, by the parts of its module's path."""
    try:
        names = Names(Tree(source), config, parts)
        found = [finding for node in names.tree.nodes for rule in RULES_ASKED.get(type(node), ())
                 for finding in rule(names, node)]  # fmt: skip
    except RecursionError:
        raise UnreadableError("RM901", "not parsed: nested too deeply") from None
    return sorted(_without_waived(source.utf8, found), key=lambda f: (f.line, f.code))


def _without_waived(data: bytes, found: list[Finding]) -> Iterator[Finding]:
    """A line may say that a person has looked at it: `# ringfence: reviewed RM303`."""
    lines = data.split(b"\n")
    for finding in found:
        waived = _WAIVED.search(lines[finding.line - 1])
        if waived is None or (waived[1].strip() and finding.code.encode() not in waived[1]):
            yield finding
