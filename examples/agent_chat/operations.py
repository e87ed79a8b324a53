"""The tree of what ran for one question, as its answer carries it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ringfence import current_context


@dataclass
class Operation:
    """One node. Plain facts: it may outlive the scope that it tells of."""

    operation: str
    request_id: str
    depth: int
    children: list[Operation] = field(default_factory=list)

    @classmethod
    def here(cls, name: str) -> Operation:
        """The scope that is open here."""
        ctx = current_context()
        return cls(name, ctx.request_id, ctx.operation_depth)

    def add(self, name: str) -> Operation:
        """The scope that is open here, beneath this one."""
        child = Operation.here(name)
        self.children.append(child)
        return child
