"""Overrides hold where their block is open, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import anyio
import pytest

from ringfence import (
    MissingProviderError,
    Ringfence,
    UserExecutionContext,
    child_context,
    current_scope,
    task_group,
)
from ringfence.injection import Container, Injected, Lifetime, inject


class Mailer:
    def send(self) -> str:
        return "sent"


class Fake(Mailer):
    def send(self) -> str:
        return "faked"


class Sender(Protocol):
    def send(self) -> str: ...


class Service:
    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer


class Aside:
    pass


class Job:
    def __init__(self, service: Service, aside: Aside) -> None:
        self.service, self.aside = service, aside


@pytest.fixture
def container() -> Container:
    container = Container()
    container.provide(Mailer, lifetime=Lifetime.APP)
    container.provide(Service, lifetime=Lifetime.APP)
    container.provide(Aside)
    container.provide(Job)
    container.alias(Sender, Mailer)
    return container


@inject
async def send(job: Injected[Job]) -> str:
    return job.service.mailer.send()


async def test_it_holds_for_what_is_made_of_it_and_is_over_afterwards(
    container: Container,
) -> None:
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        job, service = await current_scope().get(Job), await current_scope().get(Service)
        with container.override(Mailer, Fake()) as fake:
            assert await current_scope().get(Mailer) is fake
            assert await current_scope().get(Sender) is fake
            assert await current_scope().get(list[Mailer]) == [fake]
            faked = await current_scope().get(Job)
            assert faked is await current_scope().get(Job)
            assert faked is not job
            assert faked.service.mailer is fake
            assert faked.aside is job.aside  # which it does not touch
            assert await send() == "faked"
        assert await current_scope().get(Job) is job
        assert await current_scope().get(Service) is service
        assert await send() == "sent"


async def test_it_holds_for_requests_and_children_within(container: Container) -> None:
    async with Ringfence(services=container) as fence:
        with container.override(Mailer, Fake()):
            async with fence.user_context("alice-1"):
                async with child_context("tool"):
                    assert await send() == "faked"
        async with fence.user_context("alice-1"):
            assert await send() == "sent"


async def test_tests_that_run_at_once_do_not_meet(container: Container) -> None:
    fence = Ringfence(services=container)
    seen: dict[str, str] = {}

    class Named(Mailer):
        def __init__(self, name: str) -> None:
            self.name = name

        def send(self) -> str:
            return self.name

    are_there = {name: anyio.Event() for name in ("one", "two")}

    async def test(name: str) -> None:
        with container.override(Mailer, Named(name)):
            are_there[name].set()
            for event in are_there.values():
                await event.wait()
            async with fence.user_context("alice-1"):
                seen[name] = await send()

    async def without() -> None:
        for event in are_there.values():
            await event.wait()
        async with fence.user_context("alice-1"):
            seen["none"] = await send()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(test, "one")
        tasks.start_soon(test, "two")
        tasks.start_soon(without)
    assert seen == {"one": "one", "two": "two", "none": "sent"}


async def test_two_tasks_of_one_scope_do_not_meet(container: Container) -> None:
    seen: list[str] = []

    is_faked, is_sent = anyio.Event(), anyio.Event()

    async def with_fake() -> None:
        with container.override(Mailer, Fake()):
            is_faked.set()
            await is_sent.wait()
            seen.append(await send())

    async with Ringfence(services=container).user_context("alice-1"):
        async with task_group() as tasks:
            tasks.start_soon(with_fake)
            await is_faked.wait()
            seen.append(await send())
            is_sent.set()
    assert seen == ["sent", "faked"]


async def test_they_nest(container: Container) -> None:
    outer, inner, aside = Fake(), Fake(), Aside()
    async with Ringfence(services=container).user_context("alice-1"):
        with container.override(Mailer, outer):
            with container.override(Aside, aside):
                job = await current_scope().get(Job)
                assert (job.service.mailer, job.aside) == (outer, aside)
                with container.override(Mailer, inner):
                    job = await current_scope().get(Job)
                    assert (job.service.mailer, job.aside) == (inner, aside)
            job = await current_scope().get(Job)
            assert job.service.mailer is outer
            assert job.aside is not aside


async def test_another_container_is_not_concerned(container: Container) -> None:
    other = Container()
    other.provide(Mailer)
    other.provide(Aside)
    with container.override(Mailer, Fake()), other.override(Aside, Aside()):
        async with Ringfence(services=other).user_context("alice-1"):
            assert (await current_scope().get(Mailer)).send() == "sent"
        async with Ringfence(services=container).user_context("alice-1"):
            assert await send() == "faked"


async def test_an_alias_can_be_overridden_alone(container: Container) -> None:
    async with Ringfence(services=container).user_context("alice-1"):
        with container.override(Sender, Fake()):
            assert (await current_scope().get(Sender)).send() == "faked"
            assert (await current_scope().get(Mailer)).send() == "sent"


async def test_what_the_container_does_not_know_cannot_be_overridden(container: Container) -> None:
    """A misspelt override would be none."""
    with pytest.raises(MissingProviderError, match="no provider for `int`"):
        with container.override(int, 3):
            raise NotImplementedError


async def test_what_each_scope_has_can_be(container: Container) -> None:
    fake = UserExecutionContext("carol-3", "t-1", "r-1")
    async with Ringfence(services=container).user_context("alice-1"):
        with container.override(UserExecutionContext, fake):
            assert await current_scope().get(UserExecutionContext) is fake


async def test_what_is_made_under_it_is_finalised_by_its_scope() -> None:
    ran: list[str] = []

    async def service(mailer: Mailer) -> AsyncIterator[Service]:
        yield Service(mailer)
        ran.append(mailer.send())

    container = Container()
    container.provide(Mailer)
    container.provide(service)
    async with Ringfence(services=container).user_context("alice-1"):
        await current_scope().get(Service)
        with container.override(Mailer, Fake()):
            await current_scope().get(Service)
    assert ran == ["faked", "sent"]
