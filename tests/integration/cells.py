"""What is done to each server, and what came of it: the right user, outcome and clean-up."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from .options import Configuration
from .servers import Served, until
from .wire import Wire, request

BIG = 512 * 1024
"""Bytes of a body; from 64 KiB on servers stop reading for a while, and go on in a request."""

COMPLETED = frozenset({"completed"})
GONE = frozenset({"client_disconnect"})
CANCELLED = frozenset({"cancelled"})


@attrs.frozen
class Asked:
    """One request of ours: who asked, whom the application saw, and how it may end."""

    name: str
    user: str
    seen: set[str]
    outcomes: frozenset[str] = COMPLETED


_numbers = itertools.count(1)


def _name(way: str, user: str | None) -> str:
    return f"{way}.{user or '-'}.{next(_numbers)}"


# --- while it serves --------------------------------------------------------------------------

TURNS = ("alice-1", None, "bob-22", None)


def pipelined(served: Served, way: str) -> list[Asked]:
    """Four requests in one packet: alice's, nobody's, bob's, nobody's."""
    turns = [(user, _name(way, user)) for user in TURNS]
    with served.wire() as wire:
        wire.send(*(request(f"/{way}/who", user, name=name) for user, name in turns))
        return [Asked(name, user or "-", wire.users()) for user, name in turns]


def big_body(served: Served, way: str) -> list[Asked]:
    """The same, one after the other, after a body that makes the server pause."""
    asked = []
    with served.wire() as wire:
        for size, user in zip((BIG, 0, 0, 0), TURNS, strict=True):
            name = _name(way, user)
            wire.send(request(f"/{way}/who", user, size, name=name))
            asked.append(Asked(name, user or "-", wire.users()))
    return asked


def upgrade(served: Served, way: str) -> list[Asked]:
    """Nobody's WebSocket on the connection on which alice has sent a big body."""
    first, second = _name(way, "alice-1"), _name(way, None)
    with served.wire() as wire:
        wire.send(request(f"/{way}/who", "alice-1", BIG, name=first))
        asked = [Asked(first, "alice-1", wire.users())]
        wire.upgrade(f"/{way}/who", None, second)
        asked.append(Asked(second, "-", {wire.message()}))
        wire.read(2)  # the server says goodbye
    return asked


def stream(served: Served, way: str) -> list[Asked]:
    """A stream that is read to its end."""
    name = _name(way, "alice-1")
    with served.wire() as wire:
        seen = _begin_stream(wire, way, name, "?0.05")
        wire.read_chunks()
    return [Asked(name, "alice-1", seen)]


def reset_stream(served: Served, way: str) -> list[Asked]:
    """The client is gone in the midst of a stream."""
    name = _name(way, "alice-1")
    with served.wire() as wire:
        seen = _begin_stream(wire, way, name)
        wire.reset()
    return [Asked(name, "alice-1", seen, GONE)]


def is_told(configuration: Configuration) -> bool:
    """Whether a WebSocket's end shows in its code; else it is 1005, as of a browser's `close()`."""
    return configuration.server in ("hypercorn", "daphne") or configuration.ws == "websockets"


def reset_chat(served: Served, way: str) -> list[Asked]:
    """The client is gone while a WebSocket pushes and listens."""
    return [
        _reset_websocket(
            served, way, "chat", GONE if is_told(served.configuration) else GONE | COMPLETED
        )
    ]


def reset_push(served: Served, way: str) -> list[Asked]:
    """The same, while it pushes for half a second and does not listen: `send` has to say so."""
    # The others' `send` says nothing: such a handler goes on as if somebody heard it.
    is_told = served.configuration.server == "uvicorn"
    return [_reset_websocket(served, way, "push?0.5", GONE if is_told else COMPLETED)]


SERVING: dict[str, Callable[[Served, str], list[Asked]]] = {
    "pipelined": pipelined,
    "big body": big_body,
    "upgrade": upgrade,
    "stream": stream,
    "reset, stream": reset_stream,
    "reset, chat": reset_chat,
    "reset, push": reset_push,
}


def _begin_stream(wire: Wire, way: str, name: str, query: str = "") -> set[str]:
    wire.send(request(f"/{way}/stream{query}", "alice-1", name=name))
    assert wire.head()[0] == 200
    chunk = len("8\r\nalice-1\n\r\n")
    return {wire.read(chunk).decode().split()[1] for _ in range(2)}


def _reset_websocket(served: Served, way: str, path: str, outcomes: frozenset[str]) -> Asked:
    name = _name(way, "alice-1")
    with served.wire() as wire:
        wire.upgrade(f"/{way}/{path}", "alice-1", name)
        seen = {wire.message(), wire.message()}
        wire.reset()
    return Asked(name, "alice-1", seen, outcomes)


# --- when it is stopped -----------------------------------------------------------------------


@contextlib.contextmanager
def in_flight(
    served: Served, way: str, expected: dict[str, frozenset[str]]
) -> Iterator[list[Asked]]:
    """Requests that are begun and not ended: of each path, and how they may end."""
    asked = []
    with contextlib.ExitStack() as stack:
        for path, outcomes in expected.items():
            wire, name = stack.enter_context(served.wire()), _name(way, "alice-1")
            asked.append(Asked(name, "alice-1", _begin(wire, way, path, name), outcomes))
        assert until(lambda: all(served.journal("begun", each.name) for each in asked))
        assert not any(served.journal("outcome", each.name) for each in asked), "too late"
        yield asked


