"""Plans: how an object is made, worked out once; each is asked by the holder that needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ProviderCycleError, UnreachableProviderError
from ..isolation import is_ownable
from ..state import OPEN, _get
from .keys import label_of
from .lifetimes import RANKS, Lifetime
from .pending import MISSING, Pending, making
from .providers import Kind
from .writing import written_for

if TYPE_CHECKING:
    from ..offers import Offer
    from .holders import Holder
    from .providers import Provider

__all__ = [
    "Given",
    "Listed",
    "Made",
    "Offered",
    "Part",
    "Perhaps",
    "Plan",
    "Transient",
    "made_of",
    "reaches",
]

Part = tuple[str | None, Any, "Plan"]
"""What is given for one parameter: its name if it is given by name, what it asks for, the plan."""


class Plan:
    """
    How one object comes to be. Lives as long as its container; holders keep objects by it.

    Attributes:
        rank: of the longest lifetime that may hold the object.
        is_plain: making it needs no `await`.
        is_kept: there is one for each holder, not one for each who asks.
        value: what is the same for whoever asks, at hand; else `MISSING`.
        is_fresh: what is made with it is new, so that nobody else can have it.
        kind: the type of what was made last, as far as it was noted; kinds: of all.
        is_plain_call: it is the request's, and a call that awaits and opens nothing makes it.
    """

    rank: int = RANKS[Lifetime.APP]
    is_plain = True
    is_kept = False
    is_ownable = False
    is_fresh = False
    is_plain_call = False
    kind: type | None = None
    name: str
    parts: tuple[Part, ...] = ()
    provider: Any = None

    def __init__(self, key: Any, name: str) -> None:
        self.key = key
        self.name = name
        self.value: Any = MISSING
        self.kinds: set[type] = set()

    def found(self, asker: Holder) -> Any:
        """The object if it is there, else `MISSING`."""
        return MISSING

    def now(self, asker: Holder) -> Any:
        """The object, made if need be, without an `await`."""
        raise NotImplementedError

    async def later(self, asker: Holder) -> Any:
        """The object, made if need be."""
        return self.now(asker)

    def learn(self, kind: type) -> None:
        """Note of which type the object is, and so whether it can be owned."""
        self.kind = kind
        self.kinds.add(kind)
        self.is_ownable = is_ownable(kind)


class Given(Plan):
    """What is there already."""

    def __init__(self, key: Any, name: str, value: Any, provider: Provider | None = None) -> None:
        super().__init__(key, name)
        self.value = value
        self.provider = provider

    def found(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.value

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.value


class Offered(Plan):
    """What each scope has anyhow: its context, its session, the request it answers."""

    rank = RANKS[Lifetime.REQUEST]

    def __init__(self, key: Any, name: str, offer: Offer) -> None:
        super().__init__(key, name)
        self.give = offer.give
        self.is_offered_by = offer.is_there

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.give(asker.scope)

    def is_there(self, asker: Holder) -> bool:
        """Whether whoever asks has one."""
        return self.is_offered_by(asker.scope)


class OfUser(Offered):
    """What each user has anyhow: who they are."""

    rank = RANKS[Lifetime.USER]

    def now(self, asker: Any) -> Any:
        """See `Plan`."""
        return self.give(asker.of_user())

    def is_there(self, asker: Holder) -> bool:
        """See `Offered`; what lives as long as a user has one."""
        return asker.scope is None or self.is_offered_by(asker.scope)


class Perhaps(Plan):
    """What some scopes have, for who does without it in the others."""

    def __init__(self, offered: Offered, default: Any) -> None:
        super().__init__(offered.key, offered.name)
        self.rank = offered.rank
        self.offered = offered
        self.default = default

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.offered.now(asker) if self.offered.is_there(asker) else self.default


class Listed(Plan):
    """Every implementation of a type, in the order of registration."""

    def __init__(self, key: Any, name: str, item: Any, plans: list[Plan]) -> None:
        super().__init__(key, name)
        self.parts = tuple((None, item, plan) for plan in plans)
        self.rank = min(plan.rank for plan in plans)
        self.is_plain = all(plan.is_plain for plan in plans)

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        return [plan.now(asker) for _, _, plan in self.parts]

    async def later(self, asker: Holder) -> Any:
        """See `Plan`."""
        return [await _given_by(plan, asker) for _, _, plan in self.parts]


async def _given_by(plan: Plan, asker: Holder) -> Any:
    value = plan.found(asker)
    if value is MISSING:
        value = plan.now(asker) if plan.is_plain else await plan.later(asker)
    return value


class _Sourced(Plan):
    """What a provider makes."""

    provider: Provider

    def __init__(self, provider: Provider, key: Any, parts: tuple[Part, ...]) -> None:
        super().__init__(key, label_of(key))
        self.provider = provider
        self.parts = parts
        self.make = provider.make
        self.positional = tuple(plan for name, _, plan in parts if name is None)
        self.by_name = tuple((name, plan) for name, _, plan in parts if name is not None)
        self.is_async = provider.kind in (Kind.ASYNC_CALL, Kind.ASYNC_MANAGER)
        self.is_manager = provider.kind in (Kind.MANAGER, Kind.ASYNC_MANAGER)
        is_call = not (self.is_manager or self.is_async)
        self.is_fresh = is_call and _makes_anew(self.make)
        self.is_plain_call = is_call and self.rank == RANKS[Lifetime.REQUEST]
        self.is_simple = is_call and not self.by_name
        self.is_plain = not self.is_async and all(plan.is_plain for _, _, plan in parts)

    def make_now(self, holder: Holder) -> Any:
        """Make it, for that holder."""
        if self.is_async:
            raise self._needs_await()
        args = []
        for plan in self.positional:
            args.append(plan.now(holder))
        if self.is_simple and _get() is holder.scope:
            return self.make(*args)
        return self._called(holder, args, {name: plan.now(holder) for name, plan in self.by_name})

    def _called(self, holder: Holder, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value = holder.call_now(self.make, args, kwargs)
        return holder.enter_now(self, value) if self.is_manager else value

    async def make_later(self, holder: Holder) -> Any:
        """Make it, for that holder; whatever it needs has been made first."""
        args = [await _given_by(plan, holder) for plan in self.positional]
        kwargs = {name: await _given_by(plan, holder) for name, plan in self.by_name}
        holder.require_open()
        if not self.is_async:
            there = self.found(holder)  # made by somebody who needed no `await`, meanwhile
            return self._called(holder, args, kwargs) if there is MISSING else there
        if self.is_manager:
            return await holder.enter(self, holder.call_now(self.make, args, kwargs))
        value = await holder.call(self.make, args, kwargs)
        holder.require_open()
        return value

    def _needs_await(self) -> UnreachableProviderError:
        return UnreachableProviderError(
            f"Making a `{self.name}` needs an `await`: {self.provider.place}.",
            "Ask for it with `await scope.get(...)` or in an async function, or once before.",
        )


def _makes_anew(make: Any) -> bool:
    """Whether a call gives a new object, whatever else it does: only a class is sure to."""
    is_class = isinstance(make, type) and type(make).__call__ is type.__call__
    return is_class and make.__new__ is object.__new__


class Transient(_Sourced):
    """What is made anew for whoever asks."""

    def __init__(self, provider: Provider, key: Any, parts: tuple[Part, ...]) -> None:
        super().__init__(provider, key, parts)
        self.rank = min([plan.rank for _, _, plan in parts], default=RANKS[Lifetime.APP])

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        asker.require_open()
        return self._given(asker, self.make_now(asker))

    async def later(self, asker: Holder) -> Any:
        """See `Plan`."""
        asker.require_open()
        return self._given(asker, await self.make_later(asker))

    def _given(self, asker: Holder, value: Any) -> Any:
        if not self.is_fresh:  # it may be somebody's
            asker.refuse_foreign(value)
            if type(value) is not self.kind:
                self.learn(type(value))
        return value


class Made(_Sourced):
    """What is made once for each holder of its lifetime; here, for each scope that asks."""

    is_kept = True
    rank = RANKS[Lifetime.OPERATION]

    def home(self, asker: Any) -> Holder:
        """The holder that keeps it."""
        holder: Holder = asker
        return holder

    def found(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.home(asker).made.get(self, MISSING)

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        holder = self.home(asker)
        value = holder.made.get(self, MISSING)
        if value is not MISSING:
            return value
        holder.require_open()
        return holder.keep(self, self.make_now(holder))

    async def later(self, asker: Holder) -> Any:
        """See `Plan`."""
        holder = self.home(asker)
        while True:
            value = holder.made.get(self, MISSING)
            if value is not MISSING:
                return value
            holder.require_open()
            if holder.pending is None:
                holder.pending = {}
            pending = holder.pending.get(self)
            if pending is None:
                return await self._make_once(holder, holder.pending)
            value = await _waited(pending)
            if value is not MISSING:
                return value

    async def _make_once(self, holder: Holder, all_pending: dict[Plan, Pending]) -> Any:
        is_shared = holder.scope is None
        pending = all_pending[self] = Pending(self, is_shared=is_shared)
        within = making.get()
        if within is not None:
            within.waits_for.add(pending)
        token = making.set(pending)
        value, failed = MISSING, None
        try:
            value = holder.keep(self, await self.make_later(holder))
            return value
        except BaseException as error:
            failed = error
            raise
        finally:
            making.reset(token)
            if within is not None:
                within.waits_for.discard(pending)
            del all_pending[self]
            # An error of what others share would show them the frames of whoever asked first.
            pending.finish(value, None if is_shared else failed)


async def _waited(pending: Pending) -> Any:
    """What another task makes, unless that waits for what is made here."""
    within = making.get()
    if within is None:
        return await pending.wait()
    if pending.leads_to(within):
        raise ProviderCycleError(
            f"Making a `{within.plan.name}` asks for a `{pending.plan.name}`, which waits for it.",
            "Ask for one of them later, when it is used.",
            path=(within.plan.name, pending.plan.name),
        )
    within.waits_for.add(pending)
    try:
        return await pending.wait()
    finally:
        within.waits_for.discard(pending)


class MadeForRequest(Made):
    """One for each root scope."""

    rank = RANKS[Lifetime.REQUEST]

    def home(self, asker: Any) -> Holder:
        """See `Made`."""
        scope = asker.scope
        holder: Holder = asker if scope._parent is None else asker.of_root()
        return holder

    def found(self, asker: Any) -> Any:
        """See `Plan`."""
        holder = asker if asker.scope._parent is None else asker.of_root()
        return holder.made.get(self, MISSING)

    def now(self, asker: Any) -> Any:
        """See `Plan`; what is asked for more than once gets a function written for it."""
        holder: Any = asker if asker.scope._parent is None else asker.of_root()
        value = holder.made.get(self, MISSING)
        if value is not MISSING:
            return value
        scope = holder.scope
        if scope._state is not OPEN or _get() is not scope or holder.is_listed:
            holder.require_open()
            return holder.keep(self, self.make_now(holder))
        try:
            return self.at_once(holder)
        finally:
            if holder.is_listed or holder.scope._state is not OPEN:
                holder.catch_up(self)

    def at_once(self, holder: Any) -> Any:
        """Make it, where its root is open and current. Replaced when it has been useful once."""
        if self.is_plain_call:
            self.at_once = self._written  # type: ignore[method-assign]
        return holder.keep(self, self.make_now(holder))

    def _written(self, holder: Any) -> Any:
        self.at_once = written_for(self)  # type: ignore[method-assign, assignment]
        return self.at_once(holder)


class MadeForUser(Made):
    """One for each user of each tenant."""

    rank = RANKS[Lifetime.USER]

    def home(self, asker: Any) -> Holder:
        """See `Made`."""
        holder: Holder = asker.of_user()
        return holder


class MadeForApp(Made):
    """One for the application."""

    rank = RANKS[Lifetime.APP]

    def home(self, asker: Holder) -> Holder:
        """See `Made`."""
        return asker.app

    def found(self, asker: Holder) -> Any:
        """See `Plan`."""
        return self.value

    def now(self, asker: Holder) -> Any:
        """See `Plan`."""
        value = self.value
        return super().now(asker) if value is MISSING else value


_PLANS: dict[Lifetime, type[_Sourced]] = {
    Lifetime.APP: MadeForApp,
    Lifetime.USER: MadeForUser,
    Lifetime.REQUEST: MadeForRequest,
    Lifetime.OPERATION: Made,
    Lifetime.TRANSIENT: Transient,
}


def made_of(provider: Provider, key: Any, parts: tuple[Part, ...]) -> Plan:
    """The plan for what a provider makes."""
    if provider.kind is Kind.VALUE:
        return Given(key, label_of(key), provider.source, provider)
    return _PLANS[provider.lifetime](provider, key, parts)


def reaches(plan: Plan, other: Plan) -> bool:
    """Whether `plan` is the other, or was made with what is."""
    seen, todo = {plan}, [plan]
    while todo:
        for _, _, part in todo.pop().parts:
            if part not in seen:
                seen.add(part)
                todo.append(part)
    return other in seen
