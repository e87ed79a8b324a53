"""Objects made by type, living exactly as long as the context that they belong to."""

from .container import Container
from .graph import Edge, Node, ProviderGraph
from .injecting import inject
from .keys import Injected, Qualifier
from .lifetimes import Lifetime

__all__ = [
    "Container",
    "Edge",
    "Injected",
    "Lifetime",
    "Node",
    "ProviderGraph",
    "Qualifier",
    "inject",
]
