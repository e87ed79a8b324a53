"""Functions that are written for a wish do what the plans do, one object after the other."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from ringfence import OwnershipError, Ringfence, current_scope
from ringfence.injection import Container, Lifetime
from ringfence.injection.writing import DEEPEST, MOST
from ringfence.isolation import registry


class Pool:
    pass


class Clock:
    pass


class Session:
    def __init__(self, pool: Pool, clock: Clock) -> None:
        self.pool = pool
        self.clock = clock


class Users:
    def __init__(self, session: Session) -> None:
        self.session = session


class Orders:
    def __init__(self, session: Session, *, users: Users) -> None:
        self.session = session
        self.users = users


def _container(*sources: Any) -> Container:
    container = Container()
    container.provide(Pool, lifetime=Lifetime.APP)
    container.provide(Clock, lifetime=Lifetime.TRANSIENT)
    for source in sources:
        container.provide(source)
    return container


async def _thrice(container: Container, look: Callable[[], Any]) -> list[Any]:
    """What is seen in three requests: the first asks plan by plan, the others what is written."""
    fence, seen = Ringfence(services=container), []
    for number in range(3):
        async with fence.user_context(f"alice-{number}"):
            seen.append(look())
    return seen


async def test_each_request_has_one_of_each_and_the_application_one_for_all() -> None:
    def look() -> Orders:
        orders = current_scope().get_now(Orders)
        assert orders.session is orders.users.session is current_scope().get_now(Session)
        assert orders.users is current_scope().get_now(Users)
        assert current_scope().get_now(Orders) is orders
        return orders

    seen = await _thrice(_container(Session, Users, Orders), look)
    assert len({id(each.session) for each in seen}) == 3
    assert len({id(each.session.clock) for each in seen}) == 3
    assert len({id(each.session.pool) for each in seen}) == 1


async def test_each_part_is_made_once_whoever_asks_for_it() -> None:
    made: list[object] = []

    class Counted:
        def __init__(self, pool: Pool) -> None:
            made.append(self)

    class Left:
        def __init__(self, counted: Counted) -> None:
            self.counted = counted

    class Right:
        def __init__(self, counted: Counted, left: Left) -> None:
            self.both = counted, left.counted

    container = _container()
    for kind in (Counted, Left, Right):
        container.provide(kind)

    def look() -> bool:
        left = current_scope().get_now(Left)
        both = current_scope().get_now(Right).both
        return both == (left.counted, left.counted)

    assert await _thrice(container, look) == [True] * 3
    assert len(made) == 3


async def test_what_is_there_is_not_made_again_nor_what_it_would_ask_for() -> None:
    made: list[str] = []

    def clock() -> Clock:
        made.append("clock")
        return Clock()

    def session(pool: Pool, clock: Clock) -> Session:
        made.append("session")
        return Session(pool, clock)

    container = Container()
    container.provide(Pool, lifetime=Lifetime.APP)
    container.provide(clock, lifetime=Lifetime.TRANSIENT)
    for source in (session, Users, Orders):
        container.provide(source)

    def look() -> None:
        made.clear()
        session = current_scope().get_now(Session)
        assert current_scope().get_now(Orders).session is session
        assert made == ["clock", "session"]

    await _thrice(container, look)


async def test_what_an_override_gives_is_in_it() -> None:
    container, fake = _container(Session, Users, Orders), Pool()
    with container.override(Pool, fake):
        faked = await _thrice(container, lambda: current_scope().get_now(Orders).session.pool)
    assert faked == [fake] * 3
    assert fake not in await _thrice(
        container, lambda: current_scope().get_now(Orders).session.pool
    )


async def test_a_factory_that_gives_two_requests_one_object_is_refused_here_too() -> None:
    shared = Session(Pool(), Clock())
    container = Container()
    is_shared = False

    def session() -> Session:
        return shared if is_shared else Session(Pool(), Clock())

    container.provide(session)
    container.provide(Users)
    await _thrice(container, lambda: current_scope().get_now(Users))
    is_shared = True
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        assert current_scope().get_now(Users).session is shared
        async with fence.user_context("bob-2"):
            with pytest.raises(OwnershipError):
                current_scope().get_now(Users)


class Singleton:
    only: Any = None

    def __new__(cls) -> Any:
        cls.only = cls.only or super().__new__(cls)
        return cls.only


class Always(type):
    made: Any = None

    def __call__(cls, *args: Any) -> Any:
        cls.made = cls.made or super().__call__(*args)
        return cls.made


class OfMeta(metaclass=Always):
    pass


@pytest.mark.parametrize("cls", [Singleton, OfMeta])
async def test_a_class_that_gives_two_requests_one_object_is_refused(cls: type) -> None:
    container = _container(cls)
    fence = Ringfence(services=container)
    for _ in range(3):
        async with fence.user_context("alice-1"):
            current_scope().get_now(cls)
            async with fence.user_context("bob-2"):
                with pytest.raises(OwnershipError):
                    current_scope().get_now(cls)


async def test_an_error_shows_the_line_that_was_written() -> None:
    class Broken:
        def __init__(self, session: Session) -> None:
            raise KeyError("broken")

    class Asks:
        def __init__(self, broken: Broken) -> None: ...

    container = Container()
    for source in (Pool, Clock, Session):
        container.provide(source)
    container.provide(Broken)
    container.provide(Asks)

    def look() -> str:
        with pytest.raises(KeyError, match="broken") as caught:
            current_scope().get_now(Asks)
        return "".join(traceback.format_exception(caught.value))

    first, _, last = await _thrice(container, look)
    assert "ringfence: making" not in first
    assert "keep_new(plan1, make1(part2_session))" in last


def _chain(count: int) -> list[type]:
    classes: list[type] = []
    for number in range(count):
        space: dict[str, Any] = {"below": None}
        if classes:

            def __init__(self: Any, below: Any) -> None:
                self.below = below

            __init__.__annotations__ = {"below": classes[-1], "return": None}
            space["__init__"] = __init__
        classes.append(type(f"Link{number}", (), space))
    return classes


@pytest.mark.parametrize("count", [1, DEEPEST, DEEPEST + 1, 2 * DEEPEST + 30])
async def test_a_chain_of_any_length(count: int) -> None:
    classes = _chain(count)
    container = _container(*classes)

    def look() -> list[Any]:
        links = [current_scope().get_now(classes[-1])]
        while links[-1].below is not None:
            links.append(links[-1].below)
        return links

    for links in await _thrice(container, look):
        assert [type(each) for each in links] == classes[::-1]


async def test_one_that_asks_for_more_than_fit() -> None:
    leaves = [type(f"Leaf{number}", (), {}) for number in range(MOST + 20)]

    class All:
        parts: dict[str, Any]

    def give(*parts: Any) -> All:
        found = All()
        found.parts = dict(enumerate(parts))  # type: ignore[arg-type]
        return found

    text = ", ".join(f"p{number}" for number in range(len(leaves)))
    space: dict[str, Any] = {"give": give}
    exec(f"def wide({text}): return give({text})", space)
    wide = space["wide"]
    wide.__annotations__ = {f"p{n}": leaf for n, leaf in enumerate(leaves)} | {"return": All}
    container = _container(*leaves, wide)
    for found in await _thrice(container, lambda: current_scope().get_now(All)):
        assert [type(each) for each in found.parts.values()] == leaves


# --- who owns what, before and after somebody looks -------------------------------------------


class Looks:
    """Looks, while it is made, whether something is another's."""

    def __init__(self, session: Session) -> None:
        self.session = session
        current_scope().check(self)


