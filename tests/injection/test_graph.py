"""The graph of a container is a plain value."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

import attrs

from ringfence import UserExecutionContext
from ringfence.injection import Container, Edge, Lifetime, Node

T = TypeVar("T")


class Address:
    pass


class Pool:
    pass


class Repository:
    def __init__(self, pool: Pool, ctx: UserExecutionContext) -> None: ...


class Reading(Protocol):
    def read(self) -> str: ...


class Store(Generic[T]):
    def __init__(self, kind: type[T]) -> None: ...


async def connect(address: Address) -> AsyncIterator[Pool]:
    raise NotImplementedError
    yield


def test_its_nodes_and_edges() -> None:
    container = Container()
    container.provide(Repository)
    container.provide(connect, lifetime=Lifetime.APP)
    container.provide(value=Address())
    container.alias(Reading, Repository)
    container.provide(Store)
    graph = container.graph()
    assert [attrs.evolve(node, place="") for node in graph.nodes] == [
        Node("Repository", "Repository", "request", "call", ""),
        Node("Pool", "Pool", "app", "async manager", ""),
        Node("Address", "Address", "app", "value", ""),
        Node("UserExecutionContext", "UserExecutionContext", "offered", "offered", ""),
        Node("Reading", "Reading", "request", "alias", ""),
        Node("Store", "Store", "request", "call", ""),
    ]
    assert set(graph.edges) == {
        Edge("Repository", "Pool"),
        Edge("Pool", "Address"),
        Edge("Repository", "UserExecutionContext"),
        Edge("Reading", "Repository", is_alias=True),
    }
    places = {node.name: node.place for node in graph.nodes}
    assert places["UserExecutionContext"] == ""
    line = connect.__code__.co_firstlineno
    assert places["Pool"].endswith(f"test_graph.py:{line}")
    assert places["Repository"] != places["Address"]


def test_several_of_a_type_are_told_apart() -> None:
    container = Container()

    class Choir:
        def __init__(self, pools: list[Pool]) -> None: ...

    container.provide(Pool)
    container.provide(lambda: Pool(), gives=Pool)
    container.provide(Choir)
    graph = container.graph()
    assert [node.id for node in graph.nodes] == ["Pool", "Pool#2", "Choir", "list[Pool]"]
    assert Edge("list[Pool]", "Pool#2") in graph.edges
    assert Edge("Choir", "list[Pool]") in graph.edges


def test_who_asks_for_an_alias_is_drawn_as_asking_for_it() -> None:
    class Reader:
        def __init__(self, reading: Reading) -> None: ...

    class Readers:
        def __init__(self, readings: list[Reading]) -> None: ...

    container = Container()
    container.provide(Reader)
    container.provide(Readers)
    container.alias(Reading, Address)
    container.alias(Address, Pool)
    container.provide(Pool)
    assert set(container.graph().edges) == {
        Edge("Reader", "Reading"),
        Edge("Readers", "list[Reading]"),
        Edge("list[Reading]", "Reading"),
        Edge("Reading", "Address", is_alias=True),
        Edge("Address", "Pool", is_alias=True),
    }


def test_of_several_aliases_of_one_name_each_is_drawn() -> None:
    class Readers:
        def __init__(self, readings: list[Reading]) -> None: ...

    container = Container()
    container.provide(Readers)
    container.alias(Reading, Address)
    container.alias(Reading, Pool)
    container.provide(Address)
    container.provide(Pool)
    edges = set(container.graph().edges)
    assert {Edge("list[Reading]", "Reading"), Edge("list[Reading]", "Reading#2")} <= edges
    assert Edge("Reading#2", "Pool", is_alias=True) in edges
