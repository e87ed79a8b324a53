"""Where the keys of the old `metadata` belong, and how a literal of them is divided."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import libcst as cst

from .config import Config
from .names import Names
from .profile import AMBIGUOUS_KEYS, LINEAGE_KEYS, RESERVED_KEYS
from .tree import literal

__all__ = ["AGENT", "AUDIT", "LINEAGE", "Divided", "divided", "home", "undecided", "written"]

AGENT, AUDIT, LINEAGE = "agent_context", "audit_metadata", "lineage"


def home(key: str, config: Config) -> str | None:
    """The dictionary that has a key, or `lineage`; `None` if nobody has said so."""
    if key in LINEAGE_KEYS:
        return LINEAGE
    if key in config.audit_keys:
        return AUDIT
    if key in config.agent_keys or config.other_keys == "agent":
        return AGENT
    return None


def undecided(key: str) -> str:
    """What is said of a key that nobody has assigned."""
    return f"key '{key}' is in neither agent-keys nor audit-keys"


@attrs.frozen
class Divided:
    """
    A literal by where its keys belong, as source text.

    Attributes:
        reason: why it cannot be divided; empty if it can.
        agent, audit: the elements of the two dictionaries.
        lineage: field → value.
    """

    reason: str = ""
    agent: tuple[str, ...] = ()
    audit: tuple[str, ...] = ()
    lineage: tuple[tuple[str, str], ...] = ()

    @property
    def only(self) -> str | None:
        """The one dictionary that has all of it."""
        if self.lineage or (self.agent and self.audit):
            return None
        return AUDIT if self.audit else AGENT


def divided(names: Names, node: cst.CSTNode) -> Divided:
    """
    A literal that makes a context, divided as the compatibility layer would: what is neither
    known to be audited nor lineage is the agent's.
    """
    if not isinstance(node, cst.Dict):
        text = names.tree.code(node)
        return Divided(f"the keys of `{text[:40]}` are known only when it runs")
    agent: list[str] = []
    audit: list[str] = []
    lineage: list[tuple[str, str]] = []
    for element in node.elements:
        key = literal(element.key) if isinstance(element, cst.DictElement) else None
        if key is None:
            return Divided("not all of its keys are literals")
        if key in RESERVED_KEYS:
            return Divided(f"`{key}` is a field, and may not be a key")
        if key in AMBIGUOUS_KEYS and home(key, names.config) is None:
            return Divided(undecided(key))
        text = names.tree.code(element)
        if key in LINEAGE_KEYS:
            lineage.append((key, text.partition(":")[2].strip()))  # with its parentheses
        else:
            (audit if key in names.config.audit_keys else agent).append(text)
    return _readable(names, node, Divided("", tuple(agent), tuple(audit), tuple(lineage)))


def _readable(names: Names, node: cst.Dict, found: Divided) -> Divided:
    """Taking it apart would lose the comments in it."""
    if found.only is None and "#" in names.tree.code(node) and _has_comment(node):
        return Divided("its keys belong to both dictionaries, and there are comments between them")
    return found


def _has_comment(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Comment) or any(map(_has_comment, node.children))


def written(name: str, elements: Sequence[str]) -> str:
    """A keyword argument with a dictionary of these elements."""
    return f"{name}={{{', '.join(elements)}}}"
