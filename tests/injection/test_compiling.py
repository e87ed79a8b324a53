"""The graph is checked at start-up, and what is wrong with it is drawn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import pytest

from ringfence import (
    AmbiguousProviderError,
    CaptiveProviderError,
    ConfigurationError,
    Identity,
    MissingProviderError,
    ProviderCycleError,
    RequestScope,
    Ringfence,
    UnreachableProviderError,
    UserExecutionContext,
    current_scope,
)
from ringfence.injection import Container, Injected, Lifetime, Qualifier, inject

K = TypeVar("K")
V = TypeVar("V")


class Pool:
    pass


class BigPool(Pool):
    pass


class Repository:
    def __init__(self, pool: Pool) -> None: ...


class Service:
    def __init__(self, repository: Repository) -> None: ...


class Hen:
    def __init__(self, egg: Egg) -> None: ...


class Egg:
    def __init__(self, hen: Hen) -> None: ...


@pytest.fixture
def container() -> Container:
    return Container()


def test_what_is_missing_is_drawn_with_who_asks_for_it(container: Container) -> None:
    container.provide(Repository)
    container.provide(Service)
    with pytest.raises(MissingProviderError) as caught:
        container.check()
    error = caught.value
    assert error.fact == ("There is no provider for `Pool`, which `Repository` asks for as `pool`.")
    assert error.remedy.startswith("Register one: `container.provide(..., gives=Pool)`.\n")
    assert error.path == ("Repository", "Pool")
    assert str(error).count("\n") == 2
    assert "test_compiling.py:" in str(error)
    assert str(error).endswith("\n    └─ Pool     not provided")


def test_the_path_goes_all_the_way(container: Container) -> None:
    container.provide(Service)
    container.alias(Repository, Pool)
    with pytest.raises(MissingProviderError) as caught:
        container.check()
    assert caught.value.path == ("Service", "Repository", "Pool")
    lines = str(caught.value).splitlines()
    assert [line.strip().split("  ")[0] for line in lines[1:]] == [
        "Service", "└─ Repository", "└─ Pool",
    ]  # fmt: skip
    assert "alias, " in lines[2]


@pytest.mark.parametrize(
    ("given", "asked", "suggested"),
    [
        (BigPool, Pool, "`BigPool` is one: `container.alias(Pool, BigPool)`"),
        (Pool, Annotated[Pool, Qualifier("big")], "Did you mean `Pool`"),
        (
            Annotated[Pool, Qualifier("big")],
            Pool,
            'Did you mean `Annotated[Pool, Qualifier("big")]',
        ),
        (type("Repositories", (), {}), Repository, "Did you mean `Repositories`"),
        (Hen, Pool, "Register one"),
    ],
)
def test_the_near_miss_is_suggested(
    container: Container, given: Any, asked: Any, suggested: str
) -> None:
    container.provide(lambda: None, gives=given)
    with pytest.raises(MissingProviderError) as caught:
        container.plan(asked)
    assert suggested in caught.value.remedy
    assert ("test_compiling.py:" in caught.value.remedy) is not suggested.startswith("Register")


def test_a_circle_is_drawn(container: Container) -> None:
    container.provide(Hen)
    container.provide(Egg)

    class Farm:
        def __init__(self, hen: Hen) -> None: ...

    container.provide(Farm)
    with pytest.raises(ProviderCycleError, match="Making a `Hen` asks for a `Hen`") as caught:
        container.check()
    assert caught.value.path == ("Hen", "Egg", "Hen")


def test_a_circle_of_aliases_is_found(container: Container) -> None:
    container.alias(Hen, Egg)
    container.alias(Egg, Hen)
    with pytest.raises(ProviderCycleError):
        container.check()


def test_a_circle_through_a_wish_is_found(container: Container) -> None:
    def hen(egg: Egg | None = None) -> Hen:
        raise NotImplementedError

    container.provide(hen)
    container.provide(Egg)
    with pytest.raises(ProviderCycleError):
        container.check()


LONG_AND_SHORT = [
    (Lifetime.APP, Lifetime.USER, "`Repository` lives as long as the app", "one user"),
    (Lifetime.APP, Lifetime.REQUEST, "`Repository` lives as long as the app", "one request"),
    (Lifetime.APP, Lifetime.OPERATION, "`Repository` lives as long as the app", "one operation"),
    (Lifetime.USER, Lifetime.REQUEST, "`Repository` lives as long as the user", "one request"),
    (Lifetime.USER, Lifetime.OPERATION, "`Repository` lives as long as the user", "one operation"),
    (Lifetime.REQUEST, Lifetime.OPERATION, "as long as the request", "one operation"),
]


@pytest.mark.parametrize(("long", "short", "fact", "of"), LONG_AND_SHORT)
def test_what_lives_long_may_not_hold_what_does_not(
    container: Container, long: Lifetime, short: Lifetime, fact: str, of: str
) -> None:
    container.provide(Pool, lifetime=short)
    container.provide(Repository, lifetime=long)
    with pytest.raises(CaptiveProviderError) as caught:
        container.check()
    assert fact in caught.value.fact
    assert caught.value.fact.endswith(f"which belongs to {of}.")
    assert caught.value.path == ("Repository", "Pool")


@pytest.mark.parametrize(("long", "short"), [(a, b) for b, a, *_ in LONG_AND_SHORT])
def test_what_lives_short_may_hold_what_lives_long(
    container: Container, long: Lifetime, short: Lifetime
) -> None:
    container.provide(Pool, lifetime=short)
    container.provide(Repository, lifetime=long)
    container.check()


def test_a_captive_is_found_behind_what_is_made_anew_and_in_lists(container: Container) -> None:
    class Keeper:
        def __init__(self, repositories: list[Repository]) -> None: ...

    container.provide(Pool, lifetime=Lifetime.OPERATION)
    container.provide(Repository, lifetime=Lifetime.TRANSIENT)
    container.provide(Keeper, lifetime=Lifetime.APP)
    with pytest.raises(CaptiveProviderError) as caught:
        container.check()
    assert caught.value.path == ("Keeper", "list[Repository]", "Repository", "Pool")


def test_what_is_made_anew_of_what_lives_long_may_be_held(container: Container) -> None:
    container.provide(Pool, lifetime=Lifetime.APP)
    container.provide(Repository, lifetime=Lifetime.TRANSIENT)
    container.provide(Service, lifetime=Lifetime.APP)
    container.check()


@pytest.mark.parametrize("lifetime", [Lifetime.APP, Lifetime.USER])
@pytest.mark.parametrize("held", [UserExecutionContext, RequestScope])
def test_what_outlives_a_request_may_not_hold_its_context(
    container: Container, lifetime: Lifetime, held: Any
) -> None:
    def pool(it) -> Pool:  # type: ignore[no-untyped-def]
        return Pool()

    pool.__annotations__["it"] = held
    container.provide(pool, lifetime=lifetime)
    with pytest.raises(CaptiveProviderError, match=held.__name__):
        container.check()


def test_what_everybody_shares_may_not_hold_who_a_user_is(container: Container) -> None:
    def pool(identity: Identity) -> Pool:
        return Pool()

    container.provide(pool, lifetime=Lifetime.APP)
    with pytest.raises(CaptiveProviderError, match="one user"):
        container.check()


def test_two_providers_are_one_too_many(container: Container) -> None:
    container.provide(Pool)
    container.provide(BigPool, gives=Pool)
    container.provide(Repository)
    with pytest.raises(AmbiguousProviderError, match=r"There are 2 providers for `Pool`") as caught:
        container.check()
    assert caught.value.path == ("Repository", "Pool")
    assert str(caught.value).count("test_compiling.py:") == 2
    assert "list[Pool]" in caught.value.remedy


def test_what_cannot_be_read_is_said(container: Container) -> None:
    def bare(what) -> Pool:  # type: ignore[no-untyped-def]
        return Pool()

    def unknown(what: Elsewhere) -> Repository:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    one, two = Container(), Container()
    one.provide(bare)
    two.provide(unknown)
    with pytest.raises(MissingProviderError, match="`what` of `Pool` has no annotation"):
        one.check()
    with pytest.raises(MissingProviderError, match="asks for `Elsewhere`, which is not known"):
        two.check()


def test_types_may_be_defined_after_they_were_named(container: Container) -> None:
    container.provide(_early)
    container.provide(Later)
    container.check()


def _early(later: Later) -> Pool:
    return Pool()


class Later:
    pass


async def test_opening_the_fence_checks(container: Container) -> None:
    container.provide(Repository)
    fence = Ringfence(services=container)
    with pytest.raises(MissingProviderError):
        async with fence:
            raise NotImplementedError
    assert not fence.is_open


async def test_so_does_the_first_request_of_an_unopened_one(container: Container) -> None:
    container.provide(Hen)
    container.provide(Egg)
    container.provide(Pool)
    for _ in range(2):
        async with Ringfence(services=container).user_context("alice-1"):
            with pytest.raises(ProviderCycleError):
                await current_scope().get(Pool)


def test_what_functions_ask_for_is_checked_if_they_are_named(container: Container) -> None:
    @inject
    def good(pool: Injected[Pool], wish: Injected[Hen | None], other: Injected[Hen] = None) -> None:  # type: ignore[assignment]
        raise NotImplementedError

    @inject
    def bad(pool: Injected[Hen]) -> None:
        raise NotImplementedError

    container.provide(Pool)
    container.check(good)
    with pytest.raises(MissingProviderError, match="`Hen`"):
        container.check(good, bad)
    with pytest.raises(ConfigurationError, match="nothing injected"):
        container.check(len)


async def connect() -> int:
    return 1


def described(number: int) -> str:
    return str(number)


@inject
def plain(query: str, number: Injected[int]) -> None: ...


@inject
def plain_generator(number: Injected[int]) -> Iterator[int]:
    yield number


@inject
class Asking:
    def __init__(self, number: Injected[int]) -> None: ...

    @inject
    def method(self, text: Injected[str]) -> None: ...


@pytest.mark.parametrize("function", [plain, plain_generator, Asking, Asking.method])
def test_what_is_not_async_may_not_ask_for_what_needs_an_await(function: Any) -> None:
    container = Container()
    container.provide(connect)
    container.provide(described)
    with pytest.raises(UnreachableProviderError, match="is not async") as caught:
        container.check(function)
    assert caught.value.path[0].startswith(function.__qualname__)


def test_what_is_async_may_and_so_may_all_ask_for_what_needs_none() -> None:
    @inject
    async def task(number: Injected[int]) -> None: ...

    @inject
    async def stream(number: Injected[int]) -> AsyncIterator[int]:
        yield number

    @inject
    def lucky(missing: Injected[bytes | None]) -> None: ...

    container = Container()
    container.provide(connect)
    container.check(task, stream, lucky)
    other = Container()
    other.provide(value=1)
    other.check(plain, plain_generator, Asking)


async def test_many_ways_to_one_object_are_not_walked_one_by_one() -> None:
    """Forty levels of two, each made of both beneath: a million million ways down."""
    container = Container()
    levels: list[tuple[type, type]] = [(Pool, BigPool)]

    def level(number: int) -> type:
        def init(self: object, one: object, two: object) -> None: ...

        init.__annotations__ = dict(zip(("one", "two"), levels[-1], strict=True))
        return type(f"Level{number}", (), {"__init__": init})

    for number in range(40):
        levels.append((level(number), level(number)))
    for kind in [kind for pair in levels for kind in pair]:
        container.provide(kind)
    container.check()
    assert len(container.graph().edges) == 160
    async with Ringfence(services=container).user_context("alice-1"):
        scope, top = current_scope(), levels[-1][0]
        made = await scope.get(top)
        with container.override(Pool, Pool()):
            assert await scope.get(top) is not made
        await scope.release(Pool)
        assert await scope.get(top) is not made


def test_two_providers_of_one_generic_are_one_too_many() -> None:
    container = Container()
    container.provide(dict, gives=Mapping[K, V])
    container.provide(dict, gives=Mapping[K, V], lifetime=Lifetime.APP)
    with pytest.raises(AmbiguousProviderError, match=r"2 providers for `Mapping\[str, int\]`"):
        container.plan(Mapping[str, int])
