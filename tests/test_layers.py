"""Layers import downward only, and `import ringfence` loads nothing of a partner."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parent

LAYERS: dict[float, str] = {
    0: "counters errors identifiers identity protocols settings",
    1: "checks closing context copies drafts finalisers generators isolation offers records "
    "refusals scope starting state tasks",
    2: "concurrency current fence ownership shutdown streaming __init__",
    3.0: "injection",
    3.1: "audit",
    3.2: "events",
    3.3: "propagation",
    3.4: "agents",
    4: "integrations legacy migrate",
    5: "inspector testing pytest_plugin cli __main__",
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms.split()}
CORE = [room for room, layer in LAYER_OF.items() if layer <= 2]
OURS_AND_ALLOWED = {"ringfence", "attr", "attrs", "anyio"}
LAZY = {"trio"}  # imported where the code runs on it already
OF_ANYIO = {"typing_extensions", "sniffio"}  # its own: what it needs on some Pythons, and if there


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that is carried out, wherever it stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif _is_type_checking(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield from _imports(ast.Module([other], []))
        else:
            yield from _imports(child)


def _rooms(node: ast.Import | ast.ImportFrom, parts: tuple[str, ...]) -> Iterator[str]:
    """The rooms of ringfence that an import in the module `parts` reaches."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top, _, rest = alias.name.partition(".")
            if top == "ringfence":
                yield rest.partition(".")[0] or "__init__"
        return
    module = (node.module or "").split(".") if node.module else []
    if node.level:
        base = list(parts[: len(parts) - node.level])
    elif module[:1] == ["ringfence"]:
        base, module = [], module[1:]
    else:
        return
    path = base + module
    if path:
        yield path[0]
    else:
        for alias in node.names:
            yield alias.name if alias.name in LAYER_OF else "__init__"


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(SOURCE).with_suffix("").parts


def _upward(source: str, parts: tuple[str, ...]) -> list[str]:
    own = LAYER_OF[parts[0]]
    return [
        f"{'.'.join(parts)}:{node.lineno} imports {room}"
        for node in _imports(ast.parse(source))
        for room in _rooms(node, parts)
        if room != parts[0] and LAYER_OF[room] > own
    ]


def test_every_module_has_its_layer() -> None:
    assert {_parts(path)[0] for path in SOURCE.rglob("*.py")} <= set(LAYER_OF)


def test_no_module_imports_upward() -> None:
    found: list[str] = []
    for path in SOURCE.rglob("*.py"):
        found += _upward(path.read_text(), _parts(path))
    assert found == []


@pytest.mark.parametrize(
    ("source", "parts", "upward"),
    [
        ("from .current import x", ("scope",), 1),
        ("from . import fence, errors", ("scope",), 1),
        ("import ringfence.current", ("scope",), 1),
        ("from ringfence import user_context", ("scope",), 1),
        ("def f():\n    from .fence import Ringfence", ("context",), 1),
        ("try:\n    from .fence import Ringfence\nexcept ImportError:\n    pass", ("context",), 1),
        ("from ..integrations.asgi import x", ("agents", "registry"), 1),
        ("from ..agents import x", ("injection", "container"), 1),
        ("from ..injection import x", ("agents", "registry"), 0),
        ("from . import asgi", ("integrations", "starlette"), 0),
        ("from .. import counters", ("integrations", "asgi"), 0),
        ("from ..testing import x", ("integrations", "asgi"), 1),
        ("if TYPE_CHECKING:\n    from .fence import Ringfence", ("scope",), 0),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from .fence import Ringfence", ("scope",), 1),
        ("from .errors import X\nimport anyio", ("scope",), 0),
    ],
)
def test_the_check_finds_what_it_should(source: str, parts: tuple[str, ...], upward: int) -> None:
    assert len(_upward(source, parts)) == upward


def test_there_is_no_circle_in_the_core() -> None:
    graph: dict[str, set[str]] = {}
    for room in CORE:
        path = SOURCE / f"{room}.py"
        graph[room] = {
            other
            for node in _imports(ast.parse(path.read_text()))
            for other in _rooms(node, (room,))
            if other != room
        }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order[-1] == "__init__"


def test_the_core_imports_the_standard_library_attrs_and_anyio() -> None:
    allowed = set(sys.stdlib_module_names) | OURS_AND_ALLOWED
    for room in CORE:
        tree = ast.parse((SOURCE / f"{room}.py").read_text())
        at_the_top = set(filter(lambda node: node in tree.body, _imports(tree)))
        for node in _imports(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""] * (node.level == 0)
            )
            for name in names:
                top = name.partition(".")[0]
                assert top in allowed or (top in LAZY and node not in at_the_top), (room, name)


FRESH = """
import sys
before = set(sys.modules)
import ringfence
{then}
print(*sorted(set(sys.modules) - before))
"""


def _loaded(then: str = "") -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(then=then)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_ringfence_loads_no_partner_and_no_higher_layer() -> None:
    loaded = _loaded()
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert {"ringfence", "attr", "anyio"} <= foreign
    assert foreign <= OURS_AND_ALLOWED | OF_ANYIO
    rooms = {name.split(".")[1] for name in loaded if name.startswith("ringfence.")}
    assert rooms <= set(CORE)
    assert "current" in rooms


def test_using_the_core_loads_no_partner_either() -> None:
    then = """
import anyio
async def main():
    async with ringfence.user_context("u-17") as ctx:
        ctx.to_dict(); ctx.get_audit_trail(); ctx.verify_isolation()
        await ringfence.current_scope().enter(anyio.Lock())
        async with ringfence.task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
anyio.run(main)
"""
    foreign = {name.partition(".")[0] for name in _loaded(then)} - set(sys.stdlib_module_names)
    assert foreign <= OURS_AND_ALLOWED | OF_ANYIO
