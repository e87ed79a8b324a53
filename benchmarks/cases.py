"""The cases: what a request pays for, the floor beneath it, and the gates."""

from __future__ import annotations

import copy
from contextvars import ContextVar, Token
from typing import Any

import attrs

from ringfence import child_context, current_context, current_scope, owned, user_context
from ringfence.copies import isolated_copy
from ringfence.isolation import registry

from .timing import Case

__all__ = ["CROWD_GATE", "IDS", "Floor", "core_cases", "variable"]

IDS: dict[str, Any] = {
    "user_id": "usr_5f0c2a7be91d4c3a8b61",
    "thread_id": "thr_0b9e4d71c2f84a6f9d35",
    "run_id": "run_c81fe2a9065b47d3be70",
}
"""Three ids of 24 characters, as they come from a database."""
CROWD_GATE = 1.25

variable: ContextVar[Floor | None] = ContextVar("benchmark_floor", default=None)


class Floor:
    """The least that a scope can be: a ContextVar set on the way in and reset on the way out."""

    __slots__ = ("token",)

    token: Token[Floor | None]

    async def __aenter__(self) -> Floor:
        self.token = variable.set(self)
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        variable.reset(self.token)


class Plain:
    """An object that nobody watches."""

    def __init__(self) -> None:
        self.notes = 1


@owned
class Watched(Plain):
    """The same, marked `@owned`."""


async def finaliser() -> None:
    """Clean-up that has nothing to await."""


def nested() -> dict[str, Any]:
    """Fifty keys, nested: what an agent's working data looks like."""
    return {
        f"step-{number}": {
            "tool": "search",
            "arguments": {"query": "blue whales", "limit": 10},
            "tokens": [310, 27, 4],
            "seconds": 0.25 * number,
        }
        for number in range(10)
    }


ENTER = "user_context(user_id, thread_id=thread_id, run_id=run_id)"
ROOT = {"user_context": user_context, **IDS}


def core_cases() -> list[Case]:
    """The cases with a gate, each with its floor, then those that only inform."""
    gated = [
        Case(
            name="three-ids",
            title="enter and exit, three ids given",
            statement=f"async with {ENTER}: pass",
            names=ROOT,
            gate=6,
            stretch=4.5,
        ),
        Case(
            name="generated-ids",
            title='enter and exit, user_context("u-17")',
            statement="async with user_context(user_id): pass",
            names={"user_context": user_context, "user_id": "u-17"},
            gate=8,
        ),
        Case(
            name="child",
            title="enter and exit a child",
            statement="async with child_context(operation): pass",
            names={**ROOT, "child_context": child_context, "operation": "search"},
            around=f"async with {ENTER}:",
            gate=6,
        ),
        Case(
            name="reader",
            title="current_context()",
            statement="read()",
            names={**ROOT, "read": current_context},
            around=f"async with {ENTER}:",
            of="get",
            gate=4.5,
        ),
    ]
    crowded = [
        attrs.evolve(
            case,
            name=f"{case.name}-crowd",
            title=f"{case.title}, in a crowd",
            of=case.name,
            gate=CROWD_GATE,
            stretch=None,
            crowded=True,
        )
        for case in gated
        if case.name != "child"
    ]
    return [
        Case(
            name="floor",
            title="the floor: class, ContextVar set and reset",
            statement="async with Floor(): pass",
            names={"Floor": Floor},
        ),
        Case(
            name="get",
            title="ContextVar.get",
            statement="read()",
            names={"Floor": Floor, "read": variable.get},
            around="async with Floor():",
        ),
        *gated,
        *crowded,
        *_informing(),
    ]


def _informing() -> list[Case]:
    open_root = f"async with {ENTER}:"
    return [
        Case(
            name="finaliser",
            title="enter and exit, one async finaliser",
            statement=f"async with {ENTER}: current_scope().callback(finaliser)",
            names={**ROOT, "current_scope": current_scope, "finaliser": finaliser},
            on_loop=True,
        ),
        Case(
            name="deepcopy",
            title="copy.deepcopy of 50 nested keys",
            statement="duplicate(original)",
            names={"duplicate": copy.deepcopy, "original": nested()},
        ),
        Case(
            name="copy",
            title="isolated_copy of the same",
            statement="duplicate(original)",
            names={"duplicate": isolated_copy, "original": nested()},
            of="deepcopy",
        ),
        Case(
            name="own",
            title="own an object, and release it",
            statement="own(thing); release(claimant)",
            names={
                **ROOT,
                "current_scope": current_scope,
                "release": registry.release,
                "thing": Plain(),
            },
            around=open_root,
            prepare="own, claimant = current_scope().own, current_scope().claimant",
        ),
        Case(
            name="plain-read",
            title="attribute of an ordinary object",
            statement="thing.notes",
            names={**ROOT, "make": Plain},
            around=open_root,
            prepare="thing = make()",
        ),
        Case(
            name="owned-read",
            title="attribute of an @owned object",
            statement="thing.notes",
            names={**ROOT, "make": Watched},
            around=open_root,
            prepare="thing = make()",
            of="plain-read",
        ),
    ]
