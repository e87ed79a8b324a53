"""Law 1. One way in: only `user_context`, `child_context` and `nobody` set the ContextVar."""

from __future__ import annotations

import ast
import contextvars
from pathlib import Path

import pytest

import ringfence
from ringfence import (
    ContextLimitError,
    InvalidContextError,
    NoContextError,
    child_context,
    current_context,
    current_context_or_none,
    current_scope_or_none,
    nobody,
    user_context,
)

SOURCE = Path(ringfence.__file__).parent


def _functions_that_set() -> set[str]:
    """Where the source names the ContextVar's setter, as `module:function`."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for node in ast.walk(function):
                is_name = isinstance(node, ast.Name) and node.id == "_set"
                is_attribute = (
                    isinstance(node, ast.Attribute)
                    and node.attr == "set"
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "_current"
                )
                if is_name or is_attribute:
                    found.add(f"{path.stem}:{function.name}")
    return found


def test_the_variable_is_set_on_the_way_in_and_out_of_a_scope_and_nowhere_else() -> None:
    assert _functions_that_set() == {
        "scope:__aenter__",
        "scope:__aexit__",
        "scope:_end",
        "scope:_open_unread",
        "scope:_own_context",  # in a copy, for clean-up of this very scope
        "closing:_rejoin",
        "closing:_finish_elsewhere",
    }


def test_no_public_name_sets_it() -> None:
    setters = [name for name in ringfence.__all__ if name.startswith(("set_", "bind_", "push"))]
    assert setters == []


async def test_a_scope_is_current_inside_its_block_only() -> None:
    assert current_context_or_none() is None
    async with user_context("alice-1") as ctx:
        assert current_context() is ctx
        async with child_context("look") as child:
            assert current_context() is child
        assert current_context() is ctx
    assert current_scope_or_none() is None
    with pytest.raises(NoContextError, match="No scope is open here"):
        current_context()


async def test_making_a_scope_does_not_open_it() -> None:
    user_context("alice-1")
    nobody()
    assert current_scope_or_none() is None


async def test_a_failed_entry_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringfence.state import open_roots

    session = object()
    async with user_context("alice-1", db_session=session) as alice:
        with pytest.raises(ringfence.SessionIsolationError):
            async with user_context("bob-22", db_session=session):
                pass
        assert current_context() is alice
        assert len(open_roots()) == 1


async def test_entry_is_bounded_by_depth() -> None:
    async def descend(left: int) -> int:
        if not left:
            return current_context().operation_depth
        async with child_context("deeper"):
            return await descend(left - 1)

    async with user_context("alice-1"):
        assert await descend(10) == 10
        with pytest.raises(ContextLimitError, match="depth 11; 10 is the deepest"):
            await descend(11)


async def test_entry_is_validated() -> None:
    with pytest.raises(InvalidContextError):
        user_context("")
    async with user_context("alice-1"):
        with pytest.raises(InvalidContextError, match="blank"):
            child_context("  ")


async def test_one_block_one_entry() -> None:
    block = user_context("alice-1")
    async with block:
        with pytest.raises(ringfence.ConfigurationError, match="open already"):
            await block.__aenter__()
    with pytest.raises(ringfence.ContextClosedError):
        await block.__aenter__()


async def test_a_plain_thread_sees_nobody() -> None:
    async with user_context("alice-1"):
        assert contextvars.Context().run(current_scope_or_none) is None
