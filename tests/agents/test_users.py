"""Laws: no user sees, counts or cancels another's runs, whatever they ask for."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from ringfence import AgentCancelledError, AgentLimitError, Ringfence, UnknownRunError, user_context
from ringfence.agents import AgentRegistry, agent_run, left, spend
from ringfence.events import EventHub

USERS = [
    (tenant, user) for tenant in (None, "t-1", "t-2") for user in ("ann", "bob", "t-1", "t-1:ann")
]


@pytest.fixture
def registry() -> AgentRegistry:
    registry = AgentRegistry()

    @registry.agent("sleep")
    async def sleep() -> None:
        await anyio.sleep(60)

    @registry.agent("echo")
    async def echo(said: Any) -> Any:
        await anyio.sleep(0)
        return said

    return registry


async def test_each_sees_their_own_runs_alone(registry: AgentRegistry) -> None:
    async def serve(tenant: str | None, user: str) -> None:
        async with user_context(user, tenant_id=tenant):
            await registry.run("echo", [tenant, user])
            await registry.run("sleep")

    async with anyio.create_task_group() as tasks:
        for who in USERS:
            tasks.start_soon(serve, *who)
        with anyio.fail_after(10):
            while registry.load().get("sleep", 0) < len(USERS):  # noqa: ASYNC110
                await anyio.sleep(0.001)
        for tenant, user in USERS:
            async with user_context(user, tenant_id=tenant):
                (running,), (recent,) = registry.running(), registry.recent()
                assert (running.name, recent.name) == ("sleep", "echo")
                assert recent.result == [tenant, user]
        async with user_context("eve"):
            assert registry.running() == registry.recent() == ()
        tasks.cancel_scope.cancel()


async def test_another_users_run_and_none_cannot_be_told_apart(registry: AgentRegistry) -> None:
    async def serve() -> None:
        async with user_context("ann", tenant_id="t-1"):
            with pytest.raises(AgentCancelledError):
                await registry.run("sleep")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        async with user_context("ann", tenant_id="t-1") as owner:
            with anyio.fail_after(5):
                while not registry.running():  # noqa: ASYNC110
                    await anyio.sleep(0.001)
            (record,) = registry.running()
        said = set()
        for tenant, user in [(None, "ann"), ("t-2", "ann"), ("t-1", "bob")]:
            async with user_context(user, tenant_id=tenant):
                for request_id in (record.request_id, "unknown", owner.request_id, "", None, 7):
                    with pytest.raises(UnknownRunError) as caught:
                        registry.cancel(request_id)  # type: ignore[arg-type]
                    attributes = sorted(vars(caught.value).items())
                    said.add((type(caught.value), str(caught.value), str(attributes)))
        assert len(said) == 1
        async with user_context("ann", tenant_id="t-1"):
            assert registry.running() == (record,)
            registry.cancel(record.request_id)


async def test_an_id_that_was_chosen_takes_nothing_over(registry: AgentRegistry) -> None:
    """A run has an id of its own; the request above it may have any."""
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            async with user_context("ann", request_id="r-1"):
                await registry.run("sleep")

        tasks.start_soon(serve)
        async with user_context("bob", request_id="r-1"):
            await registry.run("echo", 1)
            assert registry.running() == ()
            with pytest.raises(UnknownRunError):
                registry.cancel("r-1")
        tasks.cancel_scope.cancel()


async def test_a_user_who_runs_too_much_takes_no_ones_place_or_budget() -> None:
    registry = AgentRegistry(max_running_per_user=3)

    @registry.agent("spend")
    async def spend_all() -> float:
        spend(tokens=10)
        return left().budget["tokens"]

    async with user_context("ann"):
        async with agent_run("a", budget={"tokens": 10}):
            assert await registry.run("spend") == 0
    async with user_context("bob"), agent_run("a", budget={"tokens": 11}):
        assert await registry.run("spend") == 1


async def test_no_message_names_a_user(registry: AgentRegistry) -> None:
    async with user_context("ann-secret", tenant_id="tenant-secret"):
        for attempt in range(3):
            with pytest.raises(UnknownRunError) as caught:
                registry.cancel(f"r-{attempt}")
            assert "secret" not in str(caught.value)
        await registry.run("echo", 1)
        assert "secret" not in repr(registry.recent())
    assert "secret" not in repr(registry.load())


@pytest.mark.parametrize("seed", range(3))
async def test_many_users_who_run_look_and_cancel(seed: int) -> None:
    """Whatever they do at once, what each sees carries their own mark and no other."""
    rng = random.Random(seed)
    registry = AgentRegistry(max_running=60, max_running_per_user=5, queue_timeout=0.05)
    fence = Ringfence(events=EventHub())

    @registry.agent("work")
    async def work(mark: str) -> str:
        await anyio.sleep(rng.random() / 200)
        if rng.random() < 0.3:
            await registry.run("work", mark)
        return mark

    ids: dict[str, str] = {}  # of every run that anybody saw, whose it is
    tried = [0, 0]

    async def serve(tenant: str | None, user: str) -> None:
        mark = f"{tenant}/{user}"
        async with fence.user_context(user, tenant_id=tenant):
            for _ in range(8):
                with anyio.move_on_after(0.1):
                    try:
                        assert await registry.run("work", mark) == mark
                    except (AgentCancelledError, AgentLimitError):
                        tried[0] += 1
                for record in (*registry.running(), *registry.recent()):
                    assert ids.setdefault(record.request_id, mark) == mark
                    assert record.result in (None, mark)
                some = rng.choice(list(ids))
                try:
                    registry.cancel(some)
                    assert ids[some] == mark
                except UnknownRunError:
                    tried[1] += 1

    async with anyio.create_task_group() as tasks:
        for who in USERS:
            for _ in range(3):
                tasks.start_soon(serve, *who)
    assert len(set(ids.values())) == len(USERS)
    assert tried[1] > 100
    assert registry.load() == {}
    assert registry._places._taken == {}
