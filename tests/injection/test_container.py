"""What can be registered, and what each lifetime gives."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Generic, Protocol, TypeVar

import anyio
import pytest

from ringfence import (
    AmbiguousProviderError,
    ConfigurationError,
    ContextClosedError,
    Identity,
    MissingProviderError,
    NoContextError,
    OwnershipError,
    ProviderError,
    RequestScope,
    Ringfence,
    UnreachableProviderError,
    UserExecutionContext,
    child_context,
    current_context,
    current_scope,
    user_context,
)
from ringfence.injection import Container, Lifetime, Qualifier

T = TypeVar("T")


class Pool:
    pass


class Repository:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


class Speaker(Protocol):
    def speak(self) -> str: ...


class Dog:
    def speak(self) -> str:
        return "woof"


class Cat:
    def speak(self) -> str:
        return "meow"


def fence_of(container: Container) -> Ringfence:
    return Ringfence(services=container)


@pytest.fixture
def container() -> Container:
    return Container()


# --- kinds of sources -------------------------------------------------------------------------


async def test_a_class_is_asked_for_what_its_constructor_names(container: Container) -> None:
    container.provide(Pool)
    container.provide(Repository)
    async with fence_of(container).user_context("alice-1"):
        repository = await current_scope().get(Repository)
        assert isinstance(repository, Repository)
        assert repository.pool is await current_scope().get(Pool)
        assert repository is await current_scope().get(Repository)


async def test_each_kind_of_function_gives_what_it_says(container: Container) -> None:
    class A: ...

    class B: ...

    class C: ...

    class D: ...

    class E: ...

    class F: ...

    @container.provide
    def plain() -> A:
        return A()

    @container.provide
    async def coroutine() -> B:
        return B()

    @container.provide
    def generator() -> Iterator[C]:
        yield C()

    @container.provide
    async def async_generator() -> AsyncIterator[D]:
        yield D()

    @container.provide
    @contextlib.asynccontextmanager
    async def async_manager() -> AsyncIterator[E]:
        yield E()

    @container.provide
    @contextlib.contextmanager
    def manager() -> Iterator[F]:
        yield F()

    async with fence_of(container).user_context("alice-1"):
        for kind in (A, B, C, D, E, F):
            made = await current_scope().get(kind)
            assert type(made) is kind
            assert made is current_scope().get_now(kind)


async def test_a_function_that_returns_a_manager_gives_what_it_yields(
    container: Container,
) -> None:
    ran: list[str] = []

    class Opening:
        async def __aenter__(self) -> Pool:
            return Pool()

        async def __aexit__(self, *details: object) -> None:
            ran.append("left")

    @container.provide
    def opening() -> contextlib.AbstractAsyncContextManager[Pool]:
        return Opening()

    async with fence_of(container).user_context("alice-1"):
        assert type(await current_scope().get(Pool)) is Pool
    assert ran == ["left"]


async def test_a_class_is_entered_only_if_that_is_said() -> None:
    ran: list[str] = []

    class Client:
        async def __aenter__(self) -> Client:
            ran.append("entered")
            return self

        async def __aexit__(self, *details: object) -> None:
            ran.append("left")

    for enter in (False, True):
        container = Container()
        container.provide(Client, enter=enter)
        async with fence_of(container).user_context("alice-1"):
            assert type(await current_scope().get(Client)) is Client
    assert ran == ["entered", "left"]
    with pytest.raises(ConfigurationError, match="no context manager to enter"):
        container.provide(Pool, enter=True)


async def test_partials_methods_and_callable_objects_are_sources(container: Container) -> None:
    class A: ...

    class B: ...

    class C: ...

    def make_a(number: int, pool: Pool) -> A:
        made = A()
        made.number = number  # type: ignore[attr-defined]
        return made

    class Factory:
        def make_b(self, pool: Pool) -> B:
            return B()

        async def __call__(self, pool: Pool) -> C:
            return C()

    container.provide(Pool)
    container.provide(functools.partial(make_a, 3))
    container.provide(Factory().make_b)
    container.provide(Factory())
    async with fence_of(container).user_context("alice-1"):
        assert (await current_scope().get(A)).number == 3  # type: ignore[attr-defined]
        assert type(await current_scope().get(B)) is B
        assert type(await current_scope().get(C)) is C


async def test_a_value_is_the_applications(container: Container) -> None:
    pool = Pool()
    assert container.provide(value=pool) is pool
    container.provide(value="postgres://", gives=Annotated[str, Qualifier("address")])
    async with fence_of(container).user_context("alice-1"):
        assert await current_scope().get(Pool) is pool
        address = await current_scope().get(Annotated[str, Qualifier("address")])
        assert address == "postgres://"


async def test_annotations_may_be_strings_about_local_classes(container: Container) -> None:
    class Local: ...

    class User:
        def __init__(self, local: Local) -> None:
            self.local = local

    @container.provide
    def local() -> Local:
        return Local()

    container.provide(User)
    async with fence_of(container).user_context("alice-1"):
        assert type((await current_scope().get(User)).local) is Local


def test_what_does_not_say_what_it_gives_is_refused(container: Container) -> None:
    with pytest.raises(ConfigurationError, match="does not say what it gives"):
        container.provide(lambda: 3)
    with pytest.raises(ConfigurationError, match="cannot be called"):
        container.provide(3)  # type: ignore[call-overload]
    container.provide(lambda: 3, gives=int)


async def test_keyword_only_default_and_optional_parameters(container: Container) -> None:
    class Asking:
        def __init__(
            self,
            given: int = 7,
            /,
            pool: Pool | None = None,
            maybe: Dog | None = None,
            *,
            cat: Cat | None,
            named: Repository,
        ) -> None:
            self.all = (given, pool, maybe, cat, named)

    container.provide(Pool)
    container.provide(Repository)
    container.provide(Asking)
    async with fence_of(container).user_context("alice-1"):
        given, pool, maybe, cat, named = (await current_scope().get(Asking)).all
        assert (given, type(pool), maybe, cat, type(named)) == (7, Pool, None, None, Repository)


async def test_a_wish_that_is_there_but_lacks_something_is_an_error(container: Container) -> None:
    """Otherwise a mistake elsewhere would silently give `None`."""

    def wishing(store: Store[Model] | None = None) -> Dog:
        return Dog()

    container.provide(Store)  # which needs a pool, for whatever it is a store of
    container.provide(wishing)
    with pytest.raises(MissingProviderError, match="no provider for `Pool`"):
        container.check()


# --- keys -------------------------------------------------------------------------------------


async def test_a_protocol_is_asked_for_by_alias_or_by_what_is_said() -> None:
    one, two = Container(), Container()
    one.provide(Dog)
    one.alias(Speaker, Dog)
    two.provide(Dog, gives=Speaker)
    async with fence_of(one).user_context("alice-1"):
        assert (await current_scope().get(Speaker)) is await current_scope().get(Dog)
    async with fence_of(two).user_context("alice-1"):
        assert (await current_scope().get(Speaker)).speak() == "woof"
        with pytest.raises(MissingProviderError):
            await current_scope().get(Dog)


async def test_every_implementation_is_collected_in_order(container: Container) -> None:
    container.provide(Dog, gives=Speaker)
    container.provide(Cat, gives=Speaker)

    class Choir:
        def __init__(self, speakers: list[Speaker]) -> None:
            self.speakers = speakers

    container.provide(Choir)
    async with fence_of(container).user_context("alice-1"):
        speakers = await current_scope().get(list[Speaker])
        assert [each.speak() for each in speakers] == ["woof", "meow"]
        assert (await current_scope().get(Choir)).speakers == speakers
        assert (await current_scope().get(Choir)).speakers is not speakers
        with pytest.raises(AmbiguousProviderError, match="2 providers for `Speaker`"):
            await current_scope().get(Speaker)


async def test_qualifiers_tell_apart_and_other_metadata_do_not(container: Container) -> None:
    main, replica = Pool(), Pool()
    container.provide(value=main)
    container.provide(value=replica, gives=Annotated[Pool, Qualifier("replica")])

    class Both:
        def __init__(
            self,
            one: Annotated[Pool, "a comment", []],
            two: Annotated[Pool, "a comment", Qualifier("replica")],
        ) -> None:
            self.both = (one, two)

    container.provide(Both)
    async with fence_of(container).user_context("alice-1"):
        assert (await current_scope().get(Both)).both == (main, replica)
        assert await current_scope().get(Annotated[Pool, "x", []]) is main
        with pytest.raises(MissingProviderError, match=r"Did you mean `Pool`"):
            await current_scope().get(Annotated[Pool, Qualifier("replicas")])


class Model:
    pass


class Store(Generic[T]):
    def __init__(self, kind: type[T], pool: Pool) -> None:
        self.kind = kind


async def test_generics_are_made_for_each_argument(container: Container) -> None:
    container.provide(Pool)
    container.provide(Store)
    container.provide(Dog)
    special = Store(Cat, Pool())
    container.provide(value=special, gives=Store[Cat])
    async with fence_of(container).user_context("alice-1"):
        models = await current_scope().get(Store[Model])
        assert models.kind is Model
        assert models is await current_scope().get(Store[Model])
        assert (await current_scope().get(Store[Dog])).kind is Dog
        assert await current_scope().get(Store[Cat]) is special


async def test_a_function_may_give_any_of_a_generic(container: Container) -> None:
    @container.provide
    def store(kind: type[T]) -> Store[T]:
        return Store(kind, Pool())

    async with fence_of(container).user_context("alice-1"):
        assert (await current_scope().get(Store[Model])).kind is Model


# --- lifetimes --------------------------------------------------------------------------------


async def test_who_shares_what(container: Container) -> None:
    class App(Pool): ...

    class Request(Pool): ...

    class Operation(Pool): ...

    class Transient(Pool): ...

    kinds = (App, Request, Operation, Transient)
    for kind in kinds:
        container.provide(kind, lifetime=Lifetime[kind.__name__.upper()])
    fence = fence_of(container)

    async def ask() -> list[Pool]:
        return [await current_scope().get(kind) for kind in kinds]

    async with fence.user_context("alice-1"):
        root, again = await ask(), await ask()
        async with child_context("tool"):
            child, child_again = await ask(), await ask()
    async with fence.user_context("alice-1"):
        other = await ask()

    def same(one: list[Pool], two: list[Pool]) -> list[bool]:
        return [a is b for a, b in zip(one, two, strict=True)]

    assert same(root, again) == [True, True, True, False]
    assert same(child, child_again) == [True, True, True, False]
    assert same(root, child) == [True, True, False, False]
    assert same(root, other) == [True, False, False, False]


async def test_what_each_scope_has_is_that_of_where_the_object_lives(container: Container) -> None:
    class OfRequest:
        def __init__(self, ctx: UserExecutionContext, scope: RequestScope) -> None:
            self.ctx, self.scope, self.ambient = ctx, scope, current_context()

    class OfOperation(OfRequest): ...

    @container.provide
    async def later(ctx: UserExecutionContext) -> Dog:
        dog = Dog()
        dog.seen = (ctx, current_context())  # type: ignore[attr-defined]
        return dog

    container.provide(OfRequest)
    container.provide(OfOperation, lifetime=Lifetime.OPERATION)
    async with fence_of(container).user_context("alice-1") as root:
        async with child_context("tool") as child:
            one = await current_scope().get(OfRequest)
            assert (one.ctx, one.scope, one.ambient) == (root, current_scope().root, root)
            two = await current_scope().get(OfOperation)
            assert (two.ctx, two.scope, two.ambient) == (child, current_scope(), child)
            dog = await current_scope().get(Dog)
            assert dog.seen == (root, root)  # type: ignore[attr-defined]
            assert await current_scope().get(UserExecutionContext) is child


async def test_what_the_application_has_sees_nobody(container: Container) -> None:
    """Captive through a ContextVar: the first user would be kept by what all share."""
    seen: list[str] = []

    @container.provide(lifetime=Lifetime.APP)
    def now() -> Dog:
        with contextlib.suppress(NoContextError):
            seen.append(current_context().user_id)
        return Dog()

    @container.provide(lifetime=Lifetime.APP)
    async def later() -> Cat:
        with contextlib.suppress(NoContextError):
            seen.append(current_context().user_id)
        return Cat()

    @container.provide(lifetime=Lifetime.USER)
    def kept(identity: Identity) -> Pool:
        with contextlib.suppress(NoContextError):
            seen.append(current_context().user_id)
        return Pool()

    async with fence_of(container) as fence, fence.user_context("alice-1"):
        for kind in (Dog, Cat, Pool):
            await current_scope().get(kind)
    assert seen == []


# --- refusals ---------------------------------------------------------------------------------


async def test_a_closed_scope_gives_nothing(container: Container) -> None:
    container.provide(Pool)
    container.provide(Dog)
    async with fence_of(container).user_context("alice-1"):
        scope = current_scope()
        await scope.get(Pool)
    for kind in (Pool, Dog):
        with pytest.raises(ContextClosedError):
            await scope.get(kind)
        with pytest.raises(ContextClosedError):
            scope.get_now(kind)
    assert scope._extras is None or scope._extras.held is None


async def test_a_closing_scope_makes_nothing_new(container: Container) -> None:
    container.provide(Pool)
    container.provide(Dog)
    seen: list[object] = []

    async def last() -> None:
        seen.append(await current_scope().get(Pool))
        with pytest.raises(ContextClosedError):
            await current_scope().get(Dog)
        seen.append("refused")

    async with fence_of(container).user_context("alice-1"):
        current_scope().callback(last)
        pool = await current_scope().get(Pool)
    assert seen == [pool, "refused"]


async def test_another_requests_scope_gives_nothing(container: Container) -> None:
    container.provide(Pool)
    fence = fence_of(container)
    async with fence.user_context("alice-1"):
        alices = current_scope()
        await alices.get(Pool)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                await alices.get(Pool)
            with pytest.raises(OwnershipError):
                alices.get_now(Pool)


async def test_what_needs_an_await_cannot_be_had_now_unless_it_is_there(
    container: Container,
) -> None:
    @container.provide(lifetime=Lifetime.APP)
    async def connect() -> Pool:
        return Pool()

    container.provide(Repository)
    async with fence_of(container).user_context("alice-1"):
        with pytest.raises(UnreachableProviderError, match="Making a `Pool` needs an `await`"):
            current_scope().get_now(Repository)
        await current_scope().get(Pool)
        assert type(current_scope().get_now(Repository)) is Repository


async def test_without_a_container_there_is_nothing_to_ask() -> None:
    async with user_context("alice-1"):
        with pytest.raises(ConfigurationError, match="no container"):
            await current_scope().get(Pool)


async def test_a_container_in_use_takes_no_more(container: Container) -> None:
    container.provide(Pool)
    container.check()
    with pytest.raises(ConfigurationError, match="`Dog` was registered when"):
        container.provide(Dog)
    with pytest.raises(ConfigurationError, match="in use"):
        container.alias(Speaker, Dog)


@pytest.mark.parametrize("options", [{"max_users": -1}, {"user_idle": 0}])
def test_its_bounds_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="max_users"):
        Container(**options)  # type: ignore[arg-type]


# --- releasing --------------------------------------------------------------------------------


async def test_an_object_is_released_early_after_what_was_made_with_it(
    container: Container,
) -> None:
    ran: list[str] = []

    @container.provide
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        ran.append("pool")

    @container.provide
    def repository(pool: Pool) -> Iterator[Repository]:
        yield Repository(pool)
        ran.append("repository")

    container.provide(Dog)
    async with fence_of(container).user_context("alice-1"):
        scope = current_scope()
        await scope.release(Pool)  # nothing is there yet
        first, dog = await scope.get(Repository), await scope.get(Dog)
        await scope.release(Pool)
        assert ran == ["repository", "pool"]
        assert (await scope.get(Repository)) is not first
        assert (await scope.get(Dog)) is dog
    assert ran == ["repository", "pool"] * 2
    assert [report.name for report in scope.report] == ["Repository", "Pool"] * 2


async def test_what_children_and_whoever_asked_made_with_it_goes_first(
    container: Container,
) -> None:
    ran: list[str] = []

    @container.provide
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        ran.append("pool")

    @container.provide(lifetime=Lifetime.TRANSIENT)
    def repository(pool: Pool) -> Iterator[Repository]:
        yield Repository(pool)
        ran.append("repository")

    @container.provide(lifetime=Lifetime.OPERATION)
    async def dog(pool: Pool) -> AsyncIterator[Dog]:
        yield Dog()
        ran.append("dog")

    async with fence_of(container).user_context("alice-1"):
        root = current_scope()
        await root.get(Repository)
        async with child_context("tool"):
            first = await current_scope().get(Dog)
            await root.release(Pool)
            assert ran == ["dog", "repository", "pool"]
            assert await current_scope().get(Dog) is not first
    assert ran == ["dog", "repository", "pool", "dog", "pool"]


async def test_a_scope_that_ends_meanwhile_waits_for_what_is_being_released(
    container: Container,
) -> None:
    ran: list[str] = []
    begun = anyio.Event()

    @container.provide
    def pool() -> Iterator[Pool]:
        yield Pool()
        ran.append("pool")

    @container.provide
    async def repository(pool: Pool) -> AsyncIterator[Repository]:
        yield Repository(pool)
        begun.set()
        await anyio.sleep(0.02)
        ran.append("repository")

    async with anyio.create_task_group() as tasks:
        async with fence_of(container).user_context("alice-1"):
            await current_scope().get(Repository)
            tasks.start_soon(current_scope().release, Repository)
            await begun.wait()
        assert ran == ["repository", "pool"]


async def test_what_is_not_this_scopes_is_not_its_to_release(container: Container) -> None:
    container.provide(Pool)
    container.provide(Dog, lifetime=Lifetime.APP)
    async with fence_of(container).user_context("alice-1"):
        for kind in (Dog, UserExecutionContext):
            with pytest.raises(ProviderError, match="not this scope's to release"):
                await current_scope().release(kind)
        async with child_context("tool"):
            await current_scope().get(Pool)
            with pytest.raises(ProviderError):
                await current_scope().release(Pool)


async def test_what_fails_to_be_released_says_so_once(container: Container) -> None:
    @container.provide
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        raise OSError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with fence_of(container).user_context("alice-1"):
            await current_scope().get(Pool)
            with pytest.raises(OSError, match="gone"):
                await current_scope().release(Pool)
    assert len(caught.value.exceptions) == 1  # in the report, as every other


async def test_what_is_being_made_with_what_is_released_is_not_kept(container: Container) -> None:
    ran: list[str] = []
    begun = anyio.Event()

    @container.provide
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        ran.append("pool")

    @container.provide
    async def repository(pool: Pool) -> AsyncIterator[Repository]:
        begun.set()
        await anyio.sleep(0.02)
        yield Repository(pool)
        ran.append("repository")

    async with fence_of(container).user_context("alice-1"):
        scope = current_scope()
        made: list[Repository] = []

        async def ask() -> None:
            made.append(await scope.get(Repository))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await begun.wait()
            await scope.release(Pool)
            assert ran == ["repository", "pool"]
        assert (await scope.get(Repository)).pool is not made[0].pool


async def test_what_releases_its_own_part_does_not_wait_for_itself(container: Container) -> None:
    container.provide(Pool)

    @container.provide
    async def repository(pool: Pool) -> Repository:
        await current_scope().release(Pool)
        return Repository(pool)

    async with fence_of(container).user_context("alice-1"):
        with anyio.fail_after(5):
            assert isinstance(await current_scope().get(Repository), Repository)
