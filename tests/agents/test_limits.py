"""Limits that are handed down: what is left, what may be spent, how deep."""

from __future__ import annotations

import gc
import math
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence import (
    AgentLimitError,
    ContextClosedError,
    InvalidContextError,
    NoContextError,
    Ringfence,
    Settings,
    child_context,
    nobody,
    task_group,
    user_context,
)
from ringfence.agents import Left, agent_run, left, limits, spend, tool_call
from ringfence.events import EventHub

from .hearing import hearing, hub_of, outcomes


async def test_without_limits_there_are_the_settings() -> None:
    async with user_context("ann"):
        assert left() == Left(10, None, {})
        spend(tokens=10**9)
        async with agent_run("triage"), tool_call("search"):
            assert left() == Left(8, None, {})
            spend(tokens=10**9)
    async with Ringfence(settings=Settings(max_depth=3)).user_context("ann"):
        async with agent_run("triage"):
            assert left().depth == 2


async def test_nobody_has_nothing_left() -> None:
    for read in (left, spend):
        with pytest.raises(NoContextError):
            read()
    async with nobody():
        for read in (left, spend):
            with pytest.raises(NoContextError):
                read()


# --- budget -----------------------------------------------------------------------------------


async def test_what_is_spent_is_taken_here_and_above() -> None:
    async with user_context("ann"):
        async with agent_run("a", budget={"tokens": 100, "dollars": 1.5}):
            spend(tokens=30)
            async with agent_run("b", budget={"tokens": 50}), tool_call("c"):
                spend(tokens=20, dollars=0.5)
                assert left().budget == {"tokens": 30, "dollars": 1.0}
            assert left().budget == {"tokens": 50, "dollars": 1.0}
        assert left().budget == {}


async def test_a_child_gets_at_most_what_is_left() -> None:
    async with user_context("ann"), agent_run("a", budget={"tokens": 100}):
        spend(tokens=90)
        async with agent_run("b", budget={"tokens": 1000, "calls": 2}):
            assert left().budget == {"tokens": 10, "calls": 2}
            with pytest.raises(AgentLimitError) as caught:
                spend(tokens=11)
            assert caught.value.limit == "tokens"
        assert left().budget == {"tokens": 0}


async def test_all_of_it_may_be_spent_and_no_more() -> None:
    async with user_context("ann"), agent_run("a", budget={"tokens": 100}):
        spend(tokens=100)
        spend(tokens=0)
        with pytest.raises(AgentLimitError):
            spend(tokens=1)


async def test_what_was_spent_counts_though_it_was_too_much() -> None:
    """A model that used 150 tokens of 100 has used them; a smaller bill passes no more."""
    async with user_context("ann"), agent_run("a", budget={"tokens": 100}):
        async with child_context("step"):
            with pytest.raises(AgentLimitError):
                spend(tokens=150)
        with pytest.raises(AgentLimitError):
            spend(tokens=1)
        assert left().budget == {"tokens": 0}


async def test_a_limit_above_holds_where_the_own_one_would_not() -> None:
    async with user_context("ann"), agent_run("a", budget={"tokens": 100}):
        async with agent_run("b", budget={"tokens": 80}):
            async with agent_run("c"):
                spend(tokens=80)
        async with agent_run("d", budget={"calls": 5}):
            with pytest.raises(AgentLimitError):
                spend(tokens=21)


async def test_parallel_children_share_what_is_above() -> None:
    spent: list[int] = []

    async def child(number: int) -> None:
        async with agent_run(f"child-{number}", budget={"tokens": 1000}):
            for _ in range(10):
                await anyio.sleep(0)
                try:
                    spend(tokens=1)
                except AgentLimitError:
                    return
                spent.append(number)

    async with user_context("ann"), agent_run("a", budget={"tokens": 55}):
        async with task_group() as tasks:
            for number in range(10):
                tasks.start_soon(child, number)
        assert len(spent) == 55
        assert len(set(spent)) > 5
        assert left().budget == {"tokens": 0}


async def test_threads_spend_too() -> None:
    refused: list[int] = []

    def work() -> None:
        for _ in range(1000):
            try:
                spend(tokens=1)
            except AgentLimitError:
                refused.append(1)
                left()

    async with user_context("ann"), agent_run("a", budget={"tokens": 3500}, timeout=60):
        async with task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(anyio.to_thread.run_sync, work)
        assert len(refused) == 500
        assert left().budget == {"tokens": 0}


async def test_another_tree_is_another_budget() -> None:
    async with user_context("ann"), agent_run("a", budget={"tokens": 1}):
        async with user_context("bob"):
            assert left().budget == {}
            spend(tokens=100)
        assert left().budget == {"tokens": 1}


