"""What is kept for a user reaches nobody else, stays while it is used, and goes in time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    DrainingError,
    Identity,
    NoContextError,
    OwnershipError,
    RequestScope,
    Ringfence,
    ScopeCloseError,
    Settings,
    UnreachableProviderError,
    child_context,
    counters,
    current_scope,
    owned,
    run_as,
)
from ringfence.finalisers import EnteringStopped
from ringfence.injection import Container, Injected, Lifetime, inject
from ringfence.isolation import registry


class Memory:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity


class Journal:
    """Which memories were opened and closed, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def memory(self, identity: Identity) -> AsyncIterator[Memory]:
        yield Memory(identity)
        await anyio.sleep(0)
        self.lines.append(identity.user_id)

    def container(self, **options: float) -> Container:
        container = Container(**options)  # type: ignore[arg-type]
        container.provide(self.memory, lifetime=Lifetime.USER)
        return container


async def _memory_of(fence: Ringfence, user: str, tenant: str | None = None) -> Memory:
    async with fence.user_context(user, tenant_id=tenant):
        return await current_scope().get(Memory)


async def _until(lines: list[str], wanted: list[str]) -> None:
    with anyio.fail_after(5):
        while lines != wanted:  # noqa: ASYNC110 - nobody would set an event
            await anyio.sleep(0.005)


async def test_it_is_kept_across_the_requests_of_one_user_of_one_tenant() -> None:
    journal = Journal()
    async with Ringfence(services=journal.container()) as fence:
        first = await _memory_of(fence, "alice-1", "acme")
        assert await _memory_of(fence, "alice-1", "acme") is first
        assert first.identity == Identity("alice-1", "acme")
        for user, tenant in [("alice-1", "other"), ("alice-1", None), ("bob-22", "acme")]:
            other = await _memory_of(fence, user, tenant)
            assert other is not first
            assert other.identity == Identity(user, tenant)
        assert journal.lines == []
    assert sorted(journal.lines) == ["alice-1"] * 3 + ["bob-22"]


async def test_children_share_it() -> None:
    async with Ringfence(services=Journal().container()) as fence:
        async with fence.user_context("alice-1"):
            async with child_context("tool"):
                memory = await current_scope().get(Memory)
            assert await current_scope().get(Memory) is memory


async def test_nobody_has_none() -> None:
    async with Ringfence(services=Journal().container()) as fence, fence.nobody() as scope:
        with pytest.raises(NoContextError):
            await scope.get(Memory)


async def test_a_plain_one_that_reaches_another_user_is_reported() -> None:
    async with Ringfence(services=Journal().container()) as fence:
        memory = await _memory_of(fence, "alice-1")
        async with fence.user_context("alice-1"):
            assert current_scope().check(memory) is memory
            assert current_scope().own(memory) is memory
        async with fence.user_context("alice-1", tenant_id="acme"):
            with pytest.raises(OwnershipError):
                current_scope().check(memory)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError) as caught:
                current_scope().check(memory)
            assert "alice-1" not in str(caught.value)
        async with fence.nobody() as scope:
            with pytest.raises(OwnershipError):
                scope.check(memory)


@owned
class Diary:
    def __init__(self) -> None:
        self.pages: list[str] = []


