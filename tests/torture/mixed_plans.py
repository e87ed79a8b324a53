"""
What a scope of many users does, drawn from a seed and its number, and how it is cancelled.

What becomes of that depends on the timing of the server and the drivers too.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import attrs

USERS, ROWS = 50, 3

STEPS = {
    "read": 8, "write": 3, "steal": 1, "fail": 1, "commit": 4, "roll back": 2, "savepoint": 2,
    "sleep": 2, "child": 1, "children": 1, "orphan": 0.3, "raise": 0.5,
}  # fmt: skip
CANCELS = {
    "none": 16, "task": 2, "task x3": 1, "timeout": 1, "anyio scope": 1, "deadline": 1,
}  # fmt: skip


class Planned(Exception):
    """A scope that fails by its own doing."""


@attrs.frozen
class Plan:
    """What one scope does; `who` is a user, `""` for nobody, `None` for a bare connection."""

    number: int
    who: str | None
    steps: tuple[str, ...]
    transaction: Any
    cancel: str
    after: float

    @classmethod
    def drawn(cls, seed: str, number: int) -> Plan:
        rng = random.Random(f"{seed}/{number}")
        [who] = rng.choices((f"u{rng.randrange(USERS)}", "", None), (85, 10, 5))
        steps = rng.choices(list(STEPS), list(STEPS.values()), k=rng.randint(1, 3))
        [cancel] = rng.choices(list(CANCELS), list(CANCELS.values()))
        transaction = rng.choice(("commit_on_exit", "commit_on_exit", "manual"))
        steps += ["write"] * (who == "")  # so that it is often tried
        return cls(number, who, ("read", *steps), transaction, cancel, rng.random() ** 2 * 0.1)


class Way(Protocol):
    """
    How a session comes to answer for somebody; the blocks give what has a `db_session`.

    `may_be_left`: the block may end while a statement is under way.
    """

    may_be_left: bool

    def open(self, plan: Plan) -> Any: ...

    def child(self, plan: Plan) -> Any: ...
