"""Places: how many at once, who waits, and who goes next."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import anyio
import pytest

from ringfence import AgentLimitError
from ringfence.agents.places import Places
from ringfence.events import UserKey

ANN, BOB, EVE = (UserKey(None, name) for name in ("ann", "bob", "eve"))


async def settle() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_whoever_waits_longest_goes_first() -> None:
    places, order = Places(1, 10, 5), list[int]()

    async def come(number: int) -> None:
        await places.take(ANN)
        order.append(number)
        places.give_back(ANN)

    async with anyio.create_task_group() as tasks:
        await places.take(ANN)
        tasks.start_soon(come, 0)
        await settle()
        assert places.waiting == 1
        places.give_back(ANN)
        await settle()
    assert order == [0]
    assert places.waiting == 0


async def test_nobody_overtakes() -> None:
    places = Places(1, 1, 5)
    order: list[str] = []

    async def come(user: UserKey) -> None:
        await places.take(user)
        order.append(user.user_id)
        await anyio.sleep(0.001)
        places.give_back(user)

    async with anyio.create_task_group() as tasks:
        await places.take(ANN)
        tasks.start_soon(come, BOB)
        await settle()
        places.give_back(ANN)
        assert places._taken == {BOB: 1}  # though his task did not run yet
        await come(EVE)
    assert order == ["bob", "eve"]


async def test_one_user_who_is_full_keeps_nobody_else_waiting() -> None:
    places, got = Places(1, 2, 5), list[str]()

    async def come(user: UserKey) -> None:
        await places.take(user)
        got.append(user.user_id)

    async with anyio.create_task_group() as tasks:
        await places.take(ANN)
        await places.take(BOB)
        tasks.start_soon(come, ANN)
        await settle()
        tasks.start_soon(come, EVE)
        await settle()
        assert places.waiting == 2
        places.give_back(BOB)
        await settle()
        assert got == ["eve"]
        places.give_back(ANN)
    assert got == ["eve", "ann"]


async def test_waiting_has_an_end() -> None:
    places = Places(1, 1, 0.01)
    await places.take(ANN)
    with pytest.raises(AgentLimitError) as caught:
        await places.take(ANN)
    assert caught.value.limit == "max_running_per_user"
    with pytest.raises(AgentLimitError) as caught:
        await places.take(BOB)
    assert caught.value.limit == "max_running"
    assert places.waiting == 0
    places.give_back(ANN)
    await places.take(BOB)


async def test_the_queue_has_an_end() -> None:
    places = Places(1, 2, 10)
    async with anyio.create_task_group() as tasks:
        await places.take(ANN)
        await places.take(BOB)
        tasks.start_soon(places.take, ANN)
        await settle()
        with pytest.raises(AgentLimitError):
            await places.take(ANN)
        tasks.start_soon(places.take, EVE)
        await settle()
        with pytest.raises(AgentLimitError):
            await places.take(UserKey(None, "zoe"))
        tasks.cancel_scope.cancel()
    assert places.waiting == 0


async def test_tenants_are_different_users() -> None:
    places = Places(1, 10, 0)
    await places.take(UserKey("a", "ann"))
    await places.take(UserKey("b", "ann"))
    with pytest.raises(AgentLimitError):
        await places.take(UserKey("a", "ann"))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whoever_is_cancelled_just_as_there_is_a_place_gives_it_back() -> None:
    places = Places(1, 1, 10)
    await places.take(ANN)
    task = asyncio.create_task(places.take(BOB))
    await settle()
    places.give_back(ANN)  # bob's now, before his task has run
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await places.take(EVE)


@pytest.mark.parametrize("seed", range(5))
async def test_never_more_than_may_and_none_is_lost(seed: int) -> None:
    rng, users = random.Random(seed), (ANN, BOB, EVE)
    places, inside, most = Places(2, 4, 0.02), Counter[UserKey](), Counter[str]()

    async def come() -> None:
        user = rng.choice(users)
        with anyio.move_on_after(rng.choice([0.005, 1])):
            try:
                await places.take(user)
            except AgentLimitError:
                most["refused"] += 1
                return
            try:
                inside[user] += 1
                most["user"] = max(most["user"], inside[user])
                most["all"] = max(most["all"], inside.total())
                await anyio.sleep(rng.random() / 100)
            finally:
                inside[user] -= 1
                places.give_back(user)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            for _ in range(20):  # at once, more than may run and wait together
                tasks.start_soon(come)
            await anyio.sleep(rng.random() / 100)
    assert (most["user"], most["all"]) == (2, 4)
    assert most["refused"] > 0
    assert (places._count, places._taken, places._waiting) == (0, {}, {})
