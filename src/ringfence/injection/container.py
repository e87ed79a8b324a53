"""Container: what provides objects by type, each as long as its lifetime."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..errors import ConfigurationError, MissingProviderError, ProviderError, ScopeCloseError
from ..isolation import Infrastructure
from ..settings import Settings
from ..state import OPEN, _get
from .compiling import Alias, Compiler
from .graph import ProviderGraph, graph_of
from .holders import AppHolder, ScopeHolder, holder_of, holders_beneath
from .kept import keeps
from .keys import key_of, label_of
from .lifetimes import RANKS, Lifetime
from .overrides import Override, _here, _override, override_of
from .pending import MISSING
from .plans import Offered, Plan
from .providers import Provider, place_of, provider_of, value_provider
from .users import Leaving, Users

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from ..scope import RequestScope

__all__ = ["Container"]

S = TypeVar("S", bound=Callable[..., Any])
T = TypeVar("T")


class Container(Infrastructure):
    """
    Provides objects by type: made when they are first asked for, once for each lifetime.

    Made once, at import, and given to the fence, which opens and closes it; it lives as long as
    the application::

        container = Container()

        @container.provide(lifetime=Lifetime.APP)
        async def connect(settings: AppSettings) -> AsyncIterator[Pool]:
            async with Pool(settings.address) as pool:
                yield pool

        container.provide(OrderRepository)
        fence = Ringfence(services=container)

    Args:
        max_users: for how many users objects of `Lifetime.USER` are kept; those whose requests
            are open are kept in any case.
        user_idle: seconds without a request after which a user's objects are closed.
    """

    def __init__(self, *, max_users: int = 1_000, user_idle: float = 900) -> None:
        if max_users < 0 or not user_idle > 0:
            raise ConfigurationError(
                "`max_users` is a number from 0, and `user_idle` are seconds above 0.",
                "Leave them out for 1000 users and a quarter of an hour.",
            )
        self.registered: dict[Any, list[Provider | Alias]] = {}
        self._compiler: Compiler | None = None
        self._app = AppHolder(Settings().finaliser_timeout)
        self._app.users = Users(self._app, max_users, user_idle)
        self._plans: dict[Any, Plan] = {}

    # --- registering --------------------------------------------------------------------------

    @overload
    def provide(
        self,
        source: S,
        *,
        lifetime: Lifetime = ...,
        gives: TypeForm[Any] | None = ...,
        enter: bool = ...,
    ) -> S: ...
    @overload
    def provide(
        self,
        *,
        lifetime: Lifetime = ...,
        gives: TypeForm[Any] | None = ...,
        enter: bool = ...,
    ) -> Callable[[S], S]: ...
    @overload
    def provide(self, *, value: T, gives: TypeForm[T] | None = ...) -> T: ...

    def provide(
        self,
        source: Any = None,
        *,
        value: Any = MISSING,
        lifetime: Lifetime = Lifetime.REQUEST,
        gives: Any = None,
        enter: bool = False,
    ) -> Any:
        """
        Register how an object is made: by a class, a function, or a value; also a decorator.

        A function may be async. What stands after the `yield` of a generator, or leaving what a
        context manager function gives, is the object's clean-up; its scope runs it.

        Args:
            source: it is asked for what its parameters name, and gives what it says it returns.
            value: an object that is there already, the application's, which it is left to close.
            lifetime: how long the object lives.
            gives: the type it is asked for by, if not that which `source` says; may be
                `Annotated` with a `Qualifier`.
            enter: the object is itself a context manager, to be entered.

        Raises:
            ConfigurationError: it does not say what it gives, or the container is in use.
        """
        frame = sys._getframe(1)
        if value is not MISSING:
            provider = value_provider(value, gives, place_of(None, frame))
            self._register(provider)
            self._app.know(provider, value)
            return value
        if source is None:
            return lambda fn: self._provide(fn, lifetime, gives, enter, frame)
        return self._provide(source, lifetime, gives, enter, frame)

    def _provide(self, source: Any, lifetime: Lifetime, gives: Any, enter: bool, frame: Any) -> Any:
        place = place_of(source, frame)
        provider = provider_of(source, gives, lifetime, enter=enter, place=place, frame=frame)
        self._register(provider)
        return source

    def alias(self, wanted: TypeForm[Any], target: TypeForm[Any]) -> None:
        """
        Give the object of type `target` to whoever asks for `wanted`.

        Raises:
            ConfigurationError: the container is in use.
        """
        place = place_of(None, sys._getframe(1))
        self._register(Alias(key_of(wanted), key_of(target), place))

    def _register(self, entry: Provider | Alias) -> None:
        if self._compiler is not None:
            raise ConfigurationError(
                f"`{label_of(entry.key)}` was registered when the container was in use.",
                "Register everything before it is checked, opened or asked; in tests, use "
                "`container.override(...)`.",
            )
        self.registered.setdefault(entry.key, []).append(entry)

    # --- checking -----------------------------------------------------------------------------

    @property
    def compiler(self) -> Compiler:
        """What works out plans; made, and the graph checked, when it is first needed."""
        if self._compiler is None:
            compiler = Compiler(self.registered)
            compiler.check()
            self._compiler = compiler
            self._plans = compiler.plans
        return self._compiler

    def check(self, *functions: Callable[..., Any]) -> None:
        """
        Refuse a graph that could not provide everything that it promises.

        Opening the fence does that too. Functions and classes that `@inject` was put on can be
        named, to have what they ask for checked as well: what is not async may ask for nothing
        that needs an `await` to be made, though at a call it may be there already.

        Raises:
            MissingProviderError, ProviderCycleError, CaptiveProviderError,
            AmbiguousProviderError, UnreachableProviderError: with the path that leads there.
        """
        compiler = self.compiler
        for function in functions:
            called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
            needs = getattr(called, "__ringfence_needs__", None)
            if needs is None:
                raise ConfigurationError(
                    f"`{getattr(function, '__qualname__', function)}` has nothing injected.",
                    "Put `@inject` on it.",
                )
            needs.check(compiler)

    def graph(self) -> ProviderGraph:
        """What is provided and what asks for what, as a value to draw."""
        return graph_of(self.compiler)

    # --- resolving ----------------------------------------------------------------------------

    def _asker(self, scope: RequestScope) -> ScopeHolder:
        if scope._state is not OPEN or _get() is not scope:
            scope._require_here()
        return holder_of(scope, self._app)

    def plan(self, wanted: Any) -> Plan:
        """The plan that holds here: of the container, or of an override."""
        override = _here()
        plans = self._plans
        if override is not None:
            override = override_of(self, override)
            if override is not None:
                plans = override.compiler.plans
        try:
            return plans[wanted]
        except (KeyError, TypeError):
            compiler = self.compiler if override is None else override.compiler
            return compiler.plan(wanted)

    async def resolve(self, scope: RequestScope, wanted: Any) -> Any:
        """See `RequestScope.get`."""
        # Written out from `_asker` and `plan`: most calls come to this.
        if scope._state is not OPEN or _get() is not scope:
            scope._require_here()
        extras = scope._extras
        asker: Any = None if extras is None else extras.held
        if asker is None:
            asker = holder_of(scope, self._app)
        try:
            plan = self._plans[wanted] if _here() is None else self.plan(wanted)
        except (KeyError, TypeError):
            plan = self.plan(wanted)
        try:
            if plan.is_plain:
                return plan.now(asker)
            value = plan.found(asker)
            return await plan.later(asker) if value is MISSING else value
        except Leaving as leaving:
            await leaving.wait()
        return await self.resolve(scope, wanted)

    def fill(
        self, scope: RequestScope, wanted: Sequence[tuple[str, Any]], kwargs: dict[str, Any]
    ) -> bool:
        """Put among the arguments what is there already; whether that is all. For `inject`."""
        if scope._state is not OPEN:
            scope._require_here()
        extras = scope._extras
        asker: Any = None if extras is None else extras.held
        if asker is None or _here() is not None:
            return False
        plans, made = self._plans, asker.made
        for name, key in wanted:
            if name not in kwargs:
                plan = plans.get(key)
                if plan in made:  # no call, for what most ask for
                    kwargs[name] = made[plan]
                    continue
                value = MISSING if plan is None else plan.found(asker)
                if value is MISSING:
                    return False
                kwargs[name] = value
        return True

    def resolve_now(self, scope: RequestScope, wanted: Any) -> Any:
        """See `RequestScope.get_now`."""
        try:
            return self.plan(wanted).now(self._asker(scope))
        except Leaving as leaving:
            raise leaving.refusal() from None

    def lacks(self, scope: RequestScope, wanted: Any) -> bool:
        """Whether it is something that scopes have, and this one has not. For `inject`."""
        try:
            plan = self.plan(wanted)
        except ProviderError:  # who asks for it is told
            return False
        return isinstance(plan, Offered) and not plan.is_there(self._asker(scope))

    def keeper_of(self, obj: object) -> str | None:
        """Which of the application's objects keeps one of a shorter lifetime, if one does."""
        if not any(_may_be_of(obj, plan) for plan in tuple(self._plans.values())):
            return None
        if self._app.has(obj):  # handed on by a factory
            return None
        for value, *_ in tuple(self._app.known.values()):
            if keeps(value, obj):
                return type(value).__name__
        return None

    async def release(self, scope: RequestScope, wanted: Any) -> None:
        """See `RequestScope.release`."""
        asker, plan = self._asker(scope), self.plan(wanted)
        if not plan.is_kept or plan.home(asker) is not asker:  # type: ignore[attr-defined]
            raise ProviderError(
                f"A `{plan.name}` is not this scope's to release.",
                "Release what a provider made for the request in its root, for the operation in "
                "its own scope.",
            )
        for each in tuple(holders_beneath(scope)):
            await each.settle(plan)
        leaving = [(each, owner) for each in holders_beneath(scope) for owner in each.let_go(plan)]
        for holder, owner in leaving:
            await holder.clean_up().finish(owner)

    # --- overriding ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def override(self, wanted: TypeForm[T], fake: T) -> Iterator[T]:
        """
        Give `fake` instead, to whoever asks in this block, and to what is made from it.

        Holds in this context and in tasks started within the block, and nowhere else: tests that
        run at once do not meet. What depends on the type is made anew and kept apart::

            with container.override(Mailer, FakeMailer()) as mailer:
                ...

        Raises:
            MissingProviderError: nothing provides such a type, so nothing would ask for it.
        """
        key = key_of(wanted)
        self._refuse_unknown(key, wanted)
        override = Override(self, _here(), key, fake)
        token = _override.set(override)
        self._app.know(override, fake)
        try:
            yield fake
        finally:
            del self._app.known[override]
            _override.reset(token)

    def _refuse_unknown(self, key: Any, wanted: Any) -> None:
        if key in self.registered or _asked_for(self.compiler, key):
            return
        try:
            self.plan(wanted)
        except MissingProviderError:
            raise
        except ProviderError:
            return

    # --- its life -----------------------------------------------------------------------------

    async def start(self, settings: Settings) -> None:
        """Check the graph and open; the fence calls it."""
        if self._app.is_open:
            raise ConfigurationError(
                "This container is open already.", "Give each `Ringfence` a container of its own."
            )
        self.compiler  # noqa: B018 - making it checks the graph
        self._app.open(settings.finaliser_timeout)
        entries = [each for entries in self.registered.values() for each in entries]
        if any(not isinstance(e, Alias) and e.lifetime is Lifetime.USER for e in entries):
            self._app.users.start()

    async def aclose(self) -> None:
        """
        Finalise what lives longer than a scope: each user's, then the application's.

        Raises:
            ScopeCloseError: with what went wrong; a cancellation that came meanwhile goes first.
        """
        failed = await self._app.aclose()
        fatal = next((error for error in failed if not isinstance(error, Exception)), None)
        if fatal is not None:
            for error in failed:
                if error is not fatal:
                    fatal.add_note(f"ringfence: closing the container failed: {error!r}")
            raise fatal
        if failed:
            raise ScopeCloseError(
                f"The application stopped, but {len(failed)} of its finalisers did not succeed.",
                [error for error in failed if isinstance(error, Exception)],
            )


def _may_be_of(obj: object, plan: Plan) -> bool:
    if plan.provider is None or plan.rank == RANKS[Lifetime.APP]:
        return False
    return type(obj) in (plan.key, plan.provider.source, *plan.kinds)


def _asked_for(compiler: Compiler, key: Any) -> bool:
    return any(key == asked for plan in compiler.plans.values() for _, asked, _ in plan.parts)
