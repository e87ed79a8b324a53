"""The graph as text: to read, for Mermaid, in Graphviz's language."""

from __future__ import annotations

import re

import pytest

from ringfence.injection import Lifetime
from ringfence.injection.written import LIFETIMES, as_dot, as_mermaid, as_text, grouped

from .graphs import EMPTY, SMALL, large


def test_every_lifetime_has_its_place() -> None:
    assert LIFETIMES.keys() == {each.value for each in Lifetime} | {"offered"}


@pytest.mark.parametrize("seed", range(3))
def test_every_object_is_in_one_group(seed: int) -> None:
    graph = large(seed)
    found = [node for _, group in grouped(graph) for node in group]
    assert sorted(found, key=graph.nodes.index) == list(graph.nodes)


def test_the_text() -> None:
    assert as_text(SMALL) == (
        "transient: for whoever asks\n"
        "    Part  call, app.py:4\n"
        "\n"
        "request: one for each root scope\n"
        "    Shop  call, app.py:3\n"
        "    ├─ Orders  request\n"
        "    └─ Pool  app\n"
        "    Orders  async manager, app.py:5\n"
        "    ├─ Memory  user\n"
        '    └─ Annotated[Pool, Qualifier("a<b>&#\\")]  app\n'
        "\n"
        "offered: what each scope has\n"
        "    Identity  offered\n"
        "\n"
        "user: one for each user\n"
        "    Memory  call, app.py:6\n"
        "    ├─ Identity  offered\n"
        "    └─ Pool  app\n"
        "\n"
        "app: one for everybody\n"
        "    Pool  manager, app.py:7\n"
        "    └─ Part  transient\n"
        '    Annotated[Pool, Qualifier("a<b>&#\\")]  value, app.py:8\n'
        "    Source  alias, app.py:9\n"
        "    └┄ Pool  app\n"
    )


def test_mermaid() -> None:
    lines = as_mermaid(SMALL).splitlines()
    assert lines[0] == "flowchart LR"
    assert '    subgraph user ["user: one for each user"]' in lines
    assert lines.count("    end") == 5
    assert '        n6["Annotated[Pool, Qualifier(#34;a#60;b#62;#38;#35;#92;#34;)]"]' in lines
    arrows = [line.strip() for line in lines if "->" in line]
    assert arrows == [
        f"n{a} {'-.->' if a == 7 else '-->'} n{b}"
        for a, b in ((0, 2), (0, 5), (2, 4), (4, 3), (4, 5), (5, 1), (7, 5), (2, 6))
    ]


def test_dot() -> None:
    drawn = as_dot(SMALL)
    assert drawn.count("subgraph cluster_") == 5
    assert '"Pool#2" [label="Annotated[Pool, Qualifier(\\"a<b>&#\\\\\\")]"]' in drawn
    arrows = re.findall(r'^    "(.+)" -> "(.+)"(.*)$', drawn, re.MULTILINE)
    assert arrows == [
        (edge.source, edge.target, " [style=dashed]" if edge.is_alias else "")
        for edge in SMALL.edges
    ]
    outside = re.sub(r'"(\\.|[^"\\])*"', "", drawn)  # every quote that is opened is closed
    assert '"' not in outside
    assert outside.count("{") == outside.count("}") == 6


def test_a_container_that_provides_nothing() -> None:
    assert as_text(EMPTY) == ""
    assert as_mermaid(EMPTY) == "flowchart LR\n"
    assert as_dot(EMPTY).endswith("}\n")
