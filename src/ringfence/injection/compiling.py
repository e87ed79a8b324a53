"""Compiling: from providers to plans, refusing what could not be provided as it should."""

from __future__ import annotations

import contextlib
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs

from ..context import UserExecutionContext
from ..errors import (
    AmbiguousProviderError,
    CaptiveProviderError,
    MissingProviderError,
    ProviderCycleError,
    ProviderError,
)
from ..identity import Identity
from ..offers import Offer, offer_of
from ..scope import RequestScope
from .drawing import Step, drawn
from .keys import key_of, label_of
from .lifetimes import RANKS
from .plans import Given, Listed, Offered, OfUser, Part, Perhaps, Plan, made_of
from .providers import Parameter, Provider
from .signatures import Unresolved

__all__ = ["Alias", "Compiler", "is_closed"]

OFFERED_ANYHOW: dict[Any, Offer] = {
    RequestScope: Offer(lambda scope: scope, lambda scope: True),
    UserExecutionContext: Offer(lambda scope: scope.context, lambda scope: scope.has_user),
}
OF_USER = Offer(lambda holder: holder.identity, lambda scope: scope.has_user)
_LABELS = {rank: lifetime.value for lifetime, rank in RANKS.items()}


@attrs.frozen
class Alias:
    """Another type that a provided object is asked for by. A value."""

    key: Any
    target: Any
    place: str


