"""No box lies over another, and no line crosses a box."""

from __future__ import annotations

import itertools

import pytest

from ringfence.injection import Edge, Node, ProviderGraph
from ringfence.injection.layout import LETTER, LONGEST, laid_out

from .graphs import EMPTY, SMALL, large

GRAPHS = [SMALL, large(1), large(2), large(3, count=90)]
each_graph = pytest.mark.parametrize("graph", GRAPHS, ids=["small", "one", "two", "ninety"])


@each_graph
def test_boxes_lie_apart_each_on_the_ground_of_its_lifetime(graph: ProviderGraph) -> None:
    layout = laid_out(graph)
    assert [box.node for box in layout.boxes] == list(graph.nodes)
    for one, other in itertools.combinations(layout.boxes, 2):
        if one.column == other.column:
            assert abs(one.y - other.y) > (one.height + other.height) / 2
        else:
            left, right = sorted((one, other), key=lambda box: box.column)
            assert left.x + left.width < right.x
    panels = {panel.lifetime: panel for panel in layout.panels}
    for box in layout.boxes:
        panel = panels[box.node.lifetime]
        assert panel.x < box.x
        assert box.x + box.width < panel.x + panel.width
        assert box.y - box.height / 2 > 44  # beneath the heading
        assert box.y + box.height / 2 < layout.height
    for left, right in itertools.pairwise(layout.panels):
        assert left.x + left.width < right.x
    assert layout.panels[-1].x + layout.panels[-1].width < layout.width


@each_graph
def test_a_line_passes_each_column_between_two_boxes(graph: ProviderGraph) -> None:
    layout = laid_out(graph)
    assert [edge for edge, _ in layout.lines] == list(graph.edges)
    for edge, line in layout.lines:
        assert (line[0].node.id, line[-1].node.id) == (edge.source, edge.target)
        assert {abs(a.column - b.column) for a, b in itertools.pairwise(line)} == {1}
        for bend in line[1:-1]:
            assert bend.node is None
            for box in layout.boxes:
                if box.column == bend.column:
                    assert (box.x, box.width) == (bend.x, bend.width)
                    assert abs(box.y - bend.y) > box.height / 2


@each_graph
def test_what_is_written_fits(graph: ProviderGraph) -> None:
    for box in laid_out(graph).boxes:
        assert len(box.label) <= LONGEST
        assert box.node.name.startswith(box.label.rstrip("…"))
        assert len(box.label) * LETTER <= box.width - 2 * 12


def test_few_lines_cross() -> None:
    """Two objects that ask for one each, in the other order."""
    names = "abcd"
    nodes = [Node(n, n, "request" if n in "ab" else "app", "call", "") for n in names]
    layout = laid_out(ProviderGraph(tuple(nodes), (Edge("a", "d"), Edge("b", "c"))))
    y = {box.node.id: box.y for box in layout.boxes if box.node}
    assert (y["a"] < y["b"]) == (y["d"] < y["c"])


def test_nothing_to_draw_has_a_size_all_the_same() -> None:
    layout = laid_out(EMPTY)
    assert layout.boxes == layout.lines == layout.panels == []
    assert min(layout.width, layout.height) > 0
