"""What docstrings show runs: every `>>>`, and every block after `::` at least compiles."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parent
PATHS = sorted(path for path in SOURCE.rglob("*.py") if path.stem != "__main__")
DRAWING = "─"  # trees are drawn, not run


def _module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text


def _blocks(text: str) -> Iterator[str]:
    """The indented blocks after lines that end in `::`, as reStructuredText has them."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.rstrip().endswith("::"):
            continue
        indent = len(line) - len(line.lstrip())
        block = []
        for following in lines[number + 1 :]:
            if following.strip() and len(following) - len(following.lstrip()) <= indent:
                break
            block.append(following)
        yield textwrap.dedent("\n".join(block)).strip("\n")


def _examples(path: Path) -> list[doctest.DocTest]:
    module = pytest.importorskip(_module_name(path))
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


BLOCKS = [
    pytest.param(block, id=f"{_module_name(path)}:{name}:{number}")
    for path in PATHS
    for name, text in _docstrings(path)
    for number, block in enumerate(_blocks(text))
    if DRAWING not in block
]


@pytest.mark.filterwarnings("ignore:ringfence.legacy:DeprecationWarning")  # as Python does
@pytest.mark.parametrize("path", PATHS, ids=_module_name)
def test_doctests(path: Path) -> None:
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in _examples(path):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_compile_as_the_body_of_an_async_function(block: str) -> None:
    body = ast.parse(f"async def example():\n{textwrap.indent(block, '    ')}")
    assert len(body.body[0].body) >= 1  # type: ignore[attr-defined]
    compile(body, "<docstring>", "exec")


def test_there_are_many_of_both() -> None:
    """Otherwise the tests above would prove nothing."""
    core = [path for path in PATHS if path.parent == SOURCE]
    assert sum(len(test.examples) for path in core for test in _examples(path)) >= 10
    assert len(BLOCKS) >= 10


def test_names_that_blocks_take_from_ringfence_are_there() -> None:
    for parameter in BLOCKS:
        for node in ast.walk(ast.parse(textwrap.dedent(parameter.values[0]))):  # type: ignore[arg-type]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ringfence"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_what_a_block_is() -> None:
    text = """
    First.

    Say::

        async with x():
            await y

    And::
        no blank line

    Args:
        a: b.
    """
    assert list(_blocks(textwrap.dedent(text))) == [
        "async with x():\n    await y",
        "no blank line",
    ]


@pytest.mark.parametrize("path", PATHS, ids=_module_name)
def test_every_raises_section_names_errors_that_exist(path: Path) -> None:
    known = set(ringfence.__all__) | set(dir(builtins))
    for name, text in _docstrings(path):
        section = re.search(r"^Raises:\n((?:    .*\n?|\n)+)", text + "\n", re.M)
        for line in section[1].splitlines() if section else []:
            if match := re.match(r"    (\w+(?:, \w+)*):", line):
                for error in match[1].split(", "):
                    assert error in known, f"{path.name}, {name}: {error}"
