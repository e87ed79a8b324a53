"""Which defects of layers 0 to 2 the simulation must notice by itself, and why not the others."""

from __future__ import annotations

from .boundary import MUTANTS as BOUNDARY
from .core import MUTANTS as CORE
from .mutant import Mutant, mutant
from .sessions import MUTANTS as SESSIONS

__all__ = ["MUTANTS", "OUT_OF_REACH", "must_be_noticed"]

TEST = "tests/torture/test_simulation.py::test_no_promise_is_broken_in_a_few_worlds"

OUT_OF_REACH = {
    "3: ended scopes make a chain": "what it costs is memory, and a world is too short for that",
    "5: the end of an event loop cuts what runs": "the seeded loop ends when all is done",
    "5: a leaked scope holds up the end of an event loop": "the seeded loop ends when all is done",
    "5: what was slow to enter is never left": "no manager here resists its cancellation",
    "5: a keyboard interrupt cuts clean-up on trio": "nobody presses a key",
    "5: finalisers make a cycle with their scope": "what it costs is the collector's time",
    "5: a foreign exit leaves the deadline armed": "no block with a time-out is left by another task",
    "6: an abandoned stream is not closed": "redundant layer: its scope closes it, if later",
    "7: a dict of another class copies itself": "all data are plain dicts here",
    "7: data is not bounded in size": "all data are small here",
    "7: nested data is not bounded in size": "all data are small here",
    "7: what data raises when it is looked at comes out": "all data are plain dicts and lists here",
    "7: what a key raises when it is looked at comes out": "all keys are text here",
    "7: a reserved key can be hidden": "all data are plain dicts here",
    "7: a method leads to no object": "no data here hold a method",
    "4: a session that was verified cannot be entered": "no value is verified before it is entered",
    "4: a context that is entered again and again owns more and more": "what it costs is memory",
    "4: a context is a stranger to the scope it was entered with": "no value here has a session "
    "that was verified before",
    "4: one session may be in two open roots of one context": "no value here has a session and is "
    "entered twice at once",
    "10: a refusal says all that was raised": "no data here raise when they are copied",
    "10: a foreign session is refused as if it were any object": "the same error, in other words",
}
"""Of the defects in `core`, those that no world shows; each is killed by a test of its own."""

AT_THE_BOUNDARY = (
    "2: what leaked in passes for this request's own",
    "2: what leaked in passes for this request's own, on the wire",
    "2: identify sees what leaked in",
    "2: excluded paths are served without a scope",
    "8: no identity is let through",
    "3: the scope ends when the response starts",
    "5: shutdown does not wait for requests",
)

OF_SESSIONS = ("sessions: any scope may use a session", "sessions: two tasks at once")

MUTANTS: list[Mutant] = [
    mutant(
        "3: a scope that waits for its finalisers is still open",
        "closing.py",
        "    scope._state = CLOSING\n    extras.exc = exc\n    cancelled = None",
        "    extras.exc = exc\n    cancelled = None",
        TEST,
    ),
    mutant(
        "3: whoever left a block second stays in it",
        "closing.py",
        "    if scope._state is CLOSED and _get() is scope:\n        _set(scope._below)\n",
        "",
        TEST,
    ),
    mutant(
        "3: whoever destroyed a coroutine stays in its block",
        "closing.py",
        "    if _get() is scope:  # it is over here; only its clean-up goes on\n"
        "        _set(scope._below)\n",
        "",
        TEST,
    ),
    mutant(
        "3: a scope that has ended is current still",
        "current.py",
        "    if scope._state is CLOSED:\n        raise scope._closed_error()\n    return scope",
        "    return scope",
        TEST,
    ),
    mutant(
        "4: an owned object belongs to the operation it was made in",
        "ownership.py",
        "            stamp(self, scope._root)",
        "            stamp(self, scope)",
        TEST,
    ),
    mutant(
        "4: an owned object serves whoever is left of an operation",
        "ownership.py",
        "if here is not None and here._root is owner and here._state is not CLOSED:",
        "if here is not None and here._root is owner:",
        TEST,
    ),
    mutant(
        "4: an owned object is taken by owning it again",
        "scope.py",
        "        self.check(obj)\n        owner =",
        "        owner =",
        TEST,
    ),
    mutant(
        "5: a cancellation while children are closed is lost",
        "closing.py",
        "        cancelled = await _close_with_parent(child, exc) or cancelled",
        "        await _close_with_parent(child, exc)",
        TEST,
    ),
    mutant(
        "5: detached work is begun while all shuts down",
        "fence.py",
        "        if self.is_draining:\n            raise draining()\n        origin",
        "        origin",
        TEST,
    ),
    mutant(
        "5: a scope does not wait for the streams it ends",
        "streaming.py",
        "        self.close_soon()\n        await self.finished.wait()",
        "        self.close_soon()",
        TEST,
    ),
    # --- layers that cover each other: one alone is missed by nobody, both are
    Mutant(
        "3: a context that nobody read is made after the end, twice over",
        (
            (
                "scope.py",
                'return self._state is not CLOSED and hasattr(self, "_facts")',
                'return hasattr(self, "_facts")',
            ),
            (
                "context.py",
                "        if scope._state is CLOSED:\n            scope._context = None\n",
                "",
            ),
        ),
        (TEST,),
    ),
]


def must_be_noticed() -> list[Mutant]:
    """Defects that the simulation alone has to kill; those of the core, but for some, and more."""
    chosen = [mutant for mutant in CORE if mutant.name not in OUT_OF_REACH]
    chosen += [mutant for mutant in BOUNDARY if mutant.name in AT_THE_BOUNDARY]
    chosen += [mutant for mutant in SESSIONS if mutant.name in OF_SESSIONS]
    return chosen + MUTANTS
