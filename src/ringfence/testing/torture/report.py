"""What a run found: who saw whose canary, what was left, what was done, and what was not seen."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

__all__ = ["Fault", "Leak", "Report"]

KEPT = 100  # leaks and faults that are told one by one; more are counted
SHOWN = 10


@attrs.frozen
class Leak:
    """
    A canary that somebody else's answer, log record or row contained. A value.

    Attributes:
        where: `response`, `websocket`, `log`, `output` or `row`.
        whose: the number of the user whose canary it is.
        seen_by: the number of the user who saw it; `None` is nobody.
        request: in the answer to what.
        attack: how it was sent.
        server: to which server.
        connection: the number of the connection.
        after: who asked what on that connection just before.
        excerpt: what stands around the canary.
        replay: the command that does it again.
    """

    where: str
    whose: int
    seen_by: int | None
    request: str
    attack: str
    server: str
    connection: int | None
    after: str
    excerpt: str
    replay: str

    def __str__(self) -> str:
        what = _WHERE[self.where].format(who=_who(self.seen_by), request=self.request)
        where = f"{self.server}" if self.connection is None else (
            f"{self.server}, connection {self.connection}, after {self.after or 'nothing'}"
        )  # fmt: skip
        way = f" [{self.attack}]" if self.attack else ""
        return f"{what}{way} has user {self.whose}'s canary ({where}): {self.excerpt}"


_WHERE = {
    "response": "{who}'s answer to {request}",
    "websocket": "{who}'s conversation {request}",
    "log": "a log record of {who}'s {request}",
    "output": "what was printed in {who}'s {request}",
    "row": "{who}'s row",
}


def _who(user: int | None) -> str:
    return "nobody" if user is None else f"user {user}"


@attrs.frozen
class Fault:
    """Something else that went wrong. A value."""

    what: str
    request: str
    server: str
    replay: str

    def __str__(self) -> str:
        return f"{self.what}: {self.request} ({self.server})" if self.request else self.what


@attrs.define
class Report:
    """
    What a run found. Lives as long as you keep it; keeps no answers.

    Attributes:
        app, scenario, users, requests, seed, only: of the run.
        leaks, leak_count: the first of them, and how many there were.
        faults, fault_count: answers that failed, were wrong or never came.
        left: what was still open when all was over and the grace had passed.
        done: of each attack, how many requests, answers and so on.
        observed: what was looked at, in words; each with a figure that is not zero.
        not_observed: what could not be looked at, and why.
        kinds: how many requests of each kind.
        raised: the exceptions that came out of the application; as words to faults, not found
            faults themselves, for clients that leave cause some.
    """

    app: str
    scenario: str
    users: int
    requests: int
    seed: int
    only: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    leaks: list[Leak] = attrs.field(factory=list)
    leak_count: int = 0
    faults: list[Fault] = attrs.field(factory=list)
    fault_count: int = 0
    left: list[str] = attrs.field(factory=list)
    done: dict[str, Counter[str]] = attrs.field(factory=dict)
    kinds: Counter[str] = attrs.field(factory=Counter)
    raised: Counter[str] = attrs.field(factory=Counter)
    observed: list[str] = attrs.field(factory=list)
    not_observed: list[str] = attrs.field(factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.leak_count or self.fault_count or self.left)

    def assert_clean(self) -> None:
        """
        For tests: pass if nothing was found.

        Raises:
            AssertionError: something was; its message is the report.
        """
        if not self.is_clean:
            raise AssertionError(str(self))

    # --- while it runs ------------------------------------------------------------------------

    def did(self, attack: str, *what: str) -> None:
        """Count what was done."""
        self.done.setdefault(attack, Counter()).update(what)

    def sum(self, what: str) -> int:
        """How often, over all attacks."""
        return sum(counts[what] for counts in self.done.values())

    def add_leak(self, leak: Leak) -> None:
        """Keep it, if there is room."""
        self.leak_count += 1
        if len(self.leaks) < KEPT:
            self.leaks.append(leak)

    def add_fault(self, fault: Fault) -> None:
        """Keep it, if there is room."""
        self.fault_count += 1
        if len(self.faults) < KEPT:
            self.faults.append(fault)

    def replay(self, server: str = "", attacks: Iterable[str] = ()) -> str:
        """The command that does this run again: all of it, or some attacks at one server."""
        words = ["ringfence", "torture", self.app, "--scenario", self.scenario]
        words += ["--users", self.users, "--requests", self.requests, "--seed", self.seed]  # type: ignore[list-item]
        words += [*self.options]
        words += ["--server", server] if server else []
        for attack in sorted(set(attacks) or self.only):
            words += ["--only", attack]
        return shlex.join(map(str, words))

    # --- afterwards ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        facts = attrs.asdict(self)
        return {**facts, "is_clean": self.is_clean, "replay": self.replay()}

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.is_clean:
            return (
                f"clean: {self.sum('answers'):,} answers of {self.users} users, no canary astray, "
                "nothing left"
            )
        found = [
            f"{self.leak_count:,} leaks" * bool(self.leak_count),
            f"{self.fault_count:,} faults" * bool(self.fault_count),
            f"{len(self.left)} left open" * bool(self.left),
        ]
        return "found: " + ", ".join(filter(None, found))

    def findings(self) -> list[str]:
        """What was found, one line each; the first of each sort, with a replay."""
        lines: list[str] = []
        for found, count in ((self.leaks, self.leak_count), (self.faults, self.fault_count)):
            shown = _first_of_each_sort(found)
            for one in shown:
                lines += [str(one), f"  replay: {one.replay}"]
            if count > len(shown):
                lines.append(f"... and {count - len(shown):,} more of these")
        if self.fault_count:
            raised = self.raised.most_common(SHOWN)
            lines += [f"raised {count} times, in {what}" for what, count in raised]
        return lines + [f"left open: {what}" for what in self.left]

    def __str__(self) -> str:
        return "\n".join(
            [
                self.verdict,
                *self.findings(),
                *(f"observed: {what}" for what in self.observed),
                *(f"not observed: {what}" for what in self.not_observed),
                f"replay: {self.replay()}",
            ]
        )


def _first_of_each_sort(found: Iterable[Any]) -> list[Any]:
    """The first by place and request: a thousand of the same say no more than one."""
    firsts: dict[Any, Any] = {}
    for one in found:
        sort = (getattr(one, "where", None) or one.what, one.request)
        firsts.setdefault(sort, one)
    return list(firsts.values())[:SHOWN]
