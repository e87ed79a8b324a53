"""Holders: where the objects of one lifetime are kept, made and finalised."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self

from .. import isolation
from ..errors import ConfigurationError, ContextClosedError
from ..finalisers import EnteringStopped, Finalisers
from ..isolation import Claimant, is_registered_as_shared
from ..scope import _Extras, _growing
from ..state import CLOSING, OPEN, _get
from ..tasks import Job, is_cancellation, wait_out
from .pending import MISSING, Pending, making
from .plans import reaches
from .shared import attributes_of, is_of_one

if TYPE_CHECKING:
    from ..scope import RequestScope
    from .plans import Plan
    from .users import UserHolder, Users

__all__ = ["AppHolder", "Holder", "ScopeHolder", "close"]

_adopt = isolation.registry.adopt
_disown = isolation.registry.disown
_claims = isolation.registry._entries
_unlisted = isolation.registry.unlisted
_new = object.__new__


class Holder(Claimant):
    """
    The objects of one lifetime, and whoever owns them in the registry.

    Attributes:
        made: what is there.
        pending: what is being made.
        owners: the manager or handle of each finaliser, by which it runs early, and its plan;
            in the order they were made, what is made anew for whoever asks included.
    """

    made: dict[Plan, Any]
    pending: dict[Plan, Pending] | None = None
    owners: dict[Any, Plan] | None = None
    scope: Any = None  # whose they are, if they are one scope's
    app: AppHolder

    def __call__(self) -> Self:
        """Itself: what the registry asks of the reference it keeps."""
        return self

    # --- what each lifetime does its own way --------------------------------------------------

    def require_open(self) -> None:
        """Refuse to make anything where it would not be finalised any more."""
        raise NotImplementedError

    def own_context(self) -> Context:
        """A new context in which its objects are made and finalised."""
        raise NotImplementedError

    def clean_up(self) -> Finalisers:
        """Its clean-up."""
        raise NotImplementedError

    def ending(self) -> BaseException | None:
        """How the lifetime ended, for managers that care."""
        return None

    def keep(self, plan: Plan, value: Any) -> Any:
        """Have an object from now on; if there is one already, that."""
        return self.made.setdefault(plan, value)

    def is_shared(self, obj: object) -> bool:
        """See `Claimant`: a factory of the request may hand on what is the application's."""
        return not is_of_one(obj) and (is_registered_as_shared(obj) or self.app.has(obj))

    def refuse_foreign(self, obj: object) -> None:
        """Refuse what a factory hands on although another request or user has it."""
        owner = isolation.registry.owner_of(obj)
        if owner is None or owner is self or self.is_kin(owner) or owner.is_shared(obj):
            return
        here = None if self is self.app else self.request_id
        raise isolation.foreign_object(obj, owner.request_id, here)

    def disown(self) -> None:
        """Give up in the registry what it owns."""
        for value in list(self.made.values()):  # a thread may still be making more
            _disown(value, self)

    # --- making -------------------------------------------------------------------------------

    def call_now(self, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a factory in this lifetime's context."""
        if self.is_here():
            return call(*args, **kwargs)
        return self.own_context().run(call, *args, **kwargs)

    async def call(
        self, call: Callable[..., Awaitable[Any]], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Call and await a factory in this lifetime's context."""
        if self.is_here():
            return await call(*args, **kwargs)
        result: list[Any] = []

        async def work() -> None:
            result.append(await call(*args, **kwargs))

        await _run_elsewhere(work, self.own_context())
        return result[0]

    def enter_now(self, plan: Plan, manager: Any) -> Any:
        """Enter a manager that awaits nothing; both its halves run in one context."""
        finalisers, context = self.clean_up(), self.own_context()
        value = context.run(type(manager).__enter__, manager)

        def leave() -> None:
            self.forget(plan, handle)
            exc = self.ending()
            details = (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)
            context.run(type(manager).__exit__, manager, *details)

        handle = finalisers.add(leave, plan.name)
        self._owned_by(plan, handle)
        try:
            self.require_open()
        except ContextClosedError:  # ended while a thread was entering
            if finalisers.take(handle):
                leave()
            raise
        return value

    async def enter(self, plan: Plan, manager: Any) -> Any:
        """Enter a manager in a task that will also leave it."""
        kept = _Forgetting(manager, self, plan)
        try:
            value = await self.clean_up().enter(kept, plan.name)
        except EnteringStopped:
            self.require_open()
            raise
        self.require_open()
        self._owned_by(plan, kept)
        return value

    def _owned_by(self, plan: Plan, owner: object) -> None:
        if self.owners is None:
            self.owners = {}
        self.owners[owner] = plan

    def forget(self, plan: Plan, owner: object = None) -> None:
        """Have an object no more: it is about to be finalised, by `owner` if it has clean-up."""
        if owner is not None and (self.owners is None or self.owners.pop(owner, None) is None):
            return  # let go before; there may be another by now
        if plan.is_kept:
            _disown(self.made.pop(plan, None), self)

    async def settle(self, plan: Plan) -> None:
        """Wait for what is being made with it, but not for what waits for whoever asks that."""
        within = making.get()
        for pending in tuple((self.pending or {}).values()):
            if reaches(pending.plan, plan) and not (within and pending.leads_to(within)):
                with contextlib.suppress(Exception):  # told to who asked for it
                    await pending.wait()

    def let_go(self, plan: Plan) -> list[Any]:
        """Have no more what was made with it; the owners of what is to be finalised, last first."""
        for made in [made for made in self.made if reaches(made, plan)]:
            self.forget(made)
        owners = [owner for owner, made in (self.owners or {}).items() if reaches(made, plan)]
        for owner in owners:
            del self.owners[owner]  # type: ignore[union-attr]
        return owners[::-1]


class _Forgetting:
    """A manager whose object nobody is given any more once it is being left."""

    def __init__(self, manager: Any, holder: Holder, plan: Plan) -> None:
        self.manager, self.holder, self.plan = manager, holder, plan

    async def __aenter__(self) -> Any:
        return await type(self.manager).__aenter__(self.manager)

    async def __aexit__(self, *details: Any) -> Any:
        self.holder.forget(self.plan, self)
        return await type(self.manager).__aexit__(self.manager, *details)


async def _run_elsewhere(work: Callable[[], Any], context: Context) -> None:
    """Run in a task of its own, which ends with whoever waits for it."""
    job = Job(work, "ringfence factory", context)
    try:
        await job.done.wait()
    except BaseException:
        job.cancel()
        await wait_out(job.done, None)
        raise
    if is_cancellation(job.error):
        raise RuntimeError("a factory was cancelled from within") from job.error
    if job.error is not None:
        raise job.error


class ScopeHolder(_Extras, Holder):
    """
    The objects of one scope. Lives as long as it, and is found by it alone.

    A scope that has no other extras has this for them: one object less to make.
    """

    scope: RequestScope
    user: UserHolder | None = None
    is_listed = False  # whether the registry has asked what it owns: it is told at once since
    has_claims = False  # whether there may be entries of its own
    is_given_up = False

    def is_let_go(self) -> bool:
        """See `_Extras`."""
        if (
            self.finalisers is not None
            or self.children
            or self.claimant is not None
            or self.timeout_block is not None
            or self.is_cut_short
        ):
            return False
        self.scope._state = CLOSING  # from here on, threads give up themselves what they make
        self.disown()
        self.held = self.scope._extras = None
        return True

    def disown(self) -> None:
        """See `Holder`."""
        self.is_given_up = True
        _unlisted.pop(self, None)
        if self.has_claims:
            super().disown()

    def list_claims(self) -> None:
        """See `Claimant`."""
        self.is_listed = self.has_claims = True  # before it looks: what is made since, is told
        listed = [value for value in list(self.made.values()) if isolation.is_ownable(type(value))]
        for value in listed:
            _claims.setdefault(id(value), (value, self))
        # Another thread may have let go of something, or of everything, meanwhile.
        left = () if self.is_given_up else list(self.made.values())
        there = {id(value) for value in left}
        for value in listed:
            if id(value) not in there:
                _disown(value, self)

    def catch_up(self, plan: Plan) -> None:
        """What was made at once is told to the registry that asked; or given up, if too late."""
        if self.is_listed:
            self.list_claims()
        if self.scope._state is not OPEN:
            _disown(self.made.pop(plan, None), self)
            raise self.scope._closed_error()

    def remains(self) -> _Extras:
        """See `_Extras`."""
        kept = _Extras()
        kept.__dict__.update(self.__dict__)
        for name in ("scope", "app", "made", "pending", "owners", "user", "held", "connection"):
            kept.__dict__.pop(name, None)
        self.held = None
        return kept

    @property
    def request_id(self) -> str:  # type: ignore[override]
        """Of the root: it owns what is made anywhere in its tree."""
        return self.scope.root.request_id

    def require_open(self) -> None:
        """See `Holder`."""
        if self.scope._state is not OPEN:
            raise self.scope._closed_error()

    def is_here(self) -> bool:
        """Whether the context that is current is the one in which its objects are made."""
        return _get() is self.scope

    def own_context(self) -> Context:
        """See `Holder`."""
        return self.scope._own_context()

    def clean_up(self) -> Finalisers:
        """See `Holder`."""
        return self.scope._finalisers()

    def ending(self) -> BaseException | None:
        """See `Holder`."""
        return self.scope._more().exc

    def keep(self, plan: Plan, value: Any) -> Any:
        """See `Holder`; it belongs to the scope's request tree."""
        is_claimed = self.is_listed or not plan.is_fresh
        if is_claimed:
            self._claim(plan, value)
        kept = self.made.setdefault(plan, value)
        is_untold = self.is_listed and not is_claimed
        if kept is not value or is_untold or self.scope._state is not OPEN:
            self._came_late(plan, value, kept)
        return kept

    def _claim(self, plan: Plan, value: Any) -> None:
        if type(value) is not plan.kind:
            plan.learn(type(value))
        if plan.is_ownable:
            self.has_claims = True
            _adopt(value, self)

    def _came_late(self, plan: Plan, value: Any, kept: Any) -> None:
        """Give up what a thread made although another was faster, or the scope has ended."""
        if kept is not value:
            _disown(value, self)
        elif self.is_listed:
            self._claim(plan, value)
        if self.scope._state is not OPEN:
            _disown(self.made.pop(plan, None), self)
            raise self.scope._closed_error()

    def admits(self, scope: RequestScope) -> bool:
        """See `Claimant`."""
        return scope._root is self.scope._root

    def is_kin(self, other: Claimant) -> bool:
        """See `Claimant`."""
        if isinstance(other, ScopeHolder):
            return other.scope._root is self.scope._root
        return other is self.scope.root._more().claimant or other.admits(self.scope)

    def ends_before(self, other: Claimant) -> bool:
        """See `Claimant`: a child ends before its root, and an object may be released."""
        extras = self.scope.root._extras
        return extras is not None and other is extras.claimant

    def of_root(self) -> ScopeHolder:
        """The holder of the root."""
        root = self.scope._root
        return self if root is self.scope or root is None else holder_of(root, self.app)

    def of_user(self) -> UserHolder:
        """The holder of the user whose request this is."""
        root = self.of_root()
        if root.user is None:
            root.user = self.app.users.enter(root.scope)
        return root.user


def holder_of(scope: RequestScope, app: AppHolder) -> ScopeHolder:
    """The holder of a scope, made when it is first asked for."""
    extras = scope._extras
    holder: Any = None if extras is None else extras.held
    if holder is None:
        if scope._state is not OPEN:
            raise scope._closed_error()
        with _growing:
            extras = scope._extras
            holder = None if extras is None else extras.held
            if holder is None:
                holder = _new(ScopeHolder)  # a constructor took a tenth of a microsecond
                holder.children = {}
                holder.scope = scope
                holder.app = app
                holder.made = {}
                if extras is None:
                    scope._extras = extras = holder
                extras.held = holder
                _unlisted[holder] = None
    found: ScopeHolder = holder
    return found


def holders_beneath(scope: RequestScope) -> Iterator[ScopeHolder]:
    """Of what is open within a scope, the last first; its own at the end."""
    for child in reversed(scope.children):
        yield from holders_beneath(child)
    held: Any = None if scope._extras is None else scope._extras.held
    if held is not None:
        yield held


class AppHolder(Holder):
    """
    The objects of the application. Lives as long as its container, empty while that is closed.

    They are made in a context in which no scope is open: what one request's user is, they must
    not see.

    Attributes:
        known: each object, given or made, with what were its attributes then; what is put in it
            later, a request may have made.
    """

    users: Users

    def __init__(self, limit: float) -> None:
        super().__init__("the application")
        self.app = self
        self.made = {}
        self.known: dict[Any, tuple[object, ...]] = {}
        self.is_open = self.is_closing = False
        self.limit = limit
        self._finalisers = Finalisers(limit, self.own_context)

    def require_open(self) -> None:
        """See `Holder`; only what has clean-up needs somebody to close it."""

    def own_context(self) -> Context:
        """See `Holder`."""
        return apart()

    def clean_up(self) -> Finalisers:
        """See `Holder`."""
        if not self.has_closer:
            raise not_open()
        return self._finalisers

    @property
    def has_closer(self) -> bool:
        """Whether somebody will finalise what is made now."""
        return self.is_open and not self.is_closing

    def keep(self, plan: Any, value: Any) -> Any:
        """See `Holder`; what is one request's does not become everybody's."""
        if not plan.is_fresh and plan not in self.made:  # it may be somebody's
            self.refuse_foreign(value)
        kept = plan.value = self.made.setdefault(plan, value)
        self.know(plan, kept)
        return kept

    def know(self, source: object, value: object) -> None:
        """Have an object of everybody's, given or made by `source`."""
        self.known.setdefault(source, (value, *attributes_of(value)))

    def has(self, obj: object) -> bool:
        """Whether it is one of its objects, or was a part of one from the beginning."""
        return any(each is obj for known in tuple(self.known.values()) for each in known)

    def forget(self, plan: Any, owner: object = None) -> None:
        """See `Holder`."""
        super().forget(plan, owner)
        plan.value = self.made.get(plan, MISSING)
        if plan not in self.made:
            self.known.pop(plan, None)

    def open(self, limit: float) -> None:
        """Somebody will close it: what has clean-up may be made."""
        self.limit = limit
        self._finalisers = Finalisers(limit, self.own_context)
        self.is_open, self.is_closing = True, False

    async def aclose(self) -> list[BaseException]:
        """Finalise everything, what is kept for users first; what went wrong."""
        self.is_closing = True  # what a request that would not stop asks for now, nobody closes
        failed = await self.users.aclose()
        self.is_open = False
        failed += await close(self._finalisers)
        for plan in list(self.made):
            self.forget(plan)
        return failed


def apart() -> Context:
    """A context in which no scope is open, that knows what is being made."""
    context = Context()
    context.run(making.set, making.get())
    return context


def not_open() -> ConfigurationError:
    """The error for an object with clean-up in an application that nobody will close."""
    return ConfigurationError(
        "The fence is not open: nobody would finalise what outlives this request.",
        "Give the application `lifespan=fence.lifespan`, or use `async with fence:`.",
    )


async def close(finalisers: Finalisers) -> list[BaseException]:
    """Run finalisers; what went wrong, a cancellation that arrived meanwhile last."""
    cancelled = await finalisers.run(None)
    failed = [report.error for report in finalisers.report if report.error is not None]
    return failed if cancelled is None else [*failed, cancelled]
