"""Injection: ours beside six other libraries, what is judged, and who does the work."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from ringfence import (
    ContextClosedError,
    InvalidContextError,
    OwnershipError,
    current_scope,
    user_context,
)

from .calls import CALLS
from .cases import IDS
from .containers import CONTAINERS, DISHKA_FASTEST, OURS, Asking
from .honesty import Check
from .report import Row, row_of
from .routes import ROUTES
from .shapes import SHAPES, Ends, Shape, one, reached
from .timing import Case, Samples, drive

__all__ = ["GROUPS", "injection_cases", "injection_checks", "injection_rows"]


@attrs.frozen
class Group:
    """One thing that every library is timed doing."""

    title: str
    shape: Callable[[], Shape]
    libraries: dict[str, Callable[[Shape], Asking]]


def _title(name: str) -> str:
    manner, _, size = name.partition("-")
    return f"{size} dependenc{'y' if size == '1' else 'ies'} {manner}"


TITLES = {"one": "one object in a scope", "generator": "one, by an async generator"}

GROUPS: dict[str, Group] = {
    **{
        f"inject-{name}": Group(TITLES.get(name) or _title(name), shape, CONTAINERS)
        for name, shape in SHAPES.items()
    },
    "inject-call": Group("injected call, object there", one, CALLS),
    "inject-route": Group("FastAPI, one object injected", one, ROUTES),
}


@attrs.frozen
class Limit:
    """What the ratio of ours to another is judged by, and what we set out for."""

    gate: float
    goal: float


GOALS = {"dishka": 1.0, "wireup": 1.6}

LIMITS: dict[tuple[str, str], Limit] = {
    **{
        (f"inject-{name}", library): Limit(gate, goal)
        for name, gates in {
            "one": (2.1, 3.1),
            "generator": (13, 16),
            "deep-1": (3.1, 2.9),
            "deep-10": (1.9, 1.6),
            "deep-50": (1.2, 1.6),
            "wide-1": (3.1, 2.9),
            "wide-10": (2.0, 1.6),
            "wide-50": (1.3, 1.6),
        }.items()
        for gate, (library, goal) in zip(gates, GOALS.items(), strict=True)
    },
    ("inject-call", "dishka"): Limit(0.5, 0.5),
    ("inject-call", "wireup"): Limit(0.8, 0.8),
}
"""A gate is the goal where that is met with room, else what was measured and three tenths more."""


class Seen:
    """Where each iteration puts what it was given."""

    __slots__ = ("it",)

    it: Any


def injection_cases(groups: Sequence[str]) -> tuple[list[Case], list[Row]]:
    """The cases of some groups, and a row for each library that is not here to be timed."""
    cases, skipped = [], []
    for name in groups:
        group = GROUPS[name]
        for library, make in group.libraries.items():
            try:
                asking = make(group.shape())
            except ImportError as missing:
                title = f"{group.title}: {library}"
                skipped.append(Row(name=name, title=title, verdict=f"skipped: {missing}"))
            else:
                cases.append(_case(name, library, asking))
    return cases, skipped


def _case(group: str, library: str, asking: Asking) -> Case:
    return Case(
        name=f"{group}-{library}",
        title=f"{GROUPS[group].title}: {library}",
        statement=asking.statement,
        names={**asking.names, "seen": Seen()},
        around=asking.around,
        prepare=asking.prepare,
        on_loop=True,
    )


# --- what it comes to -------------------------------------------------------------------------


def injection_rows(samples: Samples, cases: Sequence[Case], *, is_judged: bool) -> list[Row]:
    """Each library by itself, then ours beside those that we are judged by."""
    rows: list[Row] = []
    timed = {case.name: case for case in cases if case.name in samples}
    for name in GROUPS:
        ours = f"{name}-{OURS}"
        if ours not in timed:
            continue
        rows += [
            row_of(timed[f"{name}-{library}"], samples, is_judged=False)
            for library in GROUPS[name].libraries
            if f"{name}-{library}" in timed
        ]
        for library in ("dishka", DISHKA_FASTEST, "wireup"):
            if f"{name}-{library}" in timed:
                rows.append(_beside(name, library, timed[ours], samples, is_judged))
    return rows


def _beside(group: str, library: str, ours: Case, samples: Samples, is_judged: bool) -> Row:
    limit = LIMITS.get((group, library))
    case = attrs.evolve(
        ours,
        title=f"{GROUPS[group].title}: {OURS} / {library}",
        of=f"{group}-{library}",
        gate=limit and limit.gate,
    )
    row = row_of(case, samples, is_judged=is_judged)
    return attrs.evolve(row, name=f"{row.name} / {library}", of=library, goal=limit and limit.goal)


# --- who does the work ------------------------------------------------------------------------


def injection_checks(cases: Sequence[Case]) -> list[Check]:
    """Put to the test what each loop says that it does; and ours, that it guards what it gives."""
    made = []
    for case in cases:
        group, library = _told_apart(case.name)
        for claim, test in TESTS:
            if _applies(test, group, library):
                fault = _fault(test, case, GROUPS[group].shape())
                made.append(Check(f"{group}, {library}: {claim}", fault))
    return made


def _told_apart(name: str) -> tuple[str, str]:
    group = next(group for group in GROUPS if name.startswith(f"{group}-"))
    return group, name.removeprefix(f"{group}-")


def _applies(test: Any, group: str, library: str) -> bool:
    if group == "inject-route":
        return test is _answers
    if test in (_guards, _refuses):
        return library == OURS
    if test is _ends:
        return group == "inject-generator"
    return test is _gives


def _fault(test: Callable[[Case, Shape], Any], case: Case, shape: Shape) -> str | None:
    try:
        contextvars.Context().run(test, case, shape)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class Collecting:
    """Instead of `Seen`: keeps everything, and looks at each while its scope is open."""

    def __init__(self, look: Callable[[Any], Any] = lambda thing: None) -> None:
        self.all: list[Any] = []
        self.look = look

    @property
    def it(self) -> Any:
        return self.all[-1]

    @it.setter
    def it(self, thing: Any) -> None:
        self.look(thing)
        self.all.append(thing)


def _run(case: Case, times: int, **others: Any) -> None:
    asyncio.run(case.loop(times, **{**case.names, **others}))


def _gives(case: Case, shape: Shape) -> None:
    """What is given is whole, and new in each scope; what is shared is the same."""
    seen = Collecting()
    _run(case, 2, seen=seen)
    first, second = seen.all
    names = sorted(type(each).__name__ for each in reached(first))
    if names != sorted(cls.__name__ for cls in shape.parts):
        raise ValueError(f"it is made of {names}")
    is_call = case.name.startswith("inject-call")
    if (first is second) is not is_call:
        raise ValueError("two scopes share it" if first is second else "the scope has two")
    is_shared = first.parts[0] is second.parts[0]
    if is_shared is not (is_call or shape.shared is not None):
        raise ValueError("the application's object is not shared, or the request's is")


def _ends(case: Case, shape: Shape) -> None:
    before, open_then = Ends.count, []
    _run(case, 3, seen=Collecting(lambda thing: open_then.append(Ends.count)))
    if Ends.count != before + 3 or open_then != [before, before + 1, before + 2]:
        raise ValueError(f"{Ends.count - before} second halves ran in three scopes")


def _guards(case: Case, shape: Shape) -> None:
    """In the scope of the user given, which owns it: another request that meets it is told."""

    async def met_elsewhere(thing: Any) -> None:
        async with user_context("usr_another"):
            current_scope().check(thing)

    def look(thing: Any) -> None:
        if current_scope().context.user_id != IDS["user_id"]:
            raise ValueError("the scope is another user's")
        current_scope().check(thing)
        try:
            contextvars.copy_context().run(drive, met_elsewhere(thing))
        except OwnershipError:
            return
        raise ValueError("another request may have it")

    _run(case, 2, seen=Collecting(look))


def _refuses(case: Case, shape: Shape) -> None:
    """No invalid id, and nothing once the scope has ended."""
    try:
        _run(case, 1, user_id="placeholder")
    except InvalidContextError:
        pass
    else:
        raise ValueError("a placeholder is a user")
    captured: list[contextvars.Context] = []
    _run(case, 1, seen=Collecting(lambda thing: captured.append(contextvars.copy_context())))
    text = re.sub(r".*: seen", "seen", case.statement)  # without the line that enters
    late = Case(name="late", title="", statement=text, names=case.names)
    try:
        captured[0].run(drive, late.loop(1, **case.names))
    except ContextClosedError:
        return
    raise ValueError("a scope that has ended gives it")


def _answers(case: Case, shape: Shape) -> None:
    said: list[Any] = []

    async def answered(message: dict[str, Any]) -> None:
        said.append(message.get("status", message.get("body")))

    _run(case, 1, request=dict(case.names["request"]), send=answered)
    if said != [200, b'"WantedShared"']:
        raise ValueError(f"it said {said}")


TESTS: tuple[tuple[str, Callable[[Case, Shape], None]], ...] = (
    ("what is given is whole, and each scope's own", _gives),
    ("every second half is run when its scope ends", _ends),
    ("the request owns what it is given", _guards),
    ("invalid ids and ended scopes are refused", _refuses),
    ("the route answers with what was injected", _answers),
)
