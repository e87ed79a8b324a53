"""The graph of a container as text: to read, for Mermaid, and in Graphviz's language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .graph import Edge, Node, ProviderGraph

__all__ = ["as_dot", "as_mermaid", "as_text", "grouped", "short_place"]

LIFETIMES = {
    "transient": "for whoever asks",
    "operation": "one for each scope",
    "request": "one for each root scope",
    "offered": "what each scope has",
    "user": "one for each user",
    "app": "one for everybody",
}
"""What lives short comes first, since it is that which asks for the others."""


def grouped(graph: ProviderGraph) -> Iterator[tuple[str, list[Node]]]:
    """The nodes by lifetime, in the order of registration; a lifetime without any is left out."""
    for lifetime in LIFETIMES:
        nodes = [node for node in graph.nodes if node.lifetime == lifetime]
        if nodes:
            yield lifetime, nodes


def short_place(node: Node) -> str:
    """Where it was registered, without the folder."""
    return re.split(r"[/\\]", node.place)[-1]


def as_text(graph: ProviderGraph) -> str:
    """One paragraph for each lifetime; beneath each object what it asks for."""
    nodes = {node.id: node for node in graph.nodes}
    asked: dict[str, list[Edge]] = {node.id: [] for node in graph.nodes}
    for edge in graph.edges:
        asked[edge.source].append(edge)
    return "\n".join(
        f"{lifetime}: {LIFETIMES[lifetime]}\n"
        + "".join(_entry(node, asked[node.id], nodes) for node in group)
        for lifetime, group in grouped(graph)
    )


def _entry(node: Node, asked: list[Edge], nodes: dict[str, Node]) -> str:
    head = f"    {node.name}  {', '.join(filter(None, (node.how, short_place(node))))}\n"
    corners = "├" * (len(asked) - 1) + "└" * bool(asked)
    return head + "".join(
        f"    {corner}{'┄' if edge.is_alias else '─'} {nodes[edge.target].name}  "
        f"{nodes[edge.target].lifetime}\n"
        for corner, edge in zip(corners, asked, strict=True)
    )


def as_mermaid(graph: ProviderGraph) -> str:
    """A flow chart, with a subgraph for each lifetime."""
    ids = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for lifetime, group in grouped(graph):
        lines.append(f'    subgraph {lifetime} ["{lifetime}: {LIFETIMES[lifetime]}"]')
        lines += [f'        {ids[node.id]}["{_for_mermaid(node.name)}"]' for node in group]
        lines.append("    end")
    lines += [
        f"    {ids[edge.source]} {'-.->' if edge.is_alias else '-->'} {ids[edge.target]}"
        for edge in graph.edges
    ]
    return "\n".join(lines) + "\n"


def _for_mermaid(text: str) -> str:
    # It has entities of its own: `#` and a number, closed by a semicolon.
    return re.sub(r'["#&;<>`\\]', lambda found: f"#{ord(found[0])};", text)


def as_dot(graph: ProviderGraph) -> str:
    """A digraph, with a cluster for each lifetime."""
    lines = ["digraph providers {", "    rankdir=LR", "    node [shape=box, fontname=monospace]"]
    for lifetime, group in grouped(graph):
        label = f"{lifetime}: {LIFETIMES[lifetime]}"
        lines += [f"    subgraph cluster_{lifetime} {{", f"        label={_for_dot(label)}"]
        lines += [f"        {_for_dot(node.id)} [label={_for_dot(node.name)}]" for node in group]
        lines.append("    }")
    lines += [
        f"    {_for_dot(edge.source)} -> {_for_dot(edge.target)}"
        + (" [style=dashed]" if edge.is_alias else "")
        for edge in graph.edges
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _for_dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