class After:
    def __init__(self, looks: Looks, users: Users) -> None:
        if LOOKS_FAIL:
            raise ValueError("after all the rest")
        self.parts = looks, users


LOOKS_FAIL: list[bool] = []


async def _refused_elsewhere(fence: Ringfence, *things: Any) -> None:
    async with fence.user_context("bob-2"):
        for thing in things:
            with pytest.raises(OwnershipError):
                current_scope().check(thing)


async def test_nothing_is_entered_before_somebody_looks_and_then_everything_is() -> None:
    fence = Ringfence(services=_container(Session, Users, Orders))
    for _ in range(3):
        async with fence.user_context("alice-1"):
            users = current_scope().get_now(Users)
            assert registry._entries == {}
            assert len(registry) == 2
            orders = current_scope().get_now(Orders)
            assert len(registry) == 3
            await _refused_elsewhere(fence, users, users.session, orders)
        assert len(registry._entries) == len(registry.unlisted) == 0


async def test_what_is_made_while_somebody_looks_is_owned_although_the_making_fails() -> None:
    fence = Ringfence(services=_container(Session, Users, Looks, After))
    for fails in ([], [], [], [True]):
        LOOKS_FAIL[:] = fails
        async with fence.user_context("alice-1"):
            if fails:
                with pytest.raises(ValueError, match="after all the rest"):
                    current_scope().get_now(After)
            else:
                await _refused_elsewhere(fence, current_scope().get_now(After))
            await _refused_elsewhere(fence, current_scope().get_now(Users))
        assert len(registry._entries) == len(registry.unlisted) == 0


async def test_an_ended_request_is_not_asked_what_it_owned() -> None:
    fence = Ringfence(services=_container(Session, Users))
    for has_callback in (False, False, True):
        async with fence.user_context("alice-1"):
            current_scope().get_now(Users)
            assert len(registry.unlisted) == 1
            if has_callback:
                current_scope().callback(list)
        assert not registry.unlisted


class Interrupted(dict[Any, Any]):
    """What a holder has made, where another thread does something as soon as it was read."""

    def __init__(self, made: Any, then: Callable[[], None]) -> None:
        super().__init__(made)
        self.then: Callable[[], None] | None = then

    def values(self) -> Any:
        read = list(super().values())
        then, self.then = self.then, None
        if then is not None:
            thread = threading.Thread(target=then)
            thread.start()
            thread.join(5)
        return read


async def test_what_another_thread_lets_go_of_meanwhile_is_not_entered() -> None:
    fence = Ringfence(services=_container(Session, Users))
    async with fence.user_context("alice-1"):
        current_scope().get_now(Users)
        holder: Any = current_scope()._extras
        plan = next(plan for plan in holder.made if plan.name == "Users")
        holder.made = Interrupted(holder.made, lambda: holder.forget(plan))
        assert len(registry) == 1


async def test_what_another_thread_closes_meanwhile_is_not_entered() -> None:
    fence = Ringfence(services=_container(Session, Users))
    async with fence.user_context("alice-1"):
        current_scope().get_now(Users)
        holder: Any = current_scope()._extras
        holder.made = Interrupted(holder.made, holder.disown)
        assert len(registry) == 0


async def test_another_thread_waits_until_everything_is_entered() -> None:
    fence, seen = Ringfence(services=_container(Session, Users)), []
    async with fence.user_context("alice-1"):
        users = current_scope().get_now(Users)
        holder: Any = current_scope()._extras
        ask = threading.Thread(target=lambda: seen.append(registry.owner_of(users)))
        holder.made = Interrupted(holder.made, ask.start)
        assert len(registry) == 2
        ask.join(5)
        assert seen == [holder]
