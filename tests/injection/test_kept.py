"""A plain object that one of the application's has kept is reported, by whomever it is met."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from ringfence import OwnershipError, Ringfence, UserExecutionContext, child_context, current_scope
from ringfence.injection import Container, Lifetime
from ringfence.injection.kept import MOST, keeps


class Notes:
    pass


class Smuggler:
    kept: Any = None

    def __init__(self) -> None:
        self.lists: dict[str, list[object]] = {"kept": []}


def _container(lifetime: Lifetime) -> Container:
    container = Container()
    container.provide(Notes, lifetime=lifetime)
    container.provide(Smuggler, lifetime=Lifetime.APP)
    return container


@pytest.mark.parametrize("lifetime", [Lifetime.REQUEST, Lifetime.OPERATION])
async def test_it_is_reported_after_its_scope_has_ended(lifetime: Lifetime) -> None:
    fence = Ringfence(services=_container(lifetime))
    async with fence.user_context("alice-1"), child_context("tool"):
        smuggler = await current_scope().get(Smuggler)
        smuggler.lists["kept"].append(await current_scope().get(Notes))
    async with fence.user_context("bob-22"):
        (notes,) = (await current_scope().get(Smuggler)).lists["kept"]
        with pytest.raises(OwnershipError, match="`Smuggler` keeps it"):
            current_scope().check(notes)
        with pytest.raises(OwnershipError):
            current_scope().own(notes)


@pytest.mark.parametrize("lifetime", [Lifetime.REQUEST, Lifetime.OPERATION, Lifetime.TRANSIENT])
async def test_whatever_type_a_factory_gave_is_reported(lifetime: Lifetime) -> None:
    class Tea(Notes): ...

    class Coffee(Notes): ...

    kinds = iter((Tea, Coffee))

    def notes(ctx: UserExecutionContext) -> Notes:  # so that it is the request's
        return next(kinds)()

    container = Container()
    container.provide(notes, lifetime=lifetime)
    container.provide(Smuggler, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)
    for user in ("alice-1", "bob-22"):
        async with fence.user_context(user):
            smuggler = await current_scope().get(Smuggler)
            smuggler.lists["kept"].append(await current_scope().get(Notes))
    async with fence.user_context("carol-3"):
        for each in smuggler.lists["kept"]:
            with pytest.raises(OwnershipError, match="keeps it"):
                current_scope().check(each)


async def test_while_its_own_is_open_that_one_may_use_it_and_no_other() -> None:
    fence = Ringfence(services=_container(Lifetime.REQUEST))
    async with fence.user_context("alice-1"):
        smuggler = await current_scope().get(Smuggler)
        smuggler.kept = await current_scope().get(Notes)
        assert current_scope().check(smuggler.kept) is smuggler.kept
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError, match="belongs to request"):
                current_scope().check(smuggler.kept)


async def test_what_a_user_had_is_reported_when_nothing_is_kept_for_that_user_any_more() -> None:
    container = _container(Lifetime.USER)
    container._app.users.limit = 0
    async with Ringfence(services=container) as fence:
        async with fence.user_context("alice-1"):
            smuggler = await current_scope().get(Smuggler)
            smuggler.kept = await current_scope().get(Notes)
        async with fence.user_context("bob-22"):
            with pytest.raises(OwnershipError, match="keeps it"):
                current_scope().check(smuggler.kept)


async def test_nothing_else_is_accused() -> None:
    """What nobody of the application's keeps, what is of no kind that is made, what is its own."""
    container = _container(Lifetime.REQUEST)
    shared = Notes()

    class Services:
        def __init__(self) -> None:
            self.notes = shared

    container.provide(Services, lifetime=Lifetime.APP)
    fence = Ringfence(services=container)
    async with fence.user_context("alice-1"):
        smuggler = await current_scope().get(Smuggler)
        await current_scope().get(Services)
        left = await current_scope().get(Notes)
    smuggler.kept = other = [1]
    async with fence.user_context("bob-22"):
        for each in (left, other, smuggler, Notes(), shared):
            assert current_scope().check(each) is each


def test_what_leads_to_an_object_and_what_does_not() -> None:
    notes = Notes()
    smuggler = Smuggler()
    smuggler.kept = smuggler
    assert not keeps(smuggler, notes)
    for way in ([notes], {"a": (notes,)}, {frozenset([notes])}, deque([notes]), {notes: 1}):
        smuggler.kept = way
        assert keeps(smuggler, notes)
    smuggler.kept = [[n] for n in range(MOST)]
    smuggler.kept.append([notes])
    assert not keeps(smuggler, notes)  # it would take too long
