"""Wrappers written for one function do what those for any do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from ringfence import (
    MissingProviderError,
    Ringfence,
    UserExecutionContext,
    child_context,
    current_scope,
)
from ringfence.injection import Container, Injected, Lifetime, inject


class Pool:
    pass


class Store:
    pass


class Lacking:
    pass


def fenced() -> Ringfence:
    container = Container()
    container.provide(Pool, lifetime=Lifetime.APP)
    container.provide(Store)
    return Ringfence(services=container)


@pytest.fixture
def fence() -> Ringfence:
    return fenced()


def is_tailored(function: Any) -> bool:
    filename: str = function.__code__.co_filename
    return filename.startswith("<injected ")


# --- the same as any other --------------------------------------------------------------------


def first(store: Injected[Store], word: str, times: int = 1) -> Any:
    return store, word, times


def middle(word: str, store: Injected[Store], pool: Injected[Pool], times: int = 1) -> Any:
    return word, store, pool, times


def last(word: str = "w", *, times: int, store: Injected[Store], more: str = "m") -> Any:
    return word, times, store, more


def defaulted(word: str, store: Injected[Store | None] = None, times: int = 2) -> Any:
    return word, store, times


def alone(*, ctx: Injected[UserExecutionContext], lacking: Injected[Lacking | None]) -> Any:
    return ctx, lacking


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (first, ("a",), {}),
    (first, ("a", 2), {}),
    (first, (), {"times": 2, "word": "a"}),
    (first, ("a",), {"store": 7}),
    (middle, ("a",), {}),
    (middle, ("a", 3), {"pool": None}),
    (middle, (), {"word": "a", "store": 1, "pool": 2}),
    (last, (), {"times": 1}),
    (last, ("a",), {"times": 1, "more": "b"}),
    (defaulted, ("a", 3), {}),
    (alone, (), {}),
    (alone, (), {"lacking": 3}),
]
WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (first, (), {}),
    (first, ("a", 1, 2), {}),
    (first, ("a",), {"word": "b"}),
    (last, ("a", 1), {}),
    (alone, (), {"nonsense": 1}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
async def test_a_tailored_function_gives_what_the_plain_wrapper_gives(
    fence: Ringfence, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    fast, slow = inject(function), inject(functools.partial(function))
    assert is_tailored(fast)
    assert not is_tailored(slow)
    async with fence.user_context("alice-1"):
        there = slow(*args, **kwargs)
        for _ in range(3):  # what is known of the container the second time, is used the third
            assert fast(*args, **kwargs) == there
        async with child_context("tool"):
            assert fast(*args, **kwargs) == slow(*args, **kwargs)


@pytest.mark.parametrize(("function", "args", "kwargs"), WRONG)
async def test_a_tailored_function_refuses_what_python_would(
    fence: Ringfence, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    async with fence.user_context("alice-1"):
        with pytest.raises(TypeError, match=function.__name__):
            inject(function)(*args, **kwargs)


async def test_all_kinds_of_functions_are_tailored(fence: Ringfence) -> None:
    class Service:
        @inject
        def __init__(self, store: Injected[Store]) -> None:
            self.store = store

        @inject
        async def method(self, word: str, *, store: Injected[Store]) -> tuple[str, Store]:
            return word, store

        @inject
        @classmethod
        def of_class(cls, word: str, store: Injected[Store]) -> tuple[type, str, Store]:
            return cls, word, store

        @inject
        @staticmethod
        async def static(store: Injected[Store], word: str) -> tuple[str, Store]:
            return word, store

    for function in (Service.__init__, Service.method, Service.of_class, Service.static):
        assert is_tailored(inspect.unwrap(function, stop=is_tailored))
    assert is_tailored(Service.static)
    assert inspect.iscoroutinefunction(Service.method)
    async with fence.user_context("alice-1"):
        for _ in range(3):
            service, store = Service(), await current_scope().get(Store)
            assert service.store is store
            assert await service.method("a") == ("a", store)
            assert service.of_class("a") == (Service, "a", store)
            assert await service.static("a") == ("a", store)


# --- not tailored -----------------------------------------------------------------------------


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that looks at what is given by name."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return args, sorted(kwargs)

    return call


async def test_what_a_decorator_is_given_is_given_as_it_was(fence: Ringfence) -> None:
    decorated = inject(doubled(middle))
    async with fence.user_context("alice-1"):
        for _ in range(3):
            assert decorated("a") == (("a",), ["pool", "store"])
            assert decorated(word="a") == ((), ["pool", "store", "word"])


async def test_names_that_the_wrapper_uses_may_be_the_functions_own(fence: Ringfence) -> None:
    @inject
    def clash(
        target: str, found: int, asked_store: str, store: Injected[Store], MISSING: int = 4
    ) -> Any:
        return target, found, asked_store, type(store), MISSING

    async with fence.user_context("alice-1"):
        for _ in range(3):
            assert clash("t", 1, "a") == ("t", 1, "a", Store, 4)


async def test_rest_parameters_take_the_plain_wrapper(fence: Ringfence) -> None:
    @inject
    async def joined(*words: str, store: Injected[Store], **more: int) -> Any:
        return words, store, more

    own = Store()
    async with fence.user_context("alice-1"):
        assert await joined("a", store=own) == (("a",), own, {})  # no other is there
        store = await current_scope().get(Store)
        assert await joined("a", store=own) == (("a",), own, {})
        assert await joined("a", "b", n=1) == (("a", "b"), store, {"n": 1})


async def test_what_stands_behind_is_given_by_name_in_the_plain_wrapper(fence: Ringfence) -> None:
    partial = inject(functools.partial(first))
    async with fence.user_context("alice-1"):
        assert partial("a", 2) == (await current_scope().get(Store), "a", 2)
        with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
            partial("a", 2, 3)
        with pytest.raises(TypeError, match="multiple values for argument 'times'"):
            partial("a", 2, times=3)


# --- whose it is ------------------------------------------------------------------------------


@inject
async def both(pool: Injected[Pool], store: Injected[Store]) -> tuple[Pool, Store]:
    return pool, store


async def test_each_container_is_asked_for_its_own() -> None:
    one, other = fenced(), fenced()
    met: list[tuple[Pool, Store]] = []
    for fence in (one, other, one, other):
        async with fence.user_context("alice-1"):
            for _ in range(3):
                met.append(await both())
            assert met[-1][1] is await current_scope().get(Store)
    assert len({id(pool) for pool, _ in met}) == 2
    assert len({id(store) for _, store in met}) == 4


async def test_an_override_holds_for_a_call_whose_object_is_there() -> None:
    container, fake = Container(), Store()
    container.provide(Pool, lifetime=Lifetime.APP)
    container.provide(Store)
    async with Ringfence(services=container).user_context("alice-1"):
        for _ in range(3):
            assert (await both())[1] is not fake
        with container.override(Store, fake):
            assert (await both())[1] is fake
        assert (await both())[1] is not fake


async def test_what_may_be_lacking_is_lacking_each_time(fence: Ringfence) -> None:
    container = Container()

    @container.provide
    def store() -> Store:
        raise MissingProviderError("Nothing here.", "Look elsewhere.", path=("Store",))

    wishing = inject(defaulted)
    async with Ringfence(services=container).user_context("alice-1"):
        for _ in range(3):
            assert wishing("a") == ("a", None, 2)
