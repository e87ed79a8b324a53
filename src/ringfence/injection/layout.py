"""Where each object of a graph is drawn: in columns by lifetime, lines going round the boxes."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict

import attrs

from .graph import Edge, Node, ProviderGraph
from .written import LIFETIMES, grouped, short_place

__all__ = ["Box", "Layout", "Panel", "laid_out"]

LETTER = 7.83  # of a monospaced font of 13 pixels: 0.602 of its size, whichever it is
LONGEST = 40  # letters; the rest is in the tool tip
HEIGHT, GAP = 40.0, 14.0
BEND = 12.0  # what a line that passes takes of a column
BETWEEN, MARGIN, HEADING = 48.0, 18.0, 44.0
SWEEPS = 12


@attrs.define(eq=False)
class Box:
    """
    One thing in a column: an object, or where a line passes between two. In pixels.

    Attributes:
        y: of its middle.
        node: `None` where a line passes.
    """

    column: int
    height: float
    width: float = 0.0
    node: Node | None = None
    x: float = 0.0
    y: float = 0.0
    before: list[Box] = attrs.field(factory=list)
    after: list[Box] = attrs.field(factory=list)

    @property
    def label(self) -> str:
        """The name, cut where it is too long to draw."""
        name = "" if self.node is None else self.node.name
        return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


@attrs.frozen
class Panel:
    """The ground of one lifetime. In pixels."""

    lifetime: str
    x: float
    width: float


@attrs.frozen
class Layout:
    """
    A drawing to be made. A value, in pixels.

    Attributes:
        lines: for each edge the boxes that it goes through, from the one that asks.
    """

    boxes: list[Box]
    lines: list[tuple[Edge, list[Box]]]
    panels: list[Panel]
    width: float
    height: float


def laid_out(graph: ProviderGraph) -> Layout:
    """Work out where everything goes."""
    columns = _columns(graph)
    boxes = {node.id: Box(columns[node.id], HEIGHT, _width(node), node) for node in graph.nodes}
    lines = [(edge, _line(boxes[edge.source], boxes[edge.target])) for edge in graph.edges]
    every = dict.fromkeys([*boxes.values(), *(box for _, line in lines for box in line)])
    stacks: dict[int, list[Box]] = defaultdict(list)
    for box in every:
        stacks[box.column].append(box)
    ordered = [stacks[column] for column in sorted(stacks)]
    _order(ordered)
    height = _place_down(ordered)
    panels, width = _place_across(graph, columns, ordered)
    return Layout(list(boxes.values()), lines, panels, width, height)


def _width(node: Node) -> float:
    letters = max(min(len(node.name), LONGEST), (len(node.how) + len(short_place(node)) + 3) * 0.8)
    return math.ceil(letters * LETTER) + 24


# --- columns ----------------------------------------------------------------------------------


def _columns(graph: ProviderGraph) -> dict[str, int]:
    """A run of columns for each lifetime: what is asked for stands right of what asks."""
    columns: dict[str, int] = {}
    first = 0
    for _, group in grouped(graph):
        inside = {node.id for node in group}
        asking: dict[str, list[str]] = {node.id: [] for node in group}
        for edge in graph.edges:
            if edge.source in inside and edge.target in inside:
                asking[edge.target].append(edge.source)
        depths: dict[str, int] = {}
        for node in group:
            _depth(node.id, asking, depths)
        columns.update({node_id: first + depth for node_id, depth in depths.items()})
        first += max(depths.values()) + 1
    return columns


def _depth(node_id: str, asking: dict[str, list[str]], depths: dict[str, int]) -> int:
    if node_id not in depths:
        above = [_depth(other, asking, depths) for other in asking[node_id]]
        depths[node_id] = max(above, default=-1) + 1
    return depths[node_id]


def _line(source: Box, target: Box) -> list[Box]:
    """The two, and a bend in each column between them, tied to one another for the ordering."""
    step = 1 if source.column < target.column else -1
    between = range(source.column + step, target.column, step)
    line = [source, *(Box(column, BEND) for column in between), target]
    leftmost_first = line[::step]
    for left, right in itertools.pairwise(leftmost_first):
        left.after.append(right)
        right.before.append(left)
    return line


# --- down -------------------------------------------------------------------------------------


def _order(stacks: list[list[Box]]) -> None:
    """Each column in the order of what its boxes are tied to, so that few lines cross."""
    best, fewest = [list(stack) for stack in stacks], math.inf
    for sweep in range(SWEEPS):
        there = sweep % 2 == 0
        for stack in stacks if there else reversed(stacks):
            ranks = _ranks(stacks)
            stack.sort(key=lambda box: _mean(box.before if there else box.after, ranks, box))
        crossings = _crossings(stacks)
        if crossings < fewest:
            best, fewest = [list(stack) for stack in stacks], crossings
    stacks[:] = best


def _ranks(stacks: list[list[Box]]) -> dict[Box, float]:
    return {box: (rank + 0.5) / len(stack) for stack in stacks for rank, box in enumerate(stack)}


def _mean(boxes: list[Box], positions: dict[Box, float], box: Box) -> float:
    if not boxes:
        return positions[box]
    return sum(positions[other] for other in boxes) / len(boxes)


def _crossings(stacks: list[list[Box]]) -> int:
    ranks = {box: rank for stack in stacks for rank, box in enumerate(stack)}
    crossings = 0
    for stack in stacks:
        ends: list[int] = []
        for _, end in sorted((ranks[box], ranks[other]) for box in stack for other in box.after):
            crossings += len(ends) - bisect.bisect_right(ends, end)  # of those that begin above
            bisect.insort(ends, end)
    return crossings


def _place_down(stacks: list[list[Box]]) -> float:
    for stack in stacks:
        _settle(stack, [0.0] * len(stack))
    for sweep in range(SWEEPS):
        for stack in stacks if sweep % 2 == 0 else reversed(stacks):
            _settle(stack, _wanted(stack))
    boxes = [box for stack in stacks for box in stack]
    top = min((box.y - box.height / 2 for box in boxes), default=0.0)
    for box in boxes:
        box.y += HEADING + MARGIN - top
    return max((box.y + box.height / 2 for box in boxes), default=HEADING) + 2 * MARGIN


def _wanted(stack: list[Box]) -> list[float]:
    """Beside what a box is tied to; beneath the one above if it is tied to nothing."""
    wanted: list[float] = []
    for above, box in zip([None, *stack], stack, strict=False):
        tied = [*box.before, *box.after]
        if tied:
            wanted.append(sum(other.y for other in tied) / len(tied))
        else:
            wanted.append(box.y if above is None else wanted[-1] + _apart(above, box))
    return wanted


def _settle(stack: list[Box], wanted: list[float]) -> None:
    """As near as can be to where they are wanted, in this order, none over another."""
    down, up = list(wanted), list(wanted)
    for i in range(1, len(stack)):
        down[i] = max(down[i], down[i - 1] + _apart(stack[i - 1], stack[i]))
    for i in reversed(range(len(stack) - 1)):
        up[i] = min(up[i], up[i + 1] - _apart(stack[i], stack[i + 1]))
    for box, low, high in zip(stack, down, up, strict=True):
        box.y = (low + high) / 2  # between two that keep the distances, it keeps them too


def _apart(above: Box, below: Box) -> float:
    return (above.height + below.height) / 2 + (GAP if above.node and below.node else GAP / 2)


# --- across -----------------------------------------------------------------------------------


def _place_across(
    graph: ProviderGraph, columns: dict[str, int], stacks: list[list[Box]]
) -> tuple[list[Panel], float]:
    x, panels = MARGIN, []
    for lifetime, group in grouped(graph):
        start = x
        own = sorted({columns[node.id] for node in group})
        for column in own:
            x += MARGIN if column == own[0] else BETWEEN
            width = max(box.width for box in stacks[column])
            for box in stacks[column]:
                box.x, box.width = x, width
            x += width
        x = max(x + MARGIN, start + _heading(lifetime))
        panels.append(Panel(lifetime, start, x - start))
        x += BETWEEN
    return panels, max(x - BETWEEN, 0.0) + MARGIN


def _heading(lifetime: str) -> float:
    return (len(lifetime) + len(LIFETIMES[lifetime]) + 2) * LETTER + 2 * MARGIN