def _begin(wire: Wire, way: str, path: str, name: str) -> set[str]:
    kind, _, query = path.partition("?")
    if kind == "stream":
        return _begin_stream(wire, way, name, f"?{query}" if query else "")
    if kind in ("push", "idle"):
        wire.upgrade(f"/{way}/{path}", "alice-1", name)
        return {wire.message()}
    wire.send(request(f"/{way}/{path}", "alice-1", name=name))
    return {"alice-1"}  # has not said yet whom it sees; the journal has


def ends_by_itself(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Requests that are waited for: they end a second after they began."""
    requests = {"slow?1": COMPLETED, "stream?1": COMPLETED}
    if configuration.server == "uvicorn":  # it closes its WebSockets at once, with 1012
        return {**requests, "push": GONE, "idle": GONE}
    if configuration.server == "daphne":  # it waits for nobody
        return is_cut_short(configuration)
    if configuration.server == "granian":  # it ends while a WebSocket's `send` still waits for it
        return {**requests, "push": CANCELLED, "idle": COMPLETED}
    return {**requests, "push?1": COMPLETED, "idle?1": COMPLETED}


def is_cut_short(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Requests that do not end before their grace is over."""
    requests = {"slow": CANCELLED, "stream": CANCELLED}
    if configuration.server == "uvicorn":
        return {**requests, "stubborn": CANCELLED, "push": GONE, "idle": GONE}
    # Whether daphne itself cancels anybody is chance: not while a WebSocket is a second old.
    # A second cancellation, which one that swallows the first would need, cannot be counted on.
    if configuration.server == "granian":  # only who listens is told before the process is killed
        return {**requests, "push": CANCELLED, "idle": COMPLETED}
    # Hypercorn would wait for ever for one that swallows its cancellation.
    return {**requests, "push": CANCELLED, "idle": CANCELLED}


# --- what came of it --------------------------------------------------------------------------


@attrs.frozen
class Verdict:
    """
    What came of the requests of one cell.

    Attributes:
        left: open roots, registered objects, connections checked out or dropped; -1 if nobody
            can say.
        miscounted: whether the counters of outcomes say otherwise than the requests.
        cut_short: how many requests the fence itself cancelled at shutdown.
        abandoned: how many it gave up.
    """

    requests: int
    right_users: int
    right_outcomes: int
    finalisers: int
    finalised: int
    left: int
    miscounted: bool = False
    cut_short: int = 0
    abandoned: int = 0

    @property
    def faults(self) -> set[str]:
        """What went wrong, by kind; empty if nothing did."""
        found = {
            "user": self.right_users != self.requests,
            "outcome": self.right_outcomes != self.requests,
            "finaliser": self.finalised != self.finalisers,
            "left open": self.left != 0,
            "counter": self.miscounted,
            "abandoned": self.abandoned != 0,
        }
        return {kind for kind, is_wrong in found.items() if is_wrong}


def judge(served: Served, asked: list[Asked]) -> Verdict:
    """While it serves: once everything is in the journal, and nothing is open any more."""
    until(lambda: _is_over(served, asked), 5)
    until(lambda: _left(served.state()) == 0, 5)
    return _verdict(served, asked, left=_left(served.state()))


def judge_the_end(served: Served, asked: list[Asked]) -> Verdict:
    """Once it has stopped: the last thing that its process wrote down."""
    stopped = served.journal("stopped")
    if not stopped:
        return _verdict(served, asked, left=-1)
    _, cut_short, abandoned = stopped[0]["report"] or (0, 0, 0)
    counts = stopped[0]["counters"].items()
    counted = {name: n for name, n in counts if name.startswith("request.")}
    return _verdict(
        served,
        asked,
        left=_left(stopped[0]),
        miscounted=counted != _outcomes_of_the_fenced(served),
        cut_short=cut_short,
        abandoned=abandoned,
    )


def _verdict(served: Served, asked: list[Asked], **facts: Any) -> Verdict:
    names = {each.name: each for each in asked}
    begun = {line["request"]: line["user"] for line in _of(served, "begun", names)}
    ended = _of(served, "outcome", names)
    return Verdict(
        requests=len(asked),
        right_users=sum({a.user} == a.seen == {begun.get(a.name)} for a in asked),
        right_outcomes=sum(line["outcome"] in names[line["request"]].outcomes for line in ended),
        finalisers=2 * len(begun),
        finalised=len(_of(served, "finalised", names)),
        **facts,
    )


def _of(served: Served, what: str, names: Any) -> list[dict[str, Any]]:
    return [line for line in served.journal(what) if line["request"] in names]


def _is_over(served: Served, asked: list[Asked]) -> bool:
    names = {each.name for each in asked}
    ended, done = _of(served, "outcome", names), _of(served, "finalised", names)
    return len(ended) == len(names) and len(done) == 2 * len(names)


def _left(state: dict[str, Any]) -> int:
    return sum(state[name] for name in ("open_roots", "registry", "checked_out", "dropped"))


def _outcomes_of_the_fenced(served: Served) -> dict[str, int]:
    lines = [line for line in served.journal("outcome") if line["request"].startswith("fenced")]
    return dict(Counter(f"request.{line['outcome']}" for line in lines))
