"""Writing: the function that makes one object of a request, and what it is made of, in one go."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .pending import MISSING

if TYPE_CHECKING:
    from .holders import ScopeHolder
    from .plans import Plan

__all__ = ["written_for"]

DEEPEST = 60  # Python allows 100 levels of indentation
MOST = 200


def written_for(plan: Any) -> Callable[[ScopeHolder], Any]:
    """
    A function that does what `plan.now` does for the holder of a root that is open and current.

    Asking plan by plan took as long again as making the objects; Python itself is the fastest to
    say what is given to what. The text is shown in tracebacks. Of a `Repository` that asks for a
    `Session`, which asks for a `Pool` of the application, it is::

        def make(holder):
            made, keep = holder.made, holder.keep
            get, keep_new = made.get, made.setdefault
            part1_session = get(plan1, MISSING)
            if part1_session is MISSING:
                part2_pool = plan2.value
                if part2_pool is MISSING:
                    part2_pool = plan2.now(holder)
                part1_session = keep_new(plan1, make1(part2_pool))
            return keep_new(plan0, make0(part1_session))
    """
    writer = _Writer()
    made = writer.made(plan, 0, depth=1)
    text = "\n".join([*_BEGINNING, *writer.lines, f"    return {made}", ""])
    name = f"ringfence: making {plan.name}"
    space = {"MISSING": MISSING, "__name__": name, "__loader__": _Shown(text), **writer.space}
    exec(compile(text, name, "exec"), space)  # noqa: S102 - names alone
    make: Callable[[ScopeHolder], Any] = space["make"]
    return make


_BEGINNING = (
    "def make(holder):",
    "    made, keep = holder.made, holder.keep",
    "    get, keep_new = made.get, made.setdefault",
)


class _Shown:
    """The loader of a text that is in no file: where tracebacks look for its lines."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, name: str) -> str:
        """The text."""
        return self.text


class _Writer:
    """The lines of one function, and what the names in them mean. Lives while it is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.space: dict[str, Any] = {}
        self.written: set[Plan] = set()
        self.count = 0

    def made(self, plan: Any, number: int, depth: int) -> str:
        """The call that makes it; the lines that get what it is made of are written."""
        self.written.add(plan)
        self.space[f"plan{number}"], self.space[f"make{number}"] = plan, plan.make
        arguments = [self.part(part, depth) for part in plan.positional]
        arguments += [f"{name}={self.part(part, depth)}" for name, part in plan.by_name]
        keep = "keep_new" if plan.is_fresh else "keep"
        return f"{keep}(plan{number}, make{number}({', '.join(arguments)}))"

    def part(self, plan: Plan, depth: int) -> str:
        """The name of a part; the lines that get it are written."""
        self.count = number = self.count + 1
        name = f"part{number}_" + re.sub(r"\W+", "_", plan.name).strip("_").lower()
        self.space[f"plan{number}"] = plan
        is_of_request = plan.is_plain_call
        found = f"get(plan{number}, MISSING)" if is_of_request else f"plan{number}.value"
        self._write(depth, f"{name} = {found}")
        self._write(depth, f"if {name} is MISSING:")
        if is_of_request and self._has_room(plan, depth):
            made = self.made(plan, number, depth + 1)
        else:
            made = f"plan{number}.now(holder)"
        self._write(depth + 1, f"{name} = {made}")
        return name

    def _has_room(self, plan: Plan, depth: int) -> bool:
        """A second time it is most likely there, and the text would grow without limit."""
        return plan not in self.written and depth < DEEPEST and len(self.written) < MOST

    def _write(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)
