"""Honesty: before anything is timed, the very loops that are timed show that they do the work."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs

from ringfence import (
    ContextClosedError,
    ContextLimitError,
    InvalidContextError,
    NoContextError,
    OwnershipError,
    ScopeInGeneratorError,
    user_context,
)
from ringfence.copies import mutable_objects
from ringfence.settings import default_settings
from ringfence.state import open_roots

from .cases import IDS
from .timing import Case, drive

__all__ = ["Check", "checks"]

BAD_IDS = {
    "a placeholder": "placeholder",
    "a placeholder in capitals": "UNDEFINED",
    "a placeholder's prefix": "test_17",
    "a look-alike letter": "usr_5f0c2\N{CYRILLIC SMALL LETTER A}7be91d4c3a8b61",
    "129 characters": "u" * 129,
    "a newline": "usr_5f0c2a7be9\n1d4c3a8b61",
    "a newline at its end": "usr_5f0c2a7be91d4c3a8b6\n",
    "nothing": "",
}


@attrs.frozen
class Check:
    """One claim about what is timed; `fault` says what happened instead."""

    claim: str
    fault: str | None = None


def checks(cases: Mapping[str, Case]) -> list[Check]:
    """Put every claim to the test. No check changes what is timed, and none may be left out."""
    return [
        _put(claim, test, cases)
        for claim, test in (
            ("invalid ids are refused", _invalid_ids),
            ("what was given is what is read", _facts),
            ("a block standing in an async generator is refused", _generators),
            ("a captured handle is refused after the block", _captured),
            ("without a scope the reader raises", _nothing_open),
            ("children have a limit", _depth),
            ("every block is closed, and was open", _closed),
            ("the copy shares nothing", _copies),
            ("another request's objects are refused", _owners),
        )
    ]


def _put(claim: str, test: Callable[[Mapping[str, Case]], str | None], cases: Any) -> Check:
    try:
        fault = contextvars.Context().run(test, cases)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return Check(claim, fault)


def _refusal(error: type[Exception], attempt: Callable[[], Any]) -> str | None:
    """What is wrong if `attempt` does not raise `error`."""
    try:
        attempt()
    except error:
        return None
    except Exception as other:
        return f"{type(other).__name__} was raised, not {error.__name__}"
    return f"no {error.__name__} was raised"


def _said(look: Coroutine[Any, Any, str | None]) -> str | None:
    fault: str | None = drive(look)
    return fault


def _invalid_ids(cases: Mapping[str, Case]) -> str | None:
    for name, fields in (("three-ids", tuple(IDS)), ("generated-ids", ("user_id",))):
        case = cases[name]
        case.once()
        for field in fields:
            for what, value in BAD_IDS.items():
                fault = _refusal(InvalidContextError, lambda: case.once(**{field: value}))  # noqa: B023
                if fault:
                    return f"{name}: {what} as {field}: {fault}"
    return None


def _facts(cases: Mapping[str, Case]) -> str | None:
    root, brief = cases["three-ids"].names, cases["generated-ids"].names
    child, read = cases["child"].names, cases["reader"].names["read"]

    async def look() -> str | None:
        async with root["user_context"](**IDS) as ctx:
            if read() is not ctx:
                return "the reader does not give the context that is open"
            if (ctx.user_id, ctx.thread_id, ctx.run_id) != tuple(IDS.values()):
                return "the context does not hold the ids given"
            async with child["child_context"](child["operation"]) as below:
                if (read(), below.operation_depth, below.parent_request_id, below.user_id) != (
                    below, 1, ctx.request_id, ctx.user_id,
                ):  # fmt: skip
                    return "the child is not of its parent"
        made = set()
        for _ in range(1000):
            async with brief["user_context"](brief["user_id"]) as ctx:
                made |= {ctx.thread_id, ctx.run_id, ctx.request_id}
        return None if len(made) == 3000 else f"{3000 - len(made)} generated ids came twice"

    return _said(look())


def _generators(cases: Mapping[str, Case]) -> str | None:
    async def within() -> str | None:
        async with user_context(**IDS):
            for name in ("three-ids", "generated-ids", "child"):
                generator = cases[name].in_a_generator()
                fault = _refusal(ScopeInGeneratorError, lambda: drive(generator.__anext__()))  # noqa: B023
                if fault:
                    return f"{name}: {fault}"
        return None

    return _said(within())


def _captured(cases: Mapping[str, Case]) -> str | None:
    names, read = cases["child"].names, cases["reader"].names["read"]

    async def capture() -> str | None:
        async with names["user_context"](**IDS):
            in_root = contextvars.copy_context()
            async with names["child_context"](names["operation"]):
                in_child = contextvars.copy_context()
            # The root is open still: a reader that fell back to it would answer.
            fault = _refusal(ContextClosedError, lambda: in_child.run(read))
        return fault or _refusal(ContextClosedError, lambda: in_root.run(read))

    return _said(capture())


def _nothing_open(cases: Mapping[str, Case]) -> str | None:
    return _refusal(NoContextError, cases["reader"].names["read"])


def _depth(cases: Mapping[str, Case]) -> str | None:
    child = cases["child"].names
    deepest = default_settings().max_depth

    async def descend(levels: int) -> None:
        if levels:
            async with child["child_context"](child["operation"]):
                await descend(levels - 1)

    async def below_a_root(levels: int) -> None:
        async with child["user_context"](**IDS):
            await descend(levels)

    drive(below_a_root(deepest))
    return _refusal(ContextLimitError, lambda: drive(below_a_root(deepest + 1)))


def _closed(cases: Mapping[str, Case]) -> str | None:
    before = open_roots()
    seen: list[int] = []

    for name in ("three-ids", "generated-ids", "child"):
        enter = cases[name].names["user_context"]

        def watched(*args: Any, **ids: Any) -> Any:
            seen.append(len(open_roots()))
            return enter(*args, **ids)  # noqa: B023

        seen.clear()
        cases[name].once(user_context=watched)
        if len(seen) != 1:
            return f"{name}: one iteration opens {len(seen)} roots"
        if open_roots() != before:
            return f"{name}: a scope is left open"

    async def is_registered() -> bool:
        async with cases["three-ids"].names["user_context"](**IDS):
            return len(open_roots()) == len(before) + 1

    return None if drive(is_registered()) else "an open scope is not among the open ones"


def _copies(cases: Mapping[str, Case]) -> str | None:
    case = cases["copy"].names
    original, duplicate = case["original"], case["duplicate"](case["original"])
    if duplicate != original:
        return "the copy is not equal"
    shared = {id(part) for part in mutable_objects(original)} & {
        id(part) for part in mutable_objects(duplicate)
    }
    return f"{len(shared)} objects are shared" if shared else None


def _owners(cases: Mapping[str, Case]) -> str | None:
    make, thing = cases["owned-read"].names["make"], cases["own"].names["thing"]
    current_scope = cases["own"].names["current_scope"]

    async def meet() -> str | None:
        async with user_context(**IDS):
            watched, owned = make(), current_scope().own(thing)
            async with user_context(**IDS):
                return _refusal(OwnershipError, lambda: watched.notes) or _refusal(
                    OwnershipError, lambda: current_scope().own(owned)
                )

    return _said(meet())
