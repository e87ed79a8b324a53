"""Law 10. Every refusal is visible: a typed error with a code and a remedy, and a counter."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from ringfence import (
    RingfenceError,
    bound_stream,
    child_context,
    counters,
    current_context,
    current_scope,
    owned,
    user_context,
)


@owned
class Memory:
    note = "n"


async def _refusals() -> list[RingfenceError]:
    """One refusal of each kind that the core can give, as a user would meet it."""
    caught: list[RingfenceError] = []

    def collect(use: Callable[[], Any]) -> None:
        try:
            use()
        except RingfenceError as error:
            caught.append(error)

    collect(current_context)
    collect(lambda: user_context("test"))
    collect(lambda: user_context(17))  # type: ignore[arg-type]
    collect(lambda: bound_stream(3))  # type: ignore[arg-type]
    async with user_context("alice-1"):
        held = contextvars.copy_context()
        memory = Memory()
        collect(lambda: child_context("deep", session="own"))
        collect(lambda: child_context(" "))
        async with user_context("bob-22"):
            collect(lambda: memory.note)
    collect(lambda: held.run(current_scope))
    return caught


async def test_each_has_a_code_a_fact_and_a_remedy_and_is_counted() -> None:
    caught = await _refusals()
    codes = [error.code for error in caught]
    assert codes == [
        "RF101", "RF701", "RF702", "RF702", "RF801", "RF701", "RF202", "RF102",
    ]  # fmt: skip
    for error in caught:
        assert error.fact.endswith(".")
        assert error.remedy.endswith(".")
        assert str(error) == f"{error.fact} {error.remedy}"
    for code in set(codes):
        assert counters.value(f"refused.{code}") == codes.count(code)


async def test_no_message_holds_a_users_id() -> None:
    for error in await _refusals():
        assert "alice" not in str(error)
        assert "bob" not in str(error)


@pytest.mark.parametrize("name", ["finaliser.error", "scope.parent_closed"])
async def test_what_goes_wrong_without_an_error_of_ours_is_counted(name: str) -> None:
    block = user_context("alice-1")
    await block.__aenter__()
    inner = child_context("tool")
    await inner.__aenter__()
    current_scope().callback(lambda: 1 / 0)
    with pytest.raises(ExceptionGroup):
        await block.__aexit__(None, None, None)
    await inner.__aexit__(None, None, None)
    assert counters.value(name) == 1
