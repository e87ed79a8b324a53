"""The graph of a container as a plain value, for drawings and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from .compiling import Alias, is_closed
from .keys import label_of
from .plans import Perhaps

if TYPE_CHECKING:
    from .compiling import Compiler
    from .plans import Plan
    from .providers import Provider

__all__ = ["Edge", "Node", "ProviderGraph", "graph_of"]


@attrs.frozen
class Node:
    """
    One object that a container provides. A value.

    Attributes:
        id: unique in its graph.
        name: the type it is asked for by, as it is written.
        lifetime: of `Lifetime`'s values; `offered` for what each scope has anyhow.
        how: `value`, `call`, `async call`, `manager`, `async manager`, `alias` or `offered`.
        place: `file:line` where it was registered; empty for what is offered.
    """

    id: str
    name: str
    lifetime: str
    how: str
    place: str


@attrs.frozen
class Edge:
    """
    One thing asked for. A value.

    Attributes:
        source, target: ids of nodes; the source asks for the target.
        is_alias: it does not ask, but is another name of it.
    """

    source: str
    target: str
    is_alias: bool = False


@attrs.frozen
class ProviderGraph:
    """What a container provides, and what asks for what. A value, in the order of registration."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class _Drawing:
    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self.ids: dict[Any, str] = {}
        self.nodes: list[Node] = []
        self.edges: dict[Edge, None] = {}

    def add(self, plan: Plan) -> str:
        """The id of a plan's node, drawn if it is not yet."""
        plan = plan.offered if isinstance(plan, Perhaps) else plan
        identity: Any = plan.provider or plan
        if identity not in self.ids:
            self.ids[identity] = self._new_id(plan.name)
            self.nodes.append(_node(self.ids[identity], plan))
            for _, key, part in plan.parts:
                self.edges[Edge(self.ids[identity], self.add_asked(key, part))] = None
        return self.ids[identity]

    def add_asked(self, key: Any, plan: Plan) -> str:
        """The id of what somebody asks for by `key`: of the alias, if that leads to the plan."""
        for entry in self.compiler.registered.get(key, ()):
            if isinstance(entry, Alias) and self.compiler._plan_of(entry, []) is plan:
                return self.add_alias(entry, plan)
        return self.add(plan)

    def add_alias(self, alias: Alias, plan: Plan) -> str:
        """The id of another name of an object, drawn if it is not yet."""
        if alias not in self.ids:
            name = label_of(alias.key)
            own = self.ids[alias] = self._new_id(name)
            lifetime = plan.provider.lifetime.value if plan.provider else "offered"
            self.nodes.append(Node(own, name, lifetime, "alias", alias.place))
            self.edges[Edge(own, self.add_asked(alias.target, plan), is_alias=True)] = None
        return self.ids[alias]

    def add_pattern(self, provider: Provider) -> None:
        """Draw what is made for each type that is asked for; what it needs depends on that."""
        own = self.ids[provider] = self._new_id(provider.name)
        self.nodes.append(_node_of(own, provider.name, provider))

    def _new_id(self, name: str) -> str:
        taken = sum(1 for node_id in self.ids.values() if node_id.partition("#")[0] == name)
        return f"{name}#{taken + 1}" if taken else name


def _node(node_id: str, plan: Plan) -> Node:
    provider = plan.provider
    if provider is None:
        return Node(node_id, plan.name, "offered", "offered", "")
    return _node_of(node_id, plan.name, provider)


def _node_of(node_id: str, name: str, provider: Provider) -> Node:
    return Node(node_id, name, provider.lifetime.value, provider.kind.value, provider.place)


def graph_of(compiler: Compiler) -> ProviderGraph:
    """The graph of everything that was registered, and what that asks for."""
    drawing = _Drawing(compiler)
    for entries in compiler.registered.values():
        for entry in entries:
            if isinstance(entry, Alias):
                drawing.add_alias(entry, compiler._plan_of(entry, []))
            elif is_closed(entry):
                drawing.add(compiler._plan_of(entry, []))
            else:
                drawing.add_pattern(entry)
    return ProviderGraph(tuple(drawing.nodes), tuple(drawing.edges))
