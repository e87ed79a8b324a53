"""Law 9. No context means no: without a scope nothing answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringfence import (
    ConfigurationError,
    NoContextError,
    Ringfence,
    bind,
    child_context,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    task_group,
    user_context,
)

FENCE = Ringfence()


@pytest.mark.parametrize(
    "use",
    [current_context, current_scope, lambda: child_context("look"), lambda: bind(print)],
    ids=["context", "scope", "child", "bind"],
)
async def test_without_a_scope_it_raises(use: Callable[[], object]) -> None:
    with pytest.raises(NoContextError, match="No scope is open here"):
        use()


async def test_task_groups_and_detached_work_need_one_too() -> None:
    with pytest.raises(NoContextError):
        async with task_group():
            pass
    async with FENCE:
        with pytest.raises(NoContextError):
            FENCE.detach(_nothing)


async def test_detached_work_needs_an_application_that_waits_for_it() -> None:
    async with FENCE.user_context("alice-1"):
        with pytest.raises(ConfigurationError, match=r"lifespan=fence\.lifespan"):
            FENCE.detach(_nothing)


async def test_only_the_polite_readers_answer_none() -> None:
    assert current_context_or_none() is None
    assert current_scope_or_none() is None


async def test_an_executor_has_no_context_unless_bound() -> None:
    async with user_context("alice-1") as ctx:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(NoContextError, match=r"needs `bind\(fn\)`"):
                pool.submit(current_context).result()
            assert pool.submit(bind(current_context)).result() is ctx


async def _nothing() -> None: ...
