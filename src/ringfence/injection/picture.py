"""The graph of a container as a picture: SVG, for a person to look at."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from .graph import Edge, Node, ProviderGraph
from .layout import HEIGHT, Box, Panel, laid_out
from .written import LIFETIMES, short_place

__all__ = ["as_svg"]

COLOURS = {
    "transient": ("#6b7280", "#f4f5f7"),
    "operation": ("#0f766e", "#eefaf8"),
    "request": ("#1d4ed8", "#eff5ff"),
    "offered": ("#92400e", "#fdf6ea"),
    "user": ("#7e22ce", "#f8f2fe"),
    "app": ("#15803d", "#eefaf1"),
}
"""Of the text and lines of a lifetime, and of its ground."""

FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
DASHES = ' stroke-dasharray="4 3"'
"""Of an alias, and of the line to what it is a name of."""

HEAD = 7  # pixels of an arrow, which ends where the box begins


def as_svg(graph: ProviderGraph) -> str:
    """A picture by itself: it needs no other file. Pointing at a box shows what it is."""
    layout = laid_out(graph)
    size = f"{layout.width:.0f} {layout.height:.0f}"
    width, height = size.split()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width}" '
        f'height="{height}" font-family="{FONT}" font-size="13" role="img" '
        'aria-label="What is provided, by lifetime, and what asks for what">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_panel(panel, layout.height) for panel in layout.panels),
        *(_line(edge, line) for edge, line in layout.lines),
        *(_box(box, box.node) for box in layout.boxes if box.node is not None),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, height: float) -> str:
    dark, light = COLOURS[panel.lifetime]
    return (
        f'<rect x="{panel.x:.0f}" y="10" width="{panel.width:.0f}" height="{height - 20:.0f}" '
        f'rx="10" fill="{light}"/>'
        f'<text x="{panel.x + 18:.0f}" y="36" fill="{dark}"><tspan font-weight="bold">'
        f"{panel.lifetime}</tspan>: {LIFETIMES[panel.lifetime]}</text>"
    )


def _line(edge: Edge, line: list[Box]) -> str:
    """From box to box; straight through the columns that it only passes."""
    source, target = line[0], line[-1]
    forward = 1 if source.column < target.column else -1
    stops: list[tuple[float, float]] = []
    for box in line:
        near, far = (box.x, box.x + box.width)[::forward]
        stops += [(near, box.y), (far, box.y)]
    (x, y), *ways, (end, end_y) = stops[1:-1]
    end -= forward * HEAD
    path = f"M{x:.1f} {y:.1f}"
    for number, (to_x, to_y) in enumerate([*ways, (end, end_y)]):
        if number % 2:
            path += f"H{to_x:.1f}"
        else:
            middle = (x + to_x) / 2
            path += f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
    dark, _ = COLOURS[_node(source).lifetime]
    head = f"M{end + forward * HEAD:.1f} {end_y:.1f}l{-forward * HEAD} -4v8z"
    says = "is another name of" if edge.is_alias else "asks for"
    dashes = DASHES if edge.is_alias else ""
    return (
        f"<g><title>{escape(_node(source).name)} {says} {escape(_node(target).name)}</title>"
        f'<path d="{path}" fill="none" stroke="{dark}" stroke-width="1.3" stroke-opacity="0.6"'
        f"{dashes}/>"
        f'<path d="{head}" fill="{dark}"/></g>'
    )


def _node(box: Box) -> Node:
    return box.node  # type: ignore[return-value]  # a line begins and ends at an object


def _box(box: Box, node: Node) -> str:
    dark, _ = COLOURS[node.lifetime]
    about = " · ".join(filter(None, (node.how if node.how != "offered" else "", short_place(node))))
    top = box.y - HEIGHT / 2
    dashes = DASHES if node.how == "alias" else ""
    first = box.y + (-3 if about else 4.5)
    said = escape(f"{node.name}\n{node.lifetime}, {node.how}\n{node.place}".strip())
    text = f'<text x="{box.x + 12:.0f}" y="{first:.1f}" fill="#111827">{escape(box.label)}</text>'
    if about:
        text += (
            f'<text x="{box.x + 12:.0f}" y="{box.y + 12:.1f}" font-size="10" '
            f'fill="#4b5563">{escape(about)}</text>'
        )
    return (
        f"<g id={quoteattr(node.id)}><title>{said}</title>"
        f'<rect x="{box.x:.0f}" y="{top:.1f}" width="{box.width:.0f}" height="{HEIGHT:.0f}" '
        f'rx="5" fill="#ffffff" stroke="{dark}"{dashes}/>{text}</g>'
    )
