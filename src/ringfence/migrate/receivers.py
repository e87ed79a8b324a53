"""Whether a thing is a context: known to be one, or only called like one."""

from __future__ import annotations

import libcst as cst

from .names import Names
from .tree import dotted

__all__ = ["KNOWN", "NAMED", "doubt", "receiver"]

KNOWN, NAMED = "known", "named"


def receiver(names: Names, node: cst.CSTNode) -> str | None:
    """
    `known` by import, annotation or value; `named` by its name alone; `None` if it is neither.

    The configuration may say that a name is enough.
    """
    meaning = names.of(node)
    if meaning is not None:
        return KNOWN if meaning.what == "context" else None
    last = (dotted(node) or "").rpartition(".")[2]
    if last not in names.config.receivers or names.is_annotated_otherwise(node):
        return None
    return KNOWN if names.config.trust_receivers else NAMED


def doubt(names: Names, node: cst.CSTNode) -> str:
    """Why a thing that is called like a context is left to a person."""
    return f"`{names.tree.code(node)[:40]}` is known to be a context by its name alone"