async def test_after_the_end_nothing_is_spent() -> None:
    over = anyio.Event()

    async def late() -> None:
        await over.wait()
        with pytest.raises(ContextClosedError):
            spend(tokens=1)

    async with anyio.create_task_group() as tasks, user_context("ann"):
        async with agent_run("a", budget={"tokens": 1}):
            tasks.start_soon(late)
            await anyio.sleep(0)
        over.set()


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, True, "12", None])
async def test_amounts_are_numbers_from_0(amount: Any) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError):
            spend(tokens=amount)
        with pytest.raises(InvalidContextError):
            async with agent_run("a", budget={"tokens": amount}):
                pass


@pytest.mark.parametrize("budget", [["tokens"], "tokens", 12])
async def test_a_budget_names_what_it_limits(budget: Any) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError):
            async with agent_run("a", budget=budget):
                pass


async def test_what_is_left_cannot_be_written() -> None:
    async with user_context("ann"):
        given = {"tokens": 5}
        async with agent_run("a", budget=given):
            given["tokens"] = 1000
            with pytest.raises(TypeError):
                left().budget["tokens"] = 1000  # type: ignore[index]
            assert left().budget == {"tokens": 5}


async def test_limits_go_with_their_runs() -> None:
    async with user_context("ann"):
        for _ in range(10):
            async with agent_run("a", budget={"tokens": 5}):
                pass
    gc.collect()
    assert len(limits._given) == 0


async def test_a_budget_that_is_used_up_is_the_end_that_is_told() -> None:
    fence = Ringfence(events=EventHub())
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        with pytest.raises(AgentLimitError):
            async with agent_run("a", budget={"tokens": 5}), tool_call("b"):
                spend(tokens=6)
    assert outcomes(found) == {"a": "failed", "b": "failed"}
    assert {d["data"].get("error") for d in found} == {None, "RF901"}


@given(
    budgets=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    bills=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=20),
)
def test_no_run_lets_more_through_than_it_was_given(
    budgets: list[int], bills: list[tuple[int, int]]
) -> None:
    """A chain of runs; each bill is paid from some depth of it."""

    async def main() -> None:
        paid = [0] * len(budgets)
        async with user_context("ann"):
            await descend(0, paid)

    async def descend(level: int, paid: list[int]) -> None:
        async with agent_run("a", budget={"tokens": budgets[level]}):
            for at, amount in bills:
                if at == level:
                    await pay(level, amount, paid)
            if level + 1 < len(budgets):
                await descend(level + 1, paid)

    async def pay(level: int, amount: int, paid: list[int]) -> None:
        before = left().budget["tokens"]
        try:
            spend(tokens=amount)
        except AgentLimitError:
            assert amount > before
        else:
            assert amount <= before
            for above in range(level + 1):
                paid[above] += amount
        assert all(sum_ <= budget for sum_, budget in zip(paid, budgets, strict=True))

    anyio.run(main)


# --- depth and time ---------------------------------------------------------------------------


async def test_depth_is_handed_down() -> None:
    async with user_context("ann"), agent_run("a", depth=2):
        assert left().depth == 2
        async with agent_run("b", depth=7):
            assert left().depth == 1
            async with tool_call("c"):
                assert left().depth == 0
                for block in (agent_run("d"), tool_call("d")):
                    with pytest.raises(AgentLimitError) as caught:
                        async with block:
                            raise AssertionError("never reached")
                    assert caught.value.limit == "depth"


async def test_no_depth_at_all() -> None:
    fence = Ringfence(events=EventHub())
    async with hearing(hub_of(fence)) as found, fence.user_context("ann"):
        async with agent_run("a", depth=0):
            with pytest.raises(AgentLimitError):
                async with tool_call("b"):
                    pass
    assert outcomes(found) == {"a": "completed"}


async def test_depth_is_no_more_than_the_settings_allow() -> None:
    async with user_context("ann"), agent_run("a", depth=100):
        assert left().depth == 9


@pytest.mark.parametrize("depth", [-1, 1.5, True, "1"])
async def test_a_depth_is_a_whole_number(depth: Any) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError):
            async with agent_run("a", depth=depth):
                pass


async def test_the_deadline_is_handed_down() -> None:
    async with user_context("ann"), agent_run("a", timeout=30):
        async with agent_run("b", timeout=60), tool_call("c"):
            seconds = left().seconds
            assert seconds is not None
            assert 25 < seconds <= 30
            in_a_thread = (await anyio.to_thread.run_sync(left)).seconds
            assert in_a_thread is not None
            assert 0 <= seconds - in_a_thread < 5
        async with agent_run("d", timeout=5):
            assert 0 < (left().seconds or 0) <= 5


async def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    with pytest.raises(TimeoutError):
        async with user_context("ann"), agent_run("a", timeout=0.01):
            try:
                await anyio.sleep(10)
            finally:
                assert left().seconds == 0
