"""A parsed file: its nodes in order, where each stands, and in which scope of names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

from .findings import Edit, Finding
from .source import Source, UnreadableError

__all__ = ["Tree", "dotted", "literal"]

_SPACES = (
    cst.BaseParenthesizableWhitespace,
    cst.Comma,
    cst.EmptyLine,
    cst.LeftParen,
    cst.RightParen,
    cst.Semicolon,
    cst.TrailingWhitespace,
)


class Tree:
    """
    One file, parsed. Lives while it is examined.

    Attributes:
        source: its text.
        nodes: every node, outer ones first.
        parent: node → the node around it.
        module: the root.

    Raises `UnreadableError` if it cannot be parsed, or not without losing something.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        text = source.utf8.decode()
        try:
            self.module = cst.parse_module(text)
            wrapper = MetadataWrapper(self.module, unsafe_skip_copy=True)
            self._spans = wrapper.resolve(ByteSpanPositionProvider)
            self.nodes: list[cst.CSTNode] = []
            self.parent: dict[cst.CSTNode, cst.CSTNode] = {}
            self._places: dict[cst.CSTNode, tuple[int, int]] = {}
            self._walk(self.module)
        except cst.ParserSyntaxError as error:
            raise UnreadableError("RM901", f"not parsed: {error.message}", error.raw_line) from None
        except RecursionError:
            raise UnreadableError("RM901", "not parsed: nested too deeply") from None
        if self.module.code != text:
            raise UnreadableError("RM903", "the parser loses a character of it, as a form feed")

    def _walk(self, node: cst.CSTNode) -> None:
        place = len(self.nodes)
        self.nodes.append(node)
        for child in children(node):
            self.parent[child] = node
            self._walk(child)
        self._places[node] = (place, len(self.nodes))

    def start(self, node: cst.CSTNode) -> int:
        """The offset at which a node begins."""
        return int(self._spans[node].start)

    def end(self, node: cst.CSTNode) -> int:
        """The offset at which it ends."""
        span = self._spans[node]
        return int(span.start + span.length)

    def code(self, node: cst.CSTNode) -> str:
        """The text of a node."""
        return self.source.utf8[self.start(node) : self.end(node)].decode()

    def inside(self, node: cst.CSTNode) -> list[cst.CSTNode]:
        """The nodes within a node."""
        place, end = self._places[node]
        return self.nodes[place + 1 : end]

    def around(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes around a node, the nearest first."""
        while node in self.parent:
            node = self.parent[node]
            yield node

    def quoted(self, node: cst.CSTNode, text: str) -> str:
        """A string literal that may stand where a node stands: in an f-string, the other quote."""
        for around in self.around(node):
            if isinstance(around, cst.FormattedString):
                return f"'{text}'" if '"' in around.start else f'"{text}"'
        return f'"{text}"'

    def replace(self, node: cst.CSTNode, text: str) -> Edit:
        """The edit that replaces a node."""
        return Edit(self.start(node), self.end(node), text)

    def finding(self, code: str, node: cst.CSTNode, *edits: Edit, reason: str = "") -> Finding:
        """What was found at a node; with a reason it needs a person, and nothing is edited."""
        start = self.start(node)
        line = self.source.utf8.count(b"\n", 0, start) + 1
        begin = self.source.utf8.rfind(b"\n", 0, start) + 1
        end = self.source.utf8.find(b"\n", start)
        text = self.source.utf8[begin : end if end >= 0 else None].decode().strip()
        return Finding(code, line, text, reason, () if reason else edits)


@functools.cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if not field.name.startswith(("whitespace", "lpar", "rpar", "leading_", "lines_"))
    )


_nodes: dict[type, bool] = {}


def _is_node(kind: type) -> bool:
    """By type and remembered: nodes are abstract classes, of which `isinstance` is slow."""
    if kind not in _nodes:
        _nodes[kind] = issubclass(kind, cst.CSTNode) and not issubclass(kind, _SPACES)
    return _nodes[kind]


def children(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The nodes directly within a node, without white space."""
    for name in _fields(type(node)):
        value = getattr(node, name)
        if type(value) in (list, tuple):
            for part in value:
                if _is_node(type(part)):
                    yield part
        elif _is_node(type(value)):
            yield value


def dotted(node: cst.CSTNode | None) -> str | None:
    """The dotted name that an expression is, if it is one."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        above = dotted(node.value)
        return above and f"{above}.{node.attr.value}"
    return None


def literal(node: cst.CSTNode | None) -> str | None:
    """The text of a string literal."""
    if isinstance(node, cst.SimpleString):
        value = node.evaluated_value
        return value if isinstance(value, str) else None
    return None
