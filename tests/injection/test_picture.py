"""The picture is well-formed, needs no other file, and shows every object and line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ringfence.injection import ProviderGraph
from ringfence.injection.picture import COLOURS, as_svg
from ringfence.injection.written import LIFETIMES

from .graphs import EMPTY, SMALL, large

SVG = "{http://www.w3.org/2000/svg}"


def test_every_lifetime_has_a_colour() -> None:
    assert COLOURS.keys() == LIFETIMES.keys()
    assert len(set(COLOURS.values())) == len(COLOURS)


@pytest.mark.parametrize("graph", [SMALL, EMPTY, large(1)], ids=["small", "empty", "large"])
def test_every_object_and_line_is_there(graph: ProviderGraph) -> None:
    drawn = as_svg(graph)
    assert drawn == as_svg(graph)
    assert set(re.findall(r"https?://[^\"]+", drawn)) == {"http://www.w3.org/2000/svg"}
    root = ET.fromstring(drawn)
    groups = root.findall(f"{SVG}g")
    assert {g.get("id") for g in groups if g.get("id")} == {node.id for node in graph.nodes}
    assert sum(g.get("id") is None for g in groups) == len(graph.edges)
    numbers = [
        float(n) for p in root.iter(f"{SVG}path") for n in re.findall(r"\d+\.\d", p.get("d"))
    ]
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert all(0 < number < max(width, height) for number in numbers)


def test_a_box_says_what_it_is() -> None:
    root = ET.fromstring(as_svg(SMALL))
    (box,) = [g for g in root.iter(f"{SVG}g") if g.get("id") == "Pool#2"]
    assert box.findtext(f"{SVG}title") == (
        'Annotated[Pool, Qualifier("a<b>&#\\")]\napp, value\n/srv/app.py:8'
    )
    assert [text.text for text in box.iter(f"{SVG}text")] == [
        'Annotated[Pool, Qualifier("a<b>&#\\")]', "value · app.py:8"
    ]  # fmt: skip


@pytest.mark.parametrize(("pair", "goes_right"), [("Memory>Pool", True), ("Pool>Part", False)])
def test_an_arrow_ends_where_the_box_begins(pair: str, goes_right: bool) -> None:
    root = ET.fromstring(as_svg(SMALL))
    source, target = pair.split(">")
    (line,) = [
        g
        for g in root.iter(f"{SVG}g")
        if g.findtext(f"{SVG}title") == f"{source} asks for {target}"
    ]
    boxes = {g.get("id"): g.find(f"{SVG}rect") for g in root.iter(f"{SVG}g")}
    _, head = line.findall(f"{SVG}path")
    x, y = map(float, re.match(r"M(\S+) ([^l]+)l", head.get("d", "")).groups())  # type: ignore[union-attr]
    box = {key: float(boxes[target].get(key)) for key in ("x", "y", "width", "height")}  # type: ignore[union-attr, arg-type]
    assert x == pytest.approx(box["x"] if goes_right else box["x"] + box["width"], abs=1)
    assert y == pytest.approx(box["y"] + box["height"] / 2, abs=1)


def test_the_line_of_an_alias_is_broken_and_no_other() -> None:
    root = ET.fromstring(as_svg(SMALL))
    broken = [
        g.findtext(f"{SVG}title")
        for g in root.iter(f"{SVG}g")
        if g.get("id") is None and g.find(f"{SVG}path").get("stroke-dasharray")  # type: ignore[union-attr]
    ]
    assert broken == ["Source is another name of Pool"]
