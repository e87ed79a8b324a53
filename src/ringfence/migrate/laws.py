"""What will meet the laws of ringfence: tasks that outlive a scope, scopes in generators."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Finding
from .names import Names
from .receivers import receiver
from .rules import RULES
from .tree import dotted

__all__ = ["laws"]

BLOCKS = ("child_context", "managed_user_context", "nobody", "user_context")
TASKS = ("create_task", "ensure_future", "gather", "run_coroutine_threadsafe")
OPENERS = ("asyncio", "loop", "self.loop", "self._loop", "event_loop")
"""Receivers of those calls; a task group's own `create_task` waits for its tasks."""
DRIVEN = ("asynccontextmanager", "contextmanager", "fixture")
"""Decorators under which a generator is entered and left by somebody who is known."""


def laws(names: Names, node: cst.CSTNode) -> Iterator[Finding]:
    """What is to be said of one task or generator."""
    if isinstance(node, cst.Call) and _begins_task(node) and _is_bound(names, node):
        yield names.tree.finding("RM401", node, reason=RULES["RM401"].why)
    elif isinstance(node, cst.FunctionDef) and _carries_context(names, node):
        yield names.tree.finding("RM402", node.name, reason=RULES["RM402"].why)


def _begins_task(node: cst.Call) -> bool:
    receiver, _, method = (dotted(node.func) or "").rpartition(".")
    return method in TASKS and receiver in ("", *OPENERS)


def _is_bound(names: Names, node: cst.Call) -> bool:
    """In a block of a context, or handed one."""
    for around in names.tree.around(node):
        if isinstance(around, cst.FunctionDef):
            break
        if _is_block(around):
            return True
    return _mentions(names, node)


def _is_block(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.With) and any(
        isinstance(item.item, cst.Call)
        and (dotted(item.item.func) or "").rpartition(".")[2] in BLOCKS
        for item in node.items
    )


def _mentions(names: Names, node: cst.CSTNode) -> bool:
    return any(
        isinstance(inner, (cst.Name, cst.Attribute)) and receiver(names, inner) is not None
        for inner in names.tree.inside(node)
    )


def _carries_context(names: Names, node: cst.FunctionDef) -> bool:
    if any(_decorator(decorator) in DRIVEN for decorator in node.decorators):
        return False
    own = names.scopes[node]
    inside = [inner for inner in names.tree.inside(node) if names.scopes.get(inner) is own]
    if not any(isinstance(inner, cst.Yield) for inner in inside):
        return False
    if any(_is_block(inner) for inner in inside):
        return True
    return node.asynchronous is not None and any(
        isinstance(inner, (cst.Name, cst.Attribute)) and receiver(names, inner) is not None
        for inner in inside
    )


def _decorator(decorator: cst.Decorator) -> str:
    node = decorator.decorator
    called = node.func if isinstance(node, cst.Call) else node
    return (dotted(called) or "").rpartition(".")[2]
