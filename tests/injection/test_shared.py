"""What a factory of one request hands on of the application's is everybody's, and only that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from ringfence import (
    OwnershipError,
    Ringfence,
    clear_shared_object_registry,
    current_scope,
    owned,
    register_shared_object,
)
from ringfence.injection import Container, Lifetime
from ringfence.injection.shared import attributes_of


class Cache:
    pass


class Wanted:
    """What the request asks for; its factory decides what that is."""


class Services:
    def __init__(self) -> None:
        self.cache = Cache()
        self.late: object = None


async def _is_given_to_both(container: Container) -> None:
    """Two open requests get one and the same, and neither is accused of having the other's."""
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        first = await current_scope().get(Wanted)
        async with fence.user_context("bob-22"):
            assert current_scope().check(first) is first
            assert await current_scope().get(Wanted) is first


def _container(source: object) -> Container:
    container = Container()
    container.provide(source, gives=Wanted)  # type: ignore[call-overload]
    return container


async def test_an_object_of_the_applications() -> None:
    def wanted(cache: Cache) -> object:
        return cache

    container = _container(wanted)
    container.provide(Cache, lifetime=Lifetime.APP)
    await _is_given_to_both(container)


async def test_a_part_that_one_had_from_the_beginning() -> None:
    def wanted(services: Services) -> object:
        return services.cache

    container = _container(wanted)
    container.provide(Services, lifetime=Lifetime.APP)
    await _is_given_to_both(container)


async def test_a_value() -> None:
    def wanted(services: Services) -> object:
        return services.cache

    container = _container(wanted)
    container.provide(value=Services())
    await _is_given_to_both(container)


async def test_what_an_override_gives() -> None:
    def wanted(cache: Cache) -> object:
        return cache

    container = _container(wanted)
    container.provide(Cache, lifetime=Lifetime.APP)
    with container.override(Cache, Cache()) as fake:
        await _is_given_to_both(container)
    assert not container._app.has(fake)


async def test_what_was_registered_as_shared() -> None:
    cache = Cache()
    register_shared_object(cache)
    try:
        await _is_given_to_both(_container(lambda: cache))
    finally:
        clear_shared_object_registry()


async def test_what_a_user_is_given_of_the_applications() -> None:
    def wanted(cache: Cache) -> object:
        return cache

    container = Container()
    container.provide(Cache, lifetime=Lifetime.APP)
    container.provide(wanted, gives=Wanted, lifetime=Lifetime.USER)
    await _is_given_to_both(container)


# --- what stays with its request --------------------------------------------------------------


async def _is_refused(container: Container) -> None:
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        first = await current_scope().get(Wanted)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().check(first)
            with pytest.raises(OwnershipError):
                await current_scope().get(Wanted)


async def test_what_a_request_put_into_an_object_of_the_applications() -> None:
    def wanted(services: Services) -> object:
        services.late = services.late or Cache()
        return services.late

    container = _container(wanted)
    container.provide(Services, lifetime=Lifetime.APP)
    await _is_refused(container)


@owned
class Diary:
    pass


async def test_an_owned_object_that_the_application_holds() -> None:
    def wanted(diary: Diary) -> object:
        return diary

    container = _container(wanted)
    container.provide(Diary, lifetime=Lifetime.APP)
    await _is_refused(container)


async def test_a_session_that_the_application_holds() -> None:
    def wanted(services: Services) -> object:
        return services.late

    async def services() -> AsyncIterator[Services]:
        services = Services()
        services.late = AsyncSession()
        yield services

    container = _container(wanted)
    container.provide(services, lifetime=Lifetime.APP)
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            await current_scope().get(Wanted)
            async with fence.user_context("bob-22"):
                with pytest.raises(OwnershipError):
                    await current_scope().get(Wanted)


async def test_the_applications_are_known_as_long_as_it_is_open() -> None:
    container = Container()
    container.provide(Services, lifetime=Lifetime.APP)
    async with Ringfence(services=container) as fence, fence.user_context("alice-1"):
        services = await current_scope().get(Services)
        assert container._app.has(services.cache)
    assert container._app.known == {}


def test_attributes_in_a_dict_and_in_slots_without_running_code() -> None:
    @attrs.define
    class Slotted:
        there: list[int]
        missing: list[int] = attrs.field(init=False)

        @property
        def computed(self) -> None:
            raise AssertionError

    services, numbers = Services(), [1]
    assert any(each is services.cache for each in attributes_of(services))
    assert any(each is numbers for each in attributes_of(Slotted(numbers)))
    assert attributes_of(Services) == attributes_of(1) == ()


@pytest.mark.parametrize("lifetime", [Lifetime.APP, Lifetime.TRANSIENT])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_factory_of_any_lifetime_hands_on_nothing_of_another_requests(
    lifetime: Lifetime, is_async: bool
) -> None:
    class Cart: ...

    class Handed(Cart): ...

    kept: list[Any] = []

    def hand_on() -> Handed:
        return cast(Handed, kept[0])

    async def hand_on_later() -> Handed:
        return hand_on()

    container = Container()
    container.provide(Cart)
    container.provide(hand_on_later if is_async else hand_on, gives=Handed, lifetime=lifetime)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        kept.append(await current_scope().get(Cart))
        async with fence.user_context("bob-1"):
            with pytest.raises(OwnershipError) as refused:
                await current_scope().get(Handed)
            with pytest.raises(OwnershipError):
                current_scope().check(kept[0])
        if lifetime is Lifetime.TRANSIENT:
            assert await current_scope().get(Handed) is kept[0]
    where = "the application is" if lifetime is Lifetime.APP else "request `"
    assert f"but {where}" in str(refused.value)
