"""Law 2. A request inherits nobody: a root never takes an ambient context as parent."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from ringfence import (
    OwnershipError,
    Ringfence,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    nobody,
    user_context,
)
from ringfence.errors import NoContextError


async def test_a_nested_user_context_is_another_root() -> None:
    async with user_context("alice-1", agent_context={"secret": "a"}) as alice:
        async with user_context("bob-22") as bob:
            scope = current_scope()
            assert scope.parent is None
            assert scope.root is scope
            assert bob.parent_request_id is None
            assert bob.operation_depth == 0
            assert bob.agent_context == {}
            assert current_context() is bob
        assert current_context() is alice


async def test_it_inherits_the_fence_and_nothing_else() -> None:
    fence = Ringfence()
    async with fence.user_context("alice-1", claims={"roles": ["admin"]}, timeout=60):
        async with user_context("bob-22"):
            assert current_scope()._recipes is fence
            assert current_scope().claims == {}
            assert current_scope().deadline is None


async def test_nobody_covers_what_is_ambient() -> None:
    async with user_context("alice-1") as alice:
        async with nobody() as scope:
            assert current_scope() is scope
            assert current_context_or_none() is None
            with pytest.raises(NoContextError, match="belongs to nobody"):
                current_context()
            with pytest.raises(NoContextError, match="belongs to nobody"):
                child_context("look")
            with pytest.raises(NoContextError):
                _ = scope.context
        assert current_context() is alice


async def test_nobody_has_resources_and_finalisers() -> None:
    ran = []
    async with nobody() as scope:
        scope.callback(ran.append, "end")
        await scope.enter(anyio.Lock())
    assert ran == ["end"]
    assert scope.state == "closed"


async def test_many_users_at_once_read_themselves() -> None:
    """The oracle is a plain argument."""
    seen: list[bool] = []

    async def request(user: str) -> None:
        async with user_context(user):
            for _ in range(5):
                await anyio.sleep(0)
                async with child_context("step"):
                    await anyio.sleep(0)
                    seen.append(current_context().user_id == user)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(request, f"user-{number}")
    assert len(seen) == 250
    assert all(seen)


async def test_a_block_of_one_cannot_be_entered_by_another() -> None:
    """A child block that was kept would make whoever enters it its user."""
    entered = []
    async with user_context("alice-1"):
        kept = child_context("look")
        async with user_context("bob-22") as bob:
            with pytest.raises(OwnershipError):
                async with kept:
                    entered.append(current_context().user_id)
            assert current_context() is bob
        async with child_context("between"), kept as child:
            assert child.user_id == "alice-1"  # anywhere in its own tree
    assert entered == []


async def test_nor_where_no_scope_is_open() -> None:
    entered = []

    async def enter() -> None:
        with pytest.raises(NoContextError):
            async with kept:
                entered.append(current_context().user_id)

    async with user_context("alice-1"):
        kept = child_context("look")
        await _in_an_empty_context(enter)
    assert entered == []


async def _in_an_empty_context(fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.create_task(fn(), context=contextvars.Context())
