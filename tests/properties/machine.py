"""
A machine of scopes, children and owned objects in several contexts, which hypothesis drives.

Each context stands for a task: it is copied as a task's is, and steps in it in any order. The model
never asks a ContextVar; it keeps for each context who was entered there.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any, ClassVar

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from ringfence import (
    ContextClosedError,
    ContextLimitError,
    NoContextError,
    OwnershipError,
    child_context,
    current_context,
    current_scope,
    nobody,
    user_context,
)
from ringfence.isolation import registry
from ringfence.state import open_roots

USERS = ("alice-1", "bob-22", "carol-3")
REFUSED = (ContextClosedError, NoContextError)
DEEPEST = 10


@attrs.define(eq=False)
class Opened:
    """What the model knows of a scope."""

    block: Any
    user: str | None
    parent: Opened | None
    below: Opened | None
    was_sure: bool
    is_open: bool = True
    depth: int = 0
    finalisers: list[int] = attrs.field(factory=list)
    ran: list[int] = attrs.field(factory=list)
    owned: list[object] = attrs.field(factory=list)

    @property
    def root(self) -> Opened:
        return self if self.parent is None else self.parent.root


@attrs.define(eq=False)
class Place:
    """
    A context: who was entered there and not left there, innermost last.

    Attributes:
        is_sure: whether the innermost of them must be current. After scopes were left out of order
            it may be another open one of them, or nobody.
    """

    context: Context
    entered: list[Opened] = attrs.field(factory=list)
    is_sure: bool = True

    @property
    def here(self) -> Opened | None:
        return self.entered[-1] if self.entered else None


class Scopes(RuleBasedStateMachine):
    """Run by `run_state_machine_as_test`; `steps` counts those of all runs."""

    steps: ClassVar[int] = 0
    places = Bundle("places")
    scopes = Bundle("scopes")
    objects = Bundle("objects")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.all_places: list[Place] = []
        self.all_scopes: list[Opened] = []
        self.number = 0
        # A run that failed may have left something, and is repeated to shorten it.
        self.before = len(open_roots()), len(registry)

    def read(self, place: Place) -> str | None:
        """The user whom the library shows there; `None` if it refuses."""
        try:
            return place.context.run(current_context).user_id
        except REFUSED:
            return None

    def is_refused(self, place: Place, obj: object) -> bool:
        """Whether the library says there that an object is another's."""
        try:
            place.context.run(lambda: current_scope().check(obj))
        except OwnershipError:
            return True
        return False

    def run(self, place: Place, step: Any) -> Any:
        async def stepping() -> Any:
            return await step()

        return self.loop.run_until_complete(
            self.loop.create_task(stepping(), context=place.context)
        )

    # --- steps --------------------------------------------------------------------------------

    @initialize(target=places)
    def first(self) -> Place:
        return self._kept(Place(Context()))

    @rule(target=places, place=places)
    def fork(self, place: Place) -> Place:
        """As a task does that is started there."""
        twin = Place(place.context.run(Context.copy, place.context), [*place.entered])
        twin.is_sure = place.is_sure
        return self._kept(twin)

    @rule(target=places)
    def begin_anew(self) -> Place:
        return self._kept(Place(Context()))

    @rule(target=scopes, place=places, user=st.sampled_from(USERS))
    def enter_root(self, place: Place, user: str) -> Opened:
        return self._enter(place, user_context(user), user, None)

    @rule(target=scopes, place=places)
    def enter_nobody(self, place: Place) -> Opened:
        return self._enter(place, nobody(), None, None)

    @rule(target=scopes, place=places)
    def enter_child(self, place: Place) -> Any:
        here = place.here
        if not place.is_sure:
            return multiple()
        try:
            block = place.context.run(child_context, "step")
        except REFUSED:
            assert here is None or not here.is_open or here.user is None
        except ContextLimitError:
            assert here is not None
            assert here.depth == DEEPEST
        else:
            assert here is not None
            assert here.is_open
            assert here.depth < DEEPEST
            return self._enter(place, block, here.user, here)
        return multiple()

    @rule(place=places, scope=consumes(scopes))
    def leave(self, place: Place, scope: Opened) -> None:
        """There, wherever it was entered: in order, out of order, by another task, twice."""
        self._leave(place, scope)

    @rule(place=places)
    def leave_innermost(self, place: Place) -> None:
        if place.here is not None:
            self._leave(place, place.here)

    @rule(place=places, scope=scopes)
    def leave_again(self, place: Place, scope: Opened) -> None:
        if not scope.is_open:
            self._leave(place, scope)

    @rule(place=places, waits=st.booleans())
    def add_finaliser(self, place: Place, waits: bool) -> None:
        here = place.here
        if not (place.is_sure and here is not None and here.is_open):
            return
        self.number += 1
        number = self.number

        async def wait() -> None:
            await asyncio.sleep(0)
            here.ran.append(number)

        call = wait if waits else lambda: here.ran.append(number)
        place.context.run(lambda: current_scope().callback(call))
        here.finalisers.append(number)

    @rule(target=objects, place=places)
    def own(self, place: Place) -> tuple[object, Opened | None]:
        obj: list[int] = []
        here = place.here
        if not (place.is_sure and here is not None and here.is_open):
            return obj, None
        place.context.run(lambda: current_scope().own(obj))
        here.root.owned.append(obj)
        return obj, here.root

    @rule(place=places, pair=objects)
    def check(self, place: Place, pair: tuple[object, Opened | None]) -> None:
        """An object is its tree's, until that ends; then it is nobody's."""
        obj, owner = pair
        here = place.here
        if not (place.is_sure and here is not None and here.is_open):
            return
        is_foreign = owner is not None and owner.is_open and owner is not here.root
        assert self.is_refused(place, obj) == is_foreign

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def everybody_is_who_they_are(self) -> None:
        type(self).steps += 1
        for place in self.all_places:
            found, here = self.read(place), place.here
            if place.is_sure:
                assert found == (here.user if here is not None and here.is_open else None)
            else:
                assert found in {None, *(scope.user for scope in place.entered if scope.is_open)}

    @invariant()
    def nothing_is_left(self) -> None:
        opened = [scope for scope in self.all_scopes if scope.is_open and scope.parent is None]
        owned = sum(len(scope.owned) for scope in opened)
        now = len(open_roots()), len(registry)
        assert now == (self.before[0] + len(opened), self.before[1] + owned)

    @invariant()
    def finalisers_run_once_in_the_reverse_order(self) -> None:
        for scope in self.all_scopes:
            assert scope.ran == ([] if scope.is_open else scope.finalisers[::-1])

    def teardown(self) -> None:
        for scope in reversed(self.all_scopes):
            if scope.is_open:
                self._leave(Place(Context()), scope)
        try:
            self.nothing_is_left()
            self.finalisers_run_once_in_the_reverse_order()
        finally:
            self.loop.close()

    # --- the model ----------------------------------------------------------------------------

    def _kept(self, place: Place) -> Place:
        self.all_places.append(place)
        return place

    def _enter(self, place: Place, block: Any, user: str | None, parent: Opened | None) -> Opened:
        scope = Opened(block, user, parent, place.here, place.is_sure)
        scope.depth = 0 if parent is None else parent.depth + 1
        self.run(place, block.__aenter__)
        self.all_scopes.append(scope)
        place.entered.append(scope)
        place.is_sure = True
        return scope

    def _leave(self, place: Place, scope: Opened) -> None:
        async def leave() -> None:
            await scope.block.__aexit__(None, None, None)

        was_here, was_open = place.here, scope.is_open
        self.run(place, leave)
        ended = [each for each in self.all_scopes if each.is_open and _is_within(each, scope)]
        for each in ended:
            each.is_open = False
        if was_here is not scope and not was_open:
            return  # for the second time, and not from where it is current
        place.entered = [each for each in place.entered if each not in (scope, *ended)]
        here = place.here
        is_back = was_open and was_here is scope and scope.below is here
        is_back = is_back and scope.was_sure and (here is None or here.is_open)
        is_untouched = here is not None and here is was_here
        place.is_sure = place.is_sure and (is_back or is_untouched)


def _is_within(scope: Opened | None, other: Opened) -> bool:
    while scope is not None and scope is not other:
        scope = scope.parent
    return scope is other