class Compiler:
    """
    Works out the plan for each type that is asked for.

    Lives as long as its container, or as the override that it was made for.

    Args:
        registered: the providers and aliases of each type, in the order of registration.
        fakes: what an override gives instead.
        beneath: the compiler without that override, whose plans are used where it changes nothing.
    """

    def __init__(
        self,
        registered: Mapping[Any, list[Provider | Alias]],
        fakes: Mapping[Any, Any] | None = None,
        beneath: Compiler | None = None,
    ) -> None:
        self.registered = registered
        self.fakes = fakes or {}
        self.beneath = beneath
        self.plans: dict[Any, Plan] = {}
        self._touched: dict[tuple[Any, Plan], bool] = {}
        self._sources: dict[tuple[Provider, Any], Plan] = {}  # several types may lead to one

    def plan(self, wanted: Any) -> Plan:
        """
        The plan for what somebody asks for.

        Raises:
            ProviderError: it cannot be provided.
        """
        plan = self._plan(key_of(wanted), [])
        with contextlib.suppress(TypeError):  # `Annotated` may hold what has no hash
            self.plans[wanted] = plan
        return plan

    def check(self) -> None:
        """Work out every plan there is to be."""
        for key, entries in self.registered.items():
            for entry in filter(is_closed, entries):
                self._plan_of(entry, [])
            if len(entries) == 1 and is_closed(entries[0]):
                self._plan(key, [])

    # --- one plan -----------------------------------------------------------------------------

    def _plan(self, key: Any, path: list[Asking]) -> Plan:
        plan = self.plans.get(key)
        if plan is None:
            plan = self._from_beneath(key, path) or self._made_up(key, path)
            self.plans[key] = plan
        return plan

    def _from_beneath(self, key: Any, path: list[Asking]) -> Plan | None:
        if self.beneath is None or key in self.fakes:
            return None
        try:
            plan = self.beneath._plan(key, path)
        except ProviderError:  # the override may be what makes it possible
            return None
        return None if self._is_touched(key, plan) else plan

    def _is_touched(self, asked: Any, plan: Plan) -> bool:
        """Whether a fake is given for it, or for something that it is made of."""
        known = self._touched.get((asked, plan))  # many ways may lead to one
        if known is None:
            known = self._leads_to_fake(asked) or plan.key in self.fakes
            known = known or any(self._is_touched(key, part) for _, key, part in plan.parts)
            self._touched[asked, plan] = known
        return known

    def _leads_to_fake(self, key: Any) -> bool:
        seen = set()
        while key not in self.fakes:
            entries = self.registered.get(key, [])
            if not entries or not isinstance(entries[-1], Alias) or key in seen:
                return False
            seen.add(key)
            key = entries[-1].target
        return True

    def _made_up(self, key: Any, path: list[Asking]) -> Plan:
        if key in self.fakes:
            return Given(key, label_of(key), self.fakes[key])
        entries = self.registered.get(key)
        if entries is not None and len(entries) > 1:
            raise _ambiguous(key, entries, path)
        if entries:
            return self._plan_of(entries[0], path)
        return self._offered(key) or self._listed(key, path) or self._generic(key, path)

    def _offered(self, key: Any) -> Plan | None:
        if key is Identity:
            return OfUser(key, "Identity", OF_USER)
        offer = OFFERED_ANYHOW.get(key) or offer_of(key)
        return None if offer is None else Offered(key, label_of(key), offer)

    def _listed(self, key: Any, path: list[Asking]) -> Plan | None:
        if typing.get_origin(key) is not list:
            return None
        (item,) = typing.get_args(key)
        item = key_of(item)
        if item in self.fakes:
            return Given(key, label_of(key), [self.fakes[item]])
        entries = self.registered.get(item)
        if not entries:
            return None
        step = Asking(label_of(key), "every implementation", key, None)
        plans = [self._plan_of(each, [*path, step]) for each in entries]
        return Listed(key, label_of(key), item, plans)

    def _generic(self, key: Any, path: list[Asking]) -> Plan:
        """Of `Repository[User]`, by the provider of `Repository[T]`."""
        origin, arguments = typing.get_origin(key), typing.get_args(key)
        if not isinstance(origin, type) or origin is type:
            raise self._missing(key, path)
        every = [entry for entries in self.registered.values() for entry in entries]
        fitting = [e for e in every if 0 < len(_variables_of(e, origin)) == len(arguments)]
        if not fitting:
            raise self._missing(key, path)
        if len(fitting) > 1:
            raise _ambiguous(key, fitting, path)
        found = dict(zip(_variables_of(fitting[0], origin), arguments, strict=True))
        return self._sourced(fitting[0], path, key, found)  # type: ignore[arg-type]

    def _plan_of(self, entry: Provider | Alias, path: list[Asking]) -> Plan:
        if isinstance(entry, Alias):
            asking = Asking(label_of(entry.key), f"alias, {entry.place}", entry.key, None)
            _refuse_cycle(asking, path)
            return self._plan(entry.target, [*path, asking])
        return self._sourced(entry, path, entry.key, {})

    def _sourced(
        self, provider: Provider, path: list[Asking], key: Any, variables: Mapping[Any, Any]
    ) -> Plan:
        known = self._sources.get((provider, key))
        if known is not None:
            return known
        says = f"{provider.lifetime.value}, {provider.place}"
        asking = Asking(label_of(key), says, (provider, key), provider)
        _refuse_cycle(asking, path)
        parts = self._parts(provider, [*path, asking], variables)
        plan = made_of(provider, key, parts)
        self._refuse_captive(plan, [*path, asking])
        self._sources[provider, key] = plan
        return plan

    def _parts(
        self, provider: Provider, path: list[Asking], variables: Mapping[Any, Any]
    ) -> tuple[Part, ...]:
        parts: list[Part] = []
        is_by_name = False  # once one is left out, what follows cannot go by place
        for parameter in provider.parameters:
            key = _substituted(parameter.key, variables)
            plan = self._part(parameter, key, path)
            if plan is None:
                is_by_name = True
                continue
            is_named = is_by_name or parameter.is_keyword
            parts.append((parameter.name if is_named else None, key, plan))
        return tuple(parts)

    def _part(self, parameter: Parameter, key: Any, path: list[Asking]) -> Plan | None:
        """The plan for a parameter; `None` if its default stands."""
        if asked := _class_asked_for(key):
            return Given(key, label_of(key), asked)
        if key is None or isinstance(key, Unresolved):
            if parameter.has_default:
                return None
            raise self._unreadable(parameter, path)
        step = attrs.evolve(path[-1], parameter=parameter.name)
        may_lack = parameter.has_default or parameter.is_optional
        try:
            plan = self._plan(key, [*path[:-1], step])
        except MissingProviderError as error:
            is_wanting_itself = len(error.path) > len(path) + 1
            if is_wanting_itself or not may_lack:
                raise
            return None if parameter.has_default else Given(key, "None", None)
        return Perhaps(plan, parameter.default) if may_lack and isinstance(plan, Offered) else plan

    # --- refusals -----------------------------------------------------------------------------

    def _refuse_captive(self, plan: Plan, path: list[Asking]) -> None:
        narrow = next((part for _, _, part in plan.parts if part.rank < plan.rank), None)
        if narrow is None:
            return
        steps = [step.drawn() for step in path]
        short = narrow
        while True:
            steps.append(_step_of(short))
            deeper = next((part for _, _, part in short.parts if part.rank == short.rank), None)
            if short.is_kept or deeper is None:
                break
            short = deeper
        raise CaptiveProviderError(
            f"`{plan.name}` lives as long as the {_AS_LONG_AS[plan.rank]}, and would hold a "
            f"`{short.name}`, which belongs to one {_OF_ONE[short.rank]}.",
            f"Give `{plan.name}` the shorter lifetime, or pass what it needs to its methods."
            + drawn(steps),
            path=tuple(step.name for step in steps),
        )

    def _missing(self, key: Any, path: list[Asking]) -> MissingProviderError:
        asked = ""
        if path:
            by = f" as `{path[-1].parameter}`" if path[-1].parameter else ""
            asked = f", which `{path[-1].name}` asks for{by}"
        steps = [*(step.drawn() for step in path), Step(label_of(key), "not provided")]
        return MissingProviderError(
            f"There is no provider for `{label_of(key)}`{asked}.",
            self._suggestion(key) + (drawn(steps) if path else ""),
            path=tuple(step.name for step in steps),
        )

    def _suggestion(self, key: Any) -> str:
        label = label_of(key)
        for other, entries in self.registered.items():
            if _is_subclass(other, key):
                name = label_of(other)
                return f"`{name}` is one: `container.alias({label}, {name})` ({_place(entries)})."
            if _bare(other) == _bare(key):
                return f"Did you mean `{label_of(other)}` ({_place(entries)})?"
        by_label = {label_of(other): entries for other, entries in self.registered.items()}
        for name in difflib.get_close_matches(label, by_label, n=1, cutoff=0.6):
            return f"Did you mean `{name}` ({_place(by_label[name])})?"
        return f"Register one: `container.provide(..., gives={label})`."

    def _unreadable(self, parameter: Parameter, path: list[Asking]) -> MissingProviderError:
        what = "has no annotation"
        if isinstance(parameter.key, Unresolved):
            what = f"asks for `{parameter.key.text}`, which is not known where it was registered"
        steps = [step.drawn() for step in path]
        return MissingProviderError(
            f"The parameter `{parameter.name}` of `{path[-1].name}` {what}.",
            "Annotate it with a type that is importable at run time, or give it a default."
            + drawn(steps),
            path=(*(step.name for step in steps), parameter.name),
        )


