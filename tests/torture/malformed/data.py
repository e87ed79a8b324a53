"""Hostile data of a context: taken whole and apart from the caller's, or refused by name."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import io
import threading
from collections.abc import Callable
from random import Random
from typing import Any

from ringfence import (
    InvalidContextError,
    SharedObjectError,
    UserExecutionContext,
    child_context,
    current_context,
    user_context,
)

from ..report import Report
from .tally import Tally

RESERVED = "user_id thread_id run_id request_id created_at db_session websocket_client_id".split()


# --- hostile classes --------------------------------------------------------------------------


class LyingText(str):
    """Equal to nothing, hashed at random moments only."""

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")


class RaisingKey:
    """Can be hashed once, when it is put into its dict."""

    def __init__(self) -> None:
        self.times = 0

    def __hash__(self) -> int:
        self.times += 1
        if self.times > 1:
            raise RuntimeError("hashed again")
        return 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")


class CollidingKey:
    """Has the hash of a reserved key, and raises when it is compared with it."""

    def __hash__(self) -> int:
        return hash("user_id")

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        raise RuntimeError("compared")


class SelfCopying:
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class RaisingCopy:
    def __deepcopy__(self, memo: Any) -> Any:
        raise KeyError("no copy")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("asked for its text")


class UnspeakableCopy:
    def __deepcopy__(self, memo: Any) -> Any:
        raise Unspeakable

    def __repr__(self) -> str:
        raise Unspeakable


class RaisingDict(dict[Any, Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("iterated")

    def keys(self) -> Any:
        raise RuntimeError("asked for keys")

    def items(self) -> Any:
        raise RuntimeError("asked for items")


class LyingDict(dict[Any, Any]):
    """Hides what it holds; says that its copy is itself."""

    def copy(self) -> Any:
        return self

    def __len__(self) -> int:
        return 0


class HidingDict(dict[Any, Any]):
    """Shows its keys to who copies it, and to nobody else."""

    def __iter__(self) -> Any:
        return iter(())

    def keys(self) -> Any:
        return dict.keys(self)


OWN_DICTS = (RaisingDict, LyingDict, HidingDict)


class LyingList(list[Any]):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class RaisingIndex(str):
    def __repr__(self) -> str:
        raise RuntimeError("asked for its text")


class RaisingSlots:
    __slots__ = ("inner",)

    def __getattribute__(self, name: str) -> Any:
        if name == "inner":
            raise RuntimeError("looked at")
        return object.__getattribute__(self, name)


class Faceless:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("asked for its class")


class Colour(enum.Enum):
    RED = 1


# --- what is offered --------------------------------------------------------------------------


def _text(rng: Random) -> str:
    return "".join(chr(rng.randint(32, 0x2FF)) for _ in range(rng.randint(0, 20)))


def _nested(rng: Random, depth: int) -> Any:
    value: Any = rng.random()
    for _ in range(depth):
        value = rng.choice(([value], {"x": value}, (value,), {rng.random(): value}))
    return value


def _deep_objects(rng: Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((200, 2_000))):
        value = collections.deque([value])
    return value


def _cycle(rng: Random) -> Any:
    ring: list[Any] = [rng.random()]
    ring.append({"back": ring, "pair": (ring, 1)})
    return ring


def _generator(rng: Random) -> Any:
    return (number for number in range(rng.randint(1, 9)))


def _live(rng: Random) -> object:
    return rng.choice(LIVE)()


LIVE: tuple[Callable[[], object], ...] = (
    threading.Lock,
    threading.RLock,
    lambda: (number for number in range(3)),
    lambda: io.StringIO().readline,
    lambda: open.__self__,  # type: ignore[attr-defined]
    lambda: memoryview(b"x"),
    SelfCopying,
    RaisingCopy,
    UnspeakableCopy,
    lambda: type("Client", (), {"lock": threading.Lock()})().lock,
    lambda: LyingList([[]]),
)

ODD_KEYS: tuple[Callable[[], object], ...] = (
    lambda: 1,
    lambda: None,
    lambda: (1, "a"),
    lambda: b"k",
    lambda: 1.5,
    lambda: float("nan"),
    lambda: Colour.RED,
    lambda: frozenset({1}),
    lambda: "\ud800",
    lambda: "\x00\x1b[31m\r\n",
    lambda: "k" * 100_000,
)

HOSTILE_KEYS: tuple[Callable[[], object], ...] = (
    RaisingKey,
    CollidingKey,
    SelfCopying,
    lambda: LyingText("key"),
    lambda: RaisingIndex("key"),
    lambda: (RaisingKey(),),
    object,
)

Make = Callable[[Random], Any]

RULES: dict[str, Make] = {
    "plain": lambda rng: {"a": rng.random(), "b": [1, {"c": (2, [3])}], "d": {4, 5}},
    "no dict": lambda rng: rng.choice(
        ([("a", 1)], "a=1", 7, b"x", {1}, object(), collections.ChainMap({"a": 1}), dict.items)
    ),
    "depth": lambda rng: {"x": _nested(rng, rng.choice((98, 99, 100, 101, 500, 3_000)))},
    "depth of objects": lambda rng: {"x": _deep_objects(rng)},
    "size": lambda rng: (
        {"x": list(range(rng.choice((99_990, 100_001, 120_000))))}
        if rng.random() < 0.03
        else {str(n): [n] for n in range(rng.randint(0, 300))}
    ),
    "long text": lambda rng: {"x": "x" * rng.choice((10, 100_000, 1_000_000))},
    "cycle": lambda rng: {"x": _cycle(rng)},
    "odd key": lambda rng: {rng.choice(ODD_KEYS)(): [1]},
    "hostile key": lambda rng: {rng.choice(HOSTILE_KEYS)(): [1]},
    "hostile key within": lambda rng: {"x": {rng.choice(HOSTILE_KEYS)(): 1}},
    "no number": lambda rng: {
        "x": [float("nan"), float("inf"), -float("inf"), decimal.Decimal("sNaN"), -0.0]
    },
    "surrogate": lambda rng: {"x" + chr(rng.randint(0xD800, 0xDFFF)): [chr(0xDC00), _text(rng)]},
    "huge number": lambda rng: {"x": [10 ** rng.choice((20, 5_000, 50_000)), 2**1000]},
    "bytes": lambda rng: {"x": [rng.randbytes(9), bytearray(rng.randbytes(9)), memoryview]},
    "generator": lambda rng: {"x": _generator(rng)},
    "live": lambda rng: {"x": [_live(rng)]},
    "live in an object": lambda rng: {"x": collections.deque([_live(rng)])},
    "reserved key": lambda rng: {rng.choice(RESERVED): 1, _text(rng): 2},
    "text of its own class": lambda rng: {"x": [LyingText("a"), RaisingIndex("b")]},
    "dict of its own class": lambda rng: rng.choice(OWN_DICTS)({"a": [1], "b": rng.random()}),
    "dict of its own class within": lambda rng: {"x": rng.choice(OWN_DICTS)({"a": [1]})},
    "reserved in a dict of its own class": lambda rng: rng.choice(OWN_DICTS)(
        {rng.choice(RESERVED): [1]}
    ),
    "slots that raise": lambda rng: {"x": RaisingSlots()},
    "asked for its class": lambda rng: {"x": Faceless(), "y": [rng.random()]},
    "times": lambda rng: {
        "x": [dt.datetime.max, dt.date.min, dt.timedelta(rng.randint(0, 9)), Colour.RED]
    },
    "shared parts": lambda rng: (lambda part: {"x": part, "y": [part, part]})([rng.random()]),
}

MUST_REFUSE = {
    "no dict", "generator", "live", "live in an object", "reserved key",
    "reserved in a dict of its own class",
}  # fmt: skip
MUST_TAKE = {
    "plain", "long text", "cycle", "odd key", "no number", "surrogate", "huge number", "times",
    "shared parts",
}  # fmt: skip


# --- the oracle -------------------------------------------------------------------------------

PLAIN = (dict, list, tuple, set, frozenset, collections.deque, bytearray)


def are_apart(one: Any, two: Any, seen: dict[int, int] | None = None) -> bool:
    """Whether they hold the same, and share no container that can change."""
    todo, seen = [(one, two)], {}
    while todo:
        one, two = todo.pop()
        if not isinstance(one, PLAIN):
            if not (one is two or type(one) is type(two)):
                return False
            continue
        if id(one) in seen:
            if seen[id(one)] != id(two):
                return False
            continue
        seen[id(one)] = id(two)
        if isinstance(one, dict):
            one = dict(dict.items(one))
            two = dict(dict.items(two))
        if len(one) != len(two) or (one is two and not isinstance(one, (tuple, frozenset))):
            return False
        if isinstance(one, dict):
            todo += zip(dict.values(one), dict.values(two), strict=True)
        elif isinstance(one, (set, frozenset)):
            if one != two:
                return False
        else:
            todo += zip(list.__iter__(one) if isinstance(one, list) else one, two, strict=True)
    return True


def shape(value: Any) -> Any:
    """What a value held before, by the ids of its parts: nothing of the caller's is changed."""
    if isinstance(value, dict):
        return [(id(key), id(item)) for key, item in dict.items(value)]
    return [id(item) for item in value] if type(value) in (list, set, str) else id(value)


