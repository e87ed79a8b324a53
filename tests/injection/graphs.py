"""Graphs to draw: a small one with one of everything, and large ones by a seed."""

from __future__ import annotations

import random

from ringfence.injection import Edge, Node, ProviderGraph
from ringfence.injection.written import LIFETIMES

SMALL = ProviderGraph(
    (
        Node("Shop", "Shop", "request", "call", "/srv/app.py:3"),
        Node("Part", "Part", "transient", "call", "/srv/app.py:4"),
        Node("Orders", "Orders", "request", "async manager", "/srv/app.py:5"),
        Node("Identity", "Identity", "offered", "offered", ""),
        Node("Memory", "Memory", "user", "call", "/srv/app.py:6"),
        Node("Pool", "Pool", "app", "manager", "C:\\srv\\app.py:7"),
        Node("Pool#2", 'Annotated[Pool, Qualifier("a<b>&#\\")]', "app", "value", "/srv/app.py:8"),
        Node("Source", "Source", "app", "alias", "/srv/app.py:9"),
    ),
    tuple(
        Edge(*pair.split(">"), is_alias=pair.startswith("Source"))
        for pair in "Shop>Orders Shop>Pool Orders>Memory Memory>Identity Memory>Pool Pool>Part "
        "Source>Pool Orders>Pool#2".split()
    ),
)
EMPTY = ProviderGraph((), ())


def large(seed: int, count: int = 40) -> ProviderGraph:
    """Objects that ask for some of those that live as long or longer."""
    chance = random.Random(seed)
    order = list(LIFETIMES)
    nodes = [
        Node(f"n{i}", "N" * chance.randint(1, 60), chance.choice(order), "call", f"a.py:{i}")
        for i in range(count)
    ]
    edges = [
        Edge(one.id, other.id)
        for i, one in enumerate(nodes)
        for other in nodes[i + 1 :]
        if order.index(one.lifetime) <= order.index(other.lifetime) and chance.random() < 0.1
    ]
    return ProviderGraph(tuple(nodes), tuple(edges))