_AS_LONG_AS = {4: "application", 3: "user stays", 2: "request"}
_OF_ONE = {3: "user", 2: "request", 1: "operation"}


@attrs.frozen
class Asking:
    """A type or provider on the path to the one that is being worked out. A value."""

    name: str
    says: str
    identity: Any
    provider: Provider | None
    parameter: str | None = None

    def drawn(self) -> Step:
        """As a step of a drawing."""
        return Step(self.name, self.says)


def _step_of(plan: Plan) -> Step:
    if plan.provider is None:
        return Step(plan.name, _LABELS[plan.rank])
    return Step(plan.name, f"{plan.provider.lifetime.value}, {plan.provider.place}")


def _refuse_cycle(asking: Asking, path: list[Asking]) -> None:
    if all(asking.identity != step.identity for step in path):
        return
    steps = [*path, asking]
    while steps[0].identity != asking.identity:
        steps = steps[1:]
    raise ProviderCycleError(
        f"Making a `{asking.name}` asks for a `{asking.name}`.",
        "Ask for one of them later, when it is used: "
        f"`current_scope().get({asking.name})`." + drawn([step.drawn() for step in steps]),
        path=tuple(step.name for step in steps),
    )


def _ambiguous(key: Any, entries: list[Provider | Alias], path: list[Asking]) -> ProviderError:
    label = label_of(key)
    places = [Step(label, each.place) for each in entries]
    return AmbiguousProviderError(
        f"There are {len(entries)} providers for `{label}`.",
        f"Ask for `list[{label}]`, or tell them apart: "
        f'`Annotated[{label}, Qualifier("...")]`.'
        + "".join(f"\n    {place.name}  {place.says}" for place in places),
        path=(*(step.name for step in path), label),
    )


def _place(entries: Iterable[Provider | Alias]) -> str:
    return next(iter(entries)).place


def _bare(key: Any) -> Any:
    """A key without its qualifiers."""
    return key.__origin__ if hasattr(key, "__metadata__") else key


def _is_subclass(one: Any, other: Any) -> bool:
    try:
        return one is not other and issubclass(one, other)
    except TypeError:  # a generic, or a protocol with attributes
        return False


# --- generics ---------------------------------------------------------------------------------


def _variables_of(entry: Provider | Alias, origin: type) -> tuple[TypeVar, ...]:
    """The type variables of a provider that gives any `origin[...]`."""
    if isinstance(entry, Alias):
        return ()
    if entry.key is origin:
        return tuple(getattr(origin, "__parameters__", ()))
    arguments = typing.get_args(entry.key)
    if typing.get_origin(entry.key) is origin and all(isinstance(a, TypeVar) for a in arguments):
        return arguments
    return ()


def is_closed(entry: Provider | Alias) -> bool:
    """Whether an entry says all there is to know; else it is a pattern, for what will be asked."""
    return isinstance(entry, Alias) or not any(
        isinstance(each.key, TypeVar)
        or (typing.get_origin(each.key) is not None and getattr(each.key, "__parameters__", ()))
        for each in entry.parameters
    )


def _substituted(key: Any, variables: Mapping[Any, Any]) -> Any:
    if not variables:
        return key
    if isinstance(key, TypeVar):
        return variables.get(key, key)
    parameters = getattr(key, "__parameters__", ())
    if typing.get_origin(key) is None or not parameters:
        return key
    return key[tuple(variables.get(each, each) for each in parameters)]


def _class_asked_for(key: Any) -> Any:
    """`User`, where `type[User]` is asked for."""
    if typing.get_origin(key) is not type:
        return None
    (argument,) = typing.get_args(key)
    return None if isinstance(argument, TypeVar) or argument is Any else argument