async def test_an_owned_one_that_reaches_another_user_is_refused_at_use() -> None:
    container = Container()
    container.provide(Diary, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            diary = await current_scope().get(Diary)
            diary.pages.append("one")
        async with fence.user_context("alice-1"):
            assert diary.pages == ["one"]
            assert await current_scope().get(Diary) is diary
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                diary.pages.append("two")
        with pytest.raises(NoContextError):
            diary.pages.append("three")
    async with fence.user_context("alice-1"):
        with pytest.raises(ContextClosedError, match="has been closed"):
            diary.pages.append("four")


async def test_owned_ones_of_a_user_are_used_by_one_another_and_finalised() -> None:
    class Index:
        def __init__(self, diary: Diary) -> None:
            self.first = diary.pages[0]

    async def diary() -> AsyncIterator[Diary]:
        diary = Diary()
        diary.pages.append("one")
        yield diary
        await anyio.sleep(0)
        lines.extend(diary.pages)

    lines: list[str] = []
    container = Container()
    container.provide(diary, lifetime=Lifetime.USER)
    container.provide(Index, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        assert (await current_scope().get(Index)).first == "one"
    assert lines == ["one"]


async def test_a_factory_of_a_request_may_hand_on_what_is_its_users() -> None:
    container = Journal().container()

    def handed_on(memory: Memory) -> object:
        return memory

    container.provide(handed_on)
    async with Ringfence(services=container) as fence:
        for _ in range(2):
            async with fence.user_context("alice-1"):
                memory = await current_scope().get(Memory)
                assert await current_scope().get(object) is memory
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().check(memory)  # it is still hers


async def test_it_may_be_in_a_contexts_data_of_its_user_only() -> None:
    async with Ringfence(services=Journal().container()) as fence:
        async with fence.user_context("alice-1") as ctx:
            ctx.agent_context["memory"] = memory = await current_scope().get(Memory)
            assert ctx.verify_isolation()
        async with fence.user_context("bob-22") as ctx:
            ctx.agent_context["memory"] = memory
            with pytest.raises(Exception, match="belongs to request"):
                ctx.verify_isolation()


async def test_a_factory_that_gives_two_users_one_object_is_refused() -> None:
    container = Container()
    shared = Memory(Identity("x-1"))
    container.provide(lambda: shared, gives=Memory, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence:
        await _memory_of(fence, "alice-1")
        with pytest.raises(OwnershipError):
            await _memory_of(fence, "bob-22")


# --- how many, and for how long ---------------------------------------------------------------


async def test_the_least_recently_used_goes_first() -> None:
    journal = Journal()
    async with Ringfence(services=journal.container(max_users=2)) as fence:
        alice = await _memory_of(fence, "alice-1")
        await _memory_of(fence, "bob-22")
        assert await _memory_of(fence, "alice-1") is alice
        await _memory_of(fence, "carol-3")
        await _until(journal.lines, ["bob-22"])
        assert await _memory_of(fence, "alice-1") is alice
        await _memory_of(fence, "bob-22")
        await _until(journal.lines, ["bob-22", "carol-3"])
        assert counters.value("injection.user_closed") == 2


async def test_who_is_at_work_is_not_put_out() -> None:
    journal = Journal()
    async with Ringfence(services=journal.container(max_users=1, user_idle=0.01)) as fence:
        async with fence.user_context("alice-1"):
            alice = await current_scope().get(Memory)
            await _memory_of(fence, "bob-22")
            await _until(journal.lines, ["bob-22"])
            await anyio.sleep(0.05)
            async with fence.user_context("alice-1"):
                assert await current_scope().get(Memory) is alice
        assert journal.lines == ["bob-22"]


async def test_who_was_idle_for_too_long_goes_without_anybodys_asking() -> None:
    journal = Journal()
    async with Ringfence(services=journal.container(user_idle=0.02)) as fence:
        alice = await _memory_of(fence, "alice-1")
        await _until(journal.lines, ["alice-1"])
        assert len(registry) == 0
        assert await _memory_of(fence, "alice-1") is not alice


async def test_who_was_idle_goes_although_another_is_at_work() -> None:
    journal = Journal()
    async with Ringfence(services=journal.container(user_idle=0.02)) as fence:
        async with fence.user_context("bob-22"):
            await current_scope().get(Memory)
            await _memory_of(fence, "alice-1")
            await _until(journal.lines, ["alice-1"])


async def test_one_user_at_once_gets_one() -> None:
    async with Ringfence(services=Journal().container()) as fence:
        got: list[Memory] = []

        async def serve() -> None:
            got.append(await _memory_of(fence, "alice-1"))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(serve)
        assert got == got[:1] * 4


async def test_a_failure_to_close_is_told_and_raised_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        pass

    async def broken(identity: Identity) -> AsyncIterator[Broken]:
        yield Broken()
        raise OSError("gone")

    container = Container(max_users=0)
    container.provide(broken, lifetime=Lifetime.USER)
    with pytest.raises(ScopeCloseError) as caught:
        async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
            await current_scope().get(Broken)
    assert [str(error) for error in caught.value.exceptions] == ["gone"]
    assert "closed well" in caplog.text
    assert "alice-1" not in caplog.text


async def test_what_depends_on_it_is_finalised_before_it_may_go() -> None:
    ran: list[str] = []

    class Tool:
        def __init__(self, memory: Memory) -> None: ...

    async def tool(memory: Memory) -> AsyncIterator[Tool]:
        yield Tool(memory)
        await anyio.sleep(0.01)
        ran.append("tool")

    journal = Journal()
    journal.lines = ran
    container = journal.container(max_users=0)
    container.provide(tool)
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        await current_scope().get(Tool)
    assert ran == ["tool", "alice-1"]


async def test_leaving_waits_for_those_who_are_being_closed() -> None:
    closed: list[str] = []

    async def memory(identity: Identity) -> AsyncIterator[Memory]:
        yield Memory(identity)
        await anyio.sleep(0.03)
        closed.append(identity.user_id)

    container = Container(max_users=0)
    container.provide(memory, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence:
        async with task_group_of(fence, ["alice-1", "bob-22"]):
            pass
    assert sorted(closed) == ["alice-1", "bob-22"]


@contextlib.asynccontextmanager
async def task_group_of(fence: Ringfence, users: list[str]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(_memory_of, fence, user)
        yield


# --- who comes back while what was kept is being closed -----------------------------------------


class Counted:
    """How many there are of one user's, and how many there have been."""

    there = made = 0

    def container(self) -> Container:
        async def memory(identity: Identity) -> AsyncIterator[Memory]:
            self.made += 1
            self.there += 1
            assert self.there == 1
            yield Memory(identity)
            await anyio.sleep(0.05)
            self.there -= 1

        container = Container(max_users=0)
        container.provide(memory, lifetime=Lifetime.USER)
        container.provide(Plain, lifetime=Lifetime.USER)
        container.provide(OfRequest)
        return container


class Plain:
    def __init__(self, identity: Identity) -> None: ...


class OfRequest:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory


@inject
async def memory_of_a_call(memory: Injected[Memory]) -> Memory:
    return memory


async def _left(fence: Ringfence) -> None:
    """A user's request is over, and what was kept is being finalised."""
    async with fence.user_context("alice-1"):
        await current_scope().get(Memory)
        await current_scope().get(Plain)
    await anyio.sleep(0.01)


@pytest.mark.parametrize("wanted", [Memory, OfRequest, memory_of_a_call])
async def test_who_comes_back_waits_for_what_is_being_finalised(wanted: object) -> None:
    counted = Counted()

    async def serve() -> None:
        async with fence.user_context("alice-1"):
            if wanted is memory_of_a_call:
                await memory_of_a_call()
            else:
                await current_scope().get(wanted)  # type: ignore[arg-type]
            assert counted.there == 1
            await anyio.sleep(0.01)

    async with Ringfence(services=counted.container()) as fence:
        await _left(fence)
        assert counted.there == 1
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(serve)
        assert counted.made == 2
    assert counted.there == 0
    assert counters.value("refused.RF606") == 0


async def test_another_user_does_not_wait() -> None:
    async with Ringfence(services=Journal().container(max_users=0)) as fence:
        await _memory_of(fence, "alice-1")
        alice = fence.services._app.users.leaving  # type: ignore[union-attr]
        await _memory_of(fence, "bob-22")
        assert ("alice-1", None) in alice


async def test_what_has_no_clean_up_waits_for_the_others_of_its_user() -> None:
    counted = Counted()
    async with Ringfence(services=counted.container()) as fence:
        await _left(fence)
        async with fence.user_context("alice-1"):
            await current_scope().get(Plain)
            assert counted.there == 0


async def test_a_call_that_was_made_before_waits_too() -> None:
    @inject
    async def plain(plain: Injected[Plain], request: Injected[OfPlain]) -> Plain:
        return plain

    counted = Counted()
    container = counted.container()
    container.provide(OfPlain, lifetime=Lifetime.OPERATION)
    container.provide(Unrelated)
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            for _ in range(2):
                await plain()
        await _left(fence)
        async with fence.user_context("alice-1"):
            await current_scope().get(Unrelated)
            await plain()
            assert counted.there == 0


class OfPlain:
    def __init__(self, plain: Plain) -> None: ...


class Unrelated:
    pass


async def test_what_cannot_wait_is_told_so() -> None:
    @inject
    def plain(plain: Injected[Plain]) -> Plain:
        return plain

    async with Ringfence(services=Counted().container()) as fence:
        await _left(fence)
        async with fence.user_context("alice-1"):
            for ask in (lambda: current_scope().get_now(Plain), plain):
                with pytest.raises(UnreachableProviderError, match="being finalised"):
                    ask()
            there = await current_scope().get(Plain)
            assert plain() is there


async def test_what_is_being_finalised_does_not_wait_for_itself() -> None:
    refused: list[str] = []

    async def memory(identity: Identity) -> AsyncIterator[Memory]:
        yield Memory(identity)
        try:
            async with fence.user_context(identity):
                await current_scope().get(Memory)
        except (UnreachableProviderError, DrainingError) as error:
            refused.append(type(error).__name__)

    container = Container(max_users=0)
    container.provide(memory, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence:
        await _memory_of(fence, "alice-1")
        with anyio.fail_after(5):
            await _memory_of(fence, "alice-1")
    assert refused == ["UnreachableProviderError", "DrainingError"]


async def test_who_never_comes_to_an_end_is_not_waited_for_for_ever() -> None:
    container = Container(max_users=0)
    container.provide(Plain, lifetime=Lifetime.USER)
    settings = Settings(finaliser_timeout=0.01)
    async with Ringfence(services=container, settings=settings) as fence:
        async with fence.user_context("alice-1"):
            first = await current_scope().get(Plain)
            users = container._app.users
            (holder,) = users.holders.values()
        holder._state = "open"  # as one whose event loop was gone before it was done
        users.leaving[holder.key] = holder
        with anyio.fail_after(5):
            async with fence.user_context("alice-1"):
                assert await current_scope().get(Plain) is not first


def test_a_request_without_an_event_loop_closes_nothing_that_needs_one() -> None:
    container = Container(max_users=0)
    container.provide(Memory, lifetime=Lifetime.USER)
    fence = Ringfence(services=container)
    memory = run_as("alice-1", lambda: current_scope().get_now(Memory), fence=fence)
    assert memory.identity.user_id == "alice-1"
    assert len(registry) == 0


async def test_what_is_asked_for_while_the_application_closes_is_not_opened() -> None:
    is_closing, may_close = anyio.Event(), anyio.Event()
    lines: list[str] = []

    async def memory(identity: Identity) -> AsyncIterator[Memory]:
        lines.append(f"{identity.user_id} opened")
        yield Memory(identity)
        is_closing.set()
        await may_close.wait()
        lines.append(f"{identity.user_id} closed")

    async def notes(identity: Identity) -> AsyncIterator[list[str]]:
        lines.append(f"{identity.user_id} opened notes")
        yield []

    container = Container()
    container.provide(memory, lifetime=Lifetime.USER)
    container.provide(notes, lifetime=Lifetime.USER)
    fence = Ringfence(services=container)
    await container.start(Settings())

    async def ask(user: str, wanted: type) -> None:
        async with fence.user_context(user):
            if user == "alice-1":
                await current_scope().get(Memory)
                opened.set()
            await is_closing.wait()
            with pytest.raises((ConfigurationError, ContextClosedError)):
                await current_scope().get(wanted)

    async with anyio.create_task_group() as group:
        opened = anyio.Event()
        group.start_soon(ask, "alice-1", list[str])
        group.start_soon(ask, "bob-1", Memory)
        await opened.wait()
        group.start_soon(container.aclose)  # as when what would not stop was abandoned
        await is_closing.wait()
        await anyio.sleep(0.05)
        may_close.set()
    assert lines == ["alice-1 opened", "alice-1 closed"]


async def test_what_is_being_entered_when_its_user_has_to_go_is_left() -> None:
    lines: list[str] = []
    begun = anyio.Event()

    async def memory(identity: Identity) -> AsyncIterator[Memory]:
        begun.set()
        try:
            await anyio.sleep(0.05)
        except BaseException:
            lines.append("not opened")
            raise
        yield Memory(identity)
        lines.append("closed")

    async def ask(scope: RequestScope) -> None:
        with pytest.raises((ContextClosedError, EnteringStopped)):
            await scope.get(Memory)

    container = Container(max_users=0)
    container.provide(memory, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence, anyio.create_task_group() as group:
        async with fence.user_context("alice-1"):
            group.start_soon(ask, current_scope())
            await begun.wait()
    assert lines in (["not opened"], ["closed"])


async def test_what_takes_longer_to_open_than_its_user_to_close_is_not_opened() -> None:
    lines: list[str] = []
    begun = anyio.Event()

    async def slow_to_close(identity: Identity) -> AsyncIterator[set[str]]:
        yield set()
        await anyio.sleep(0.05)

    async def first() -> dict[str, str]:
        begun.set()
        await anyio.sleep(0.01)
        return {}

    async def memory(identity: Identity, first: dict[str, str]) -> AsyncIterator[Memory]:
        await anyio.sleep(0.1)
        lines.append("opened")
        yield Memory(identity)
        lines.append("closed")

    async def ask(scope: RequestScope) -> None:
        with pytest.raises((ContextClosedError, EnteringStopped)):
            await scope.get(Memory)

    container = Container(max_users=0)
    for provider in (slow_to_close, first, memory):
        container.provide(provider, lifetime=Lifetime.USER)
    async with Ringfence(services=container) as fence, anyio.create_task_group() as group:
        async with fence.user_context("alice-1"):
            await current_scope().get(set[str])
            group.start_soon(ask, current_scope())
            await begun.wait()
    assert lines in ([], ["opened", "closed"])
