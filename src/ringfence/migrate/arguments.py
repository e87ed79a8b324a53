"""The arguments of a call: found by name, renamed, divided, taken out."""

from __future__ import annotations

import libcst as cst

from .findings import Edit
from .keys import AGENT, AUDIT, divided, written
from .names import Names
from .tree import literal

__all__ = ["Arguments"]


class Arguments:
    """The arguments of one call. Lives while that call is looked at."""

    def __init__(self, names: Names, call: cst.Call) -> None:
        self.names, self.tree, self.call = names, names.tree, call
        self.keywords = {arg.keyword.value: arg for arg in call.args if arg.keyword is not None}
        self.positional = [arg for arg in call.args if arg.keyword is None and not arg.star]
        self.is_starred = any(arg.star for arg in call.args)

    def renamed(self, old: str, new: str) -> tuple[list[Edit], str]:
        """The edits that rename a keyword, or why not."""
        if new in self.keywords:
            return [], f"`{new}=` is given as well"
        keyword = self.keywords[old].keyword
        return ([self.tree.replace(keyword, new)], "") if keyword is not None else ([], "")

    def split(
        self, arg: cst.Arg, prefix: str = "", takes_lineage: bool = False
    ) -> tuple[list[Edit], str]:
        """
        The edits that make two dictionaries of `metadata=`, or why not.

        Args:
            arg: by keyword, or by position.
            prefix: `additional_` for a child.
            takes_lineage: whether the call has parameters for depth and parent.
        """
        taken = {prefix + AGENT, prefix + AUDIT} & self.keywords.keys()
        if taken:
            return [], f"`{min(taken)}=` is given as well"
        if isinstance(arg.value, cst.Name) and arg.value.value == "None":
            return [self._named(arg, prefix + AGENT)], ""
        found = divided(self.names, arg.value)
        if found.reason:
            return [], found.reason
        if found.only is not None:
            return [self._named(arg, prefix + found.only)], ""
        clash = [key for key, _ in found.lineage if not takes_lineage or key in self.keywords]
        if clash:
            return [], f"`{clash[0]}` is lineage: this call cannot say it"
        parts = [
            written(prefix + name, elements)
            for name, elements in ((AGENT, found.agent), (AUDIT, found.audit))
            if elements
        ]
        parts += [f"{key}={value}" for key, value in found.lineage]
        return [self.tree.replace(arg, ", ".join(parts))], ""

    def _named(self, arg: cst.Arg, name: str) -> Edit:
        if arg.keyword is not None:
            return self.tree.replace(arg.keyword, name)
        start = self.tree.start(arg)
        return Edit(start, start, f"{name}=")

    def into_agent_context(self, name: str) -> tuple[list[Edit], str]:
        """The edits that make a keyword a key of the agent's data, or why not."""
        arg = self.keywords[name]
        value = self.tree.code(arg).partition("=")[2].strip()  # with its parentheses
        entry = f"{self.tree.quoted(arg, name)}: {value}"
        there = self.keywords.get(AGENT) or self.keywords.get("metadata")
        if there is None:
            return [self.tree.replace(arg, f"{AGENT}={{{entry}}}")], ""
        if not isinstance(there.value, cst.Dict):
            return [], f"`{self.tree.code(there)[:40]}` is not a literal that it could be put into"
        keys = [literal(getattr(element, "key", None)) for element in there.value.elements]
        if name in keys or None in keys:
            return [], "the literal may have that key already"
        removal, reason = self._without(arg)
        if reason:
            return [], reason
        start = self.tree.start(there.value) + 1
        comma = ", " if keys else ""
        edits = [Edit(start, start, entry + comma), removal]
        if there.keyword is not None:  # nobody else may rename the literal in the same round
            edits.append(self.tree.replace(there.keyword, there.keyword.value))
        return edits, ""

    def _without(self, arg: cst.Arg) -> tuple[Edit, str]:
        """The edit that takes an argument out, with the comma that goes with it."""
        number = self.call.args.index(arg)
        if number:
            edit = Edit(self.tree.end(self.call.args[number - 1]), self.tree.end(arg), "")
        elif len(self.call.args) > 1:
            edit = Edit(self.tree.start(arg), self.tree.start(self.call.args[1]), "")
        else:
            edit = self.tree.replace(arg, "")
        text = self.tree.source.utf8[edit.start : edit.end]
        value = self.tree.code(arg).encode()
        reason = "a comment stands beside it" if b"#" in text.replace(value, b"") else ""
        return edit, reason