# --- offering it ------------------------------------------------------------------------------


def _constructed(field: str, value: Any) -> Any:
    return getattr(UserExecutionContext("u-17", "t-1", "r-1", **{field: value}), field)


async def _entered(field: str, value: Any) -> Any:
    async with user_context("u-17", **{field: value}) as ctx:
        return getattr(ctx, field)


async def _child(field: str, value: Any) -> Any:
    async with user_context("u-17"), child_context("step", **{field: value}):
        found = dict(getattr(current_context(), field))
    for name in ("parent_operation", "operation_name", "operation_depth", "parent_request_id",
                 "child_created_at"):  # fmt: skip
        found.pop(name, None)
    return found


async def run(report: Report) -> int:
    """How many malformed ones were offered."""
    tally = Tally("data", report, limit=0.25)  # a hundred thousand items take their time
    makers = {rule: make for rule, make in RULES.items() if tally.chosen(rule)}
    if not makers:
        return 0
    each = report.size(1_000, 40)
    counts = {"taken": 0, "refused": 0, "shared by a naive copy": 0}
    for done, (rule, make) in enumerate(makers.items()):
        rng = tally.random(rule)
        for number in range(each):
            data = make(rng)
            field = ("agent_context", "audit_metadata")[number % 2]
            await _offer(tally, rule, field, data, number % 3, counts)
            if rule in MUST_TAKE:
                counts["shared by a naive copy"] += not are_apart(data, data.copy())
        report.progress(done, len(makers))
    tally.tell(each)
    report.control("data: taken whole and apart", counts["taken"])
    report.control("data: refused with the field and a rule", counts["refused"])
    report.control("data: shared by a copy of one level", counts["shared by a naive copy"])
    return tally.offered.total()


async def _offer(
    tally: Tally, rule: str, field: str, data: Any, way: int, counts: dict[str, int]
) -> None:
    before = shape(data)
    tally.begin()
    try:
        if way == 0:
            copied = _constructed(field, data)
        else:
            copied = await (_entered if way == 1 else _child)(field, data)
    except (InvalidContextError, SharedObjectError) as error:
        tally.end(rule)
        tally.raised(rule, data, error)
        _judge_refusal(tally, rule, field, data, error)
        counts["refused"] += 1
    except BaseException as error:
        tally.end(rule)
        tally.raised(rule, data, error)
    else:
        tally.end(rule)
        if rule in MUST_REFUSE or not are_apart(data, copied):
            tally.taken(rule, data)
        counts["taken"] += 1
    if shape(data) != before:
        tally.fault(rule, "has changed", data)


def _judge_refusal(tally: Tally, rule: str, field: str, data: Any, error: Any) -> None:
    if rule in MUST_TAKE:
        tally.fault(rule, f"is refused: {error}", data)
    named = getattr(error, "field", None) or ""
    if not named.startswith(field) or not getattr(error, "rule", None):
        tally.fault(rule, f"is refused without its name: {error}", data)
