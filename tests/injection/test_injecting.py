"""`inject` on whatever is called: filled at the call, and out of sight in the signature."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import typing
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import fastapi
import pydantic
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    MissingProviderError,
    NoContextError,
    Ringfence,
    UnreachableProviderError,
    UserExecutionContext,
    current_scope,
    user_context,
)
from ringfence.injection import Container, Injected, Qualifier, inject

if TYPE_CHECKING:
    from ringfence.audit import Elsewhere  # type: ignore[import-not-found]


class Pool:
    pass


class Other:
    pass


@pytest.fixture
def fence() -> Ringfence:
    container = Container()
    container.provide(Pool)
    container.provide(lambda: 3, gives=Annotated[int, Qualifier("three")])
    return Ringfence(services=container)


# --- kinds of callables -----------------------------------------------------------------------


@inject
async def coroutine(word: str, pool: Injected[Pool], times: int = 1) -> tuple[str, Pool]:
    """Says a word."""
    return word * times, pool


@inject
def plain(word: str, *, pool: Injected[Pool]) -> tuple[str, Pool]:
    return word, pool


@inject
async def async_generator(word: str, pool: Injected[Pool]) -> AsyncIterator[object]:
    yield word
    yield pool


@inject
def generator(word: str, pool: Injected[Pool]) -> Iterator[object]:
    yield word
    yield pool


class Service:
    @inject
    async def method(self, pool: Injected[Pool], word: str) -> tuple[str, Pool]:
        return word, pool

    @inject
    @classmethod
    def of_class(cls, word: str, pool: Injected[Pool]) -> tuple[type, str, Pool]:
        return cls, word, pool

    @inject
    @staticmethod
    async def static(word: str, pool: Injected[Pool]) -> tuple[str, Pool]:
        return word, pool

    async def __call__(self, word: str, pool: Injected[Pool]) -> tuple[str, Pool]:
        return word, pool

    def bound(self, word: str, pool: Injected[Pool]) -> tuple[str, Pool]:
        return word, pool


@inject
class Handler:
    def __init__(self, word: str, pool: Injected[Pool]) -> None:
        self.both = (word, pool)


async def test_functions_and_methods(fence: Ringfence) -> None:
    async with fence.user_context("alice-1"):
        pool = await current_scope().get(Pool)
        assert await coroutine("a") == ("a", pool)
        assert await coroutine("a", 2) == ("aa", pool)
        assert await coroutine(word="a", times=2) == ("aa", pool)
        assert plain("a") == ("a", pool)
        assert await Service().method("a") == ("a", pool)
        assert await Service().method(word="a") == ("a", pool)
        assert Service.of_class("a") == (Service, "a", pool)
        assert await Service.static("a") == ("a", pool)
        assert Handler("a").both == ("a", pool)
        assert isinstance(Handler("a"), Handler)


async def test_generators_are_filled_when_they_begin(fence: Ringfence) -> None:
    stream, numbers = async_generator("a"), generator("a")
    async with fence.user_context("alice-1"):
        pool = await current_scope().get(Pool)
        assert [item async for item in stream] == ["a", pool]
        assert list(numbers) == ["a", pool]


async def test_partials_callable_objects_and_bound_methods(fence: Ringfence) -> None:
    partial = inject(functools.partial(coroutine.__wrapped__, times=3))  # type: ignore[attr-defined]
    called, bound = inject(Service()), inject(Service().bound)
    async with fence.user_context("alice-1"):
        pool = await current_scope().get(Pool)
        assert await partial("a") == ("aaa", pool)
        assert await called("a") == ("a", pool)
        assert bound("a") == ("a", pool)


async def test_an_async_generator_is_passed_what_comes_and_closed(fence: Ringfence) -> None:
    seen: list[object] = []

    @inject
    async def echo(pool: Injected[Pool]) -> Any:
        sent: object = "begun"
        try:
            while True:
                try:
                    sent = yield sent
                except ValueError as error:
                    sent = repr(error)
        finally:
            seen.append("closed")

    async with fence.user_context("alice-1"):
        stream = echo()
        assert await anext(stream) == "begun"
        assert await stream.asend(1) == 1
        assert await stream.athrow(ValueError("x")) == "ValueError('x')"
        await stream.aclose()
        assert seen == ["closed"]

        @contextlib.asynccontextmanager
        @inject
        async def managed(pool: Injected[Pool]) -> AsyncIterator[Pool]:
            try:
                yield pool
            except KeyError:
                seen.append("thrown in")

        async with managed() as pool:
            assert pool is await current_scope().get(Pool)
            raise KeyError
    assert seen == ["closed", "thrown in"]


async def test_a_subclass_of_an_injected_class_is_filled_too(fence: Ringfence) -> None:
    class Sub(Handler):
        pass

    async with fence.user_context("alice-1"):
        assert Sub("a").both == ("a", await current_scope().get(Pool))


async def test_each_call_asks_the_scope_that_is_open(fence: Ringfence) -> None:
    async with fence.user_context("alice-1"):
        _, one = await coroutine("a")
    async with fence.user_context("bob-22"):
        _, two = await coroutine("a")
    assert one is not two


async def test_local_types_qualifiers_and_wishes(fence: Ringfence) -> None:
    @inject
    def fetch(
        three: Injected[Annotated[int, Qualifier("three")]],
        ctx: Injected[UserExecutionContext],
        wish: Injected[Other | None],
        lacking: Injected[Other] = None,  # type: ignore[assignment]
    ) -> tuple[object, ...]:
        return three, ctx.user_id, wish, lacking

    async with fence.user_context("alice-1"):
        assert fetch() == (3, "alice-1", None, None)


async def test_what_is_passed_by_name_decides(fence: Ringfence) -> None:
    own = Pool()
    assert await coroutine.__wrapped__("a", own) == ("a", own)  # type: ignore[attr-defined]
    async with fence.user_context("alice-1"):
        for _ in range(2):  # when another is not there, and when it is
            assert await coroutine("a", pool=own) == ("a", own)
            assert plain("a", pool=own) == ("a", own)
            await current_scope().get(Pool)


async def test_a_type_that_is_known_later_is_asked_for_then(fence: Ringfence) -> None:
    @inject
    def early(late: Injected[Late]) -> object:
        return late

    assert str(inspect.signature(early)) == "() -> 'object'"

    class Local:
        pass

    globals()["Late"] = Pool
    try:
        async with fence.user_context("alice-1"):
            assert early() is await current_scope().get(Pool)
    finally:
        del globals()["Late"]


async def test_a_type_that_is_named_in_quotes_is_asked_for_too(fence: Ringfence) -> None:
    def early(late: object) -> object:
        return late

    early.__annotations__["late"] = Injected["Late"]  # as without postponed annotations
    early = inject(early)
    assert str(inspect.signature(early)) == "() -> 'object'"
    async with fence.user_context("alice-1"):
        with pytest.raises(MissingProviderError, match="asks as `late` for `Late`, which is not"):
            early()
        globals()["Late"] = Pool
        try:
            assert early() is await current_scope().get(Pool)
        finally:
            del globals()["Late"]


if TYPE_CHECKING:
    Late = Pool


# --- what is seen of it -----------------------------------------------------------------------


def test_the_signature_shows_what_a_caller_gives() -> None:
    assert str(inspect.signature(coroutine)) == (
        "(word: 'str', times: 'int' = 1) -> 'tuple[str, Pool]'"
    )
    assert list(inspect.signature(Handler).parameters) == ["word"]
    assert list(inspect.signature(Service().method).parameters) == ["word"]
    assert list(inspect.signature(Service.of_class).parameters) == ["word"]
    assert list(inspect.signature(inject(Service())).parameters) == ["word"]
    assert typing.get_type_hints(coroutine) == {
        "word": str, "times": int, "return": tuple[str, Pool],
    }  # fmt: skip


def test_it_is_still_what_it_was() -> None:
    assert coroutine.__name__ == "coroutine"
    assert coroutine.__doc__ == "Says a word."
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.iscoroutinefunction(Service.method)
    assert inspect.iscoroutinefunction(inject(Service()))
    assert inspect.isasyncgenfunction(async_generator)
    assert inspect.isgeneratorfunction(generator)
    assert not inspect.iscoroutinefunction(plain)


# --- refusals ---------------------------------------------------------------------------------


async def test_outside_a_scope_and_after_it_nothing_is_injected(fence: Ringfence) -> None:
    with pytest.raises(NoContextError):
        await coroutine("a")
    async with user_context("alice-1"):
        with pytest.raises(ConfigurationError, match="no container"):
            plain("a")
    async with fence.user_context("alice-1"):
        await coroutine("a")
        late = contextvars.copy_context()
    with pytest.raises(ContextClosedError):
        late.run(plain, "a")
    with pytest.raises(ContextClosedError):
        late.run(coroutine("a").send, None)


async def test_what_is_not_provided_is_said(fence: Ringfence) -> None:
    @inject
    async def asking(other: Injected[Other]) -> None:
        raise NotImplementedError

    @inject
    def unknown(other: Injected[Elsewhere]) -> None:
        raise NotImplementedError

    async with fence.user_context("alice-1"):
        with pytest.raises(MissingProviderError, match="no provider for `Other`"):
            await asking()
        with pytest.raises(MissingProviderError, match=r"asks as `other` for .*Elsewhere"):
            unknown()


async def test_plain_functions_get_only_what_needs_no_await() -> None:
    container = Container()

    @container.provide
    async def pool() -> Pool:
        return Pool()

    async with Ringfence(services=container).user_context("alice-1"):
        with pytest.raises(UnreachableProviderError):
            plain("a")
        await coroutine("a")
        assert plain("a")[1] is await current_scope().get(Pool)


def test_what_could_not_be_filled_is_refused_at_once() -> None:
    def nothing(word: str) -> None: ...

    def before_rest(pool: Injected[Pool], *words: str) -> None: ...

    def by_place(pool: Injected[Pool], /) -> None: ...

    class Bare:
        pass

    for target in (nothing, Bare):
        with pytest.raises(ConfigurationError, match="no parameter to inject"):
            inject(target)
    for target in (before_rest, by_place):
        with pytest.raises(ConfigurationError, match="by place only"):
            inject(target)


async def test_too_many_or_double_arguments_are_told_as_python_does(fence: Ringfence) -> None:
    async with fence.user_context("alice-1"):
        with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3"):
            await coroutine("a", 2, 3)
        with pytest.raises(TypeError, match="multiple values for argument 'times'"):
            await coroutine("a", 2, times=3)
        with pytest.raises(TypeError, match="missing"):
            await coroutine()


async def test_rest_behind_a_star_is_fine(fence: Ringfence) -> None:
    @inject
    def joined(*words: str, pool: Injected[Pool], **more: int) -> tuple[object, ...]:
        return words, type(pool), more

    async with fence.user_context("alice-1"):
        assert joined("a", "b", n=1) == (("a", "b"), Pool, {"n": 1})


def test_without_inject_no_framework_takes_it_from_the_client() -> None:
    class Plan(pydantic.BaseModel):
        is_paid: bool

    def handler(plan: Plan) -> bool:
        return plan.is_paid

    handler.__annotations__["plan"] = Injected[Plan]
    with pytest.raises(ConfigurationError, match="`Plan` is marked .* without `@inject`"):
        fastapi.FastAPI().post("/")(handler)
