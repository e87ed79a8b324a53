"""Malformed ids, in every field of every way to make a context."""

from __future__ import annotations

import datetime as dt
import re
import string
import uuid
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from ringfence import (
    Identity,
    Ringfence,
    UserExecutionContext,
    child_context,
    current_context,
    user_context,
)
from ringfence.current import root_of

from ..report import Report
from .tally import Tally

# The rules once more, written from the page on ids, not from the code.
FIRST = string.ascii_letters + string.digits + "_-"
OTHERS = FIRST + ".:@|+=/"
PLACEHOLDERS = (
    "registry placeholder default temp none null undefined 0 1 xxx yyy example test demo sample "
    "template mock fake dummy anonymous todo"
).split()
LENGTHS = (1, 2, 3, 8, 19, 20, 21, 36, 36, 36, 127, 128)
PREFIXES = "placeholder registry default temp test example demo sample template mock fake".split()


DISGUISES = tuple(prefix + mark for prefix in PREFIXES for mark in "-_.:")
_ALLOWED = frozenset(OTHERS)
_STOCK = "".join(Random(0).choices(OTHERS, k=100_000))


def is_id(value: object) -> bool:
    """The oracle."""
    if type(value) is not str or not 1 <= len(value) <= 128:
        return False
    if value[0] not in FIRST or not _ALLOWED.issuperset(value):
        return False
    lowered = value.lower()
    is_disguised = len(value) < 20 and lowered.startswith(DISGUISES)
    return lowered not in PLACEHOLDERS and not is_disguised


def valid(rng: Random) -> str:
    """An id that may be."""
    while True:
        length = rng.choice(LENGTHS)
        where = int(rng.random() * 99_000)
        value = rng.choice(FIRST) + _STOCK[where : where + length - 1]
        if is_id(value):
            return value


# --- what is wrong with them ------------------------------------------------------------------

SPACES = "\u00a0\u1680\u2000\u2003\u2007\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u0085 "
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u115f\u3164\ufe0f\ufe00\U000e0061\u180e"
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
LOOKALIKES = {
    "a": "\u0430\u0251\uff41", "e": "\u0435\uff45", "o": "\u043e\u03bf\uff4f", "p": "\u0440\uff50",
    "c": "\u0441\u03f2", "x": "\u0445", "i": "\u0456\u0131", "s": "\u0455\u017f", "k": "\u212a",
    "t": "\uff54", "0": "\uff10\u0660", "1": "\u0661\uff11", "-": "\u2010\u2011\uff0d",
    "_": "\uff3f", ".": "\u2024\uff0e", ":": "\u0589\uff1a",
}  # fmt: skip


class Disguised(str):
    """Says of itself that it is whatever it is asked for."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        raise RuntimeError("hashed")

    def lower(self) -> str:
        return "u-17"


class Texty:
    def __str__(self) -> str:
        return "u-17"


def _within(rng: Random, odd: str) -> str:
    """A valid id with something odd somewhere in it."""
    value = valid(rng)[:100]
    where = rng.randint(0, len(value))
    return value[:where] + odd + value[where:]


def _cased(rng: Random, word: str) -> str:
    return "".join(rng.choice((char.lower(), char.upper())) for char in word)


def _lookalike(rng: Random) -> str:
    word = rng.choice([*PLACEHOLDERS, "alice-1", "admin.x", "acme:1", "test-k"])
    places = [n for n, char in enumerate(word) if char in LOOKALIKES]
    if not places:
        return word + "\uff58"
    where = rng.choice(places)
    return word[:where] + rng.choice(LOOKALIKES[word[where]]) + word[where + 1 :]


def _too_long(rng: Random) -> str:
    size = rng.choice((129, 130, 200, 1_000, 5_000)) if rng.random() < 0.999 else 1_000_000
    return (valid(rng) + "x" * size)[:size]


def _no_text(rng: Random) -> object:
    value = valid(rng)
    return rng.choice(
        (
            rng.getrandbits(64), rng.random(), float("nan"), True, value.encode(), bytearray(2),
            [value], (value,), {value: value}, {value}, uuid.UUID(int=rng.getrandbits(128)),
            Disguised(value), Texty(), object(), type, dt.datetime.now(dt.UTC), 10**5000,
            iter([value]), lambda: value,
        )
    )  # fmt: skip


RULES: dict[str, Callable[[Random], object]] = {
    "empty": lambda rng: rng.choice(("", " ", "\t", "\n", "\u3000")) * rng.randint(0, 9),
    "too long": _too_long,
    "placeholder": lambda rng: _cased(rng, rng.choice(PLACEHOLDERS)),
    "prefix": lambda rng: (
        _cased(rng, rng.choice(PREFIXES)) + rng.choice("-_.:") + "".join(rng.choices(OTHERS, k=5))
    ),
    "control": lambda rng: _within(rng, chr(rng.choice([*range(1, 32), *range(127, 160)]))),
    "NUL": lambda rng: _within(rng, "\0" * rng.randint(1, 3)),
    "bare LF": lambda rng: _within(rng, "\n"),
    "bare CR": lambda rng: _within(rng, "\r"),
    "ends in a line break": lambda rng: (
        valid(rng)[:120] + rng.choice(("\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"))
    ),
    "obs-fold": lambda rng: _within(rng, rng.choice(("\r\n ", "\r\n\t", "\n "))),
    "space around": lambda rng: rng.choice((" {}", "{} ", "\t{}", "{}\t", " {} ")).format(
        valid(rng)[:120]
    ),
    "unicode space": lambda rng: _within(rng, rng.choice(SPACES)),
    "invisible": lambda rng: _within(rng, rng.choice(INVISIBLE)),
    "bidi": lambda rng: _within(rng, rng.choice(BIDI)),
    "surrogate": lambda rng: _within(rng, chr(rng.randint(0xD800, 0xDFFF))),
    "lookalike": _lookalike,
    "combining": lambda rng: _within(rng, chr(rng.randint(0x0300, 0x036F))),
    "any other letter": lambda rng: _within(rng, chr(rng.randint(0xA0, 0xD7FF))),
    "beyond the BMP": lambda rng: _within(rng, chr(rng.randint(0x10000, 0x10FFFF))),
    "punctuation": lambda rng: _within(rng, rng.choice("\"'`;<>()[]{}*,?!#$%&^~\\ ")),
    "first character": lambda rng: rng.choice(".:@|+=/") + valid(rng)[:120],
    "injection": lambda rng: _within(
        rng, rng.choice(("' or 1=1 --", "<script>", "%0d%0a", "${jndi:x}", "\x1b[31m", "{{7*7}}"))
    ),
    "no text": _no_text,
}  # fmt: skip


# --- where they are offered -------------------------------------------------------------------

FENCE = Ringfence()
CHILD = "child_context"
Door = Callable[[Any], Any]


def _named(make: Callable[..., Any], field: str, **given: str) -> Door:
    return lambda value: make(**{**given, field: value})


def _doors() -> dict[tuple[str, str], Door]:
    """By the name of the way in and the field."""
    ids = {"user_id": "u-17", "thread_id": "t-1", "run_id": "r-1"}
    roots = "user_id thread_id run_id request_id websocket_client_id tenant_id client_request_id"
    fields = [*roots.split(), "parent_request_id"]
    makers: dict[str, tuple[Callable[..., Any], dict[str, str], list[str]]] = {
        "user_context": (user_context, {"user_id": "u-17"}, roots.split()),
        "fence.user_context": (FENCE.user_context, {"user_id": "u-17"}, roots.split()),
        "UserExecutionContext": (UserExecutionContext, ids, fields),
        "from_request": (UserExecutionContext.from_request, ids, fields[:5]),
        CHILD: (child_context, {"operation_name": "step"}, ["thread_id", "run_id"]),
    }
    doors = {
        (name, field): _named(make, field, **given)
        for name, (make, given, those) in makers.items()
        for field in those
    }
    doors["Identity", "user_id"] = lambda value: root_of(Identity(value), FENCE, None)
    doors["Identity", "tenant_id"] = lambda value: root_of(Identity("u-17", value), FENCE, None)
    made = UserExecutionContext("u-17", "t-1", "r-1")
    doors["with_websocket_connection", "websocket_client_id"] = made.with_websocket_connection
    return doors


# --- weak rules, which the same values get through --------------------------------------------

_dollar = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:@|+=/-]*$").match
_word = re.compile(r"[\w-][\w.:@|+=/-]*").fullmatch

WEAK: dict[str, Callable[[str], object]] = {
    "a pattern that ends in `$`": _dollar,
    "an id that is stripped": lambda value: is_id(value.strip()),
    "letters of any script": _word,
    "placeholders in one case": lambda value: (
        _dollar(value) and value not in PLACEHOLDERS and not value.startswith("test_")
    ),
}


async def run(report: Report) -> int:
    """How many malformed ones were offered."""
    tally = Tally("ids", report)
    rules = {rule: make for rule, make in RULES.items() if tally.chosen(rule)}
    if not rules:
        return 0
    each = report.size(38_000, 1_000)
    weak = dict.fromkeys(WEAK, 0)
    doors = _doors()
    async with user_context("alice-1"):  # where children are opened
        for done, (rule, make) in enumerate(rules.items()):
            _offer(tally, rule, make, each, doors, weak)
            report.progress(done, len(rules))
    tally.tell(1_000)
    for name, count in weak.items():
        report.control(f"ids: accepted by {name}", count)
    await _accept(report, each * len(rules), doors)
    return tally.offered.total()


def _offer(
    tally: Tally,
    rule: str,
    make: Callable[[Random], object],
    times: int,
    doors: dict[tuple[str, str], Door],
    weak: dict[str, int],
) -> None:
    rng = tally.random(rule)
    ways = _endless(list(doors.items()))
    for _ in range(times):
        value = make(rng)
        (name, field), door = next(ways)
        if is_id(value):
            tally.fault(rule, "is an id after all", value)
        if isinstance(value, str) and type(value) is str:
            for weakness, passes in WEAK.items():
                weak[weakness] += bool(passes(value))
        tally.begin()
        try:
            door(value)
        except BaseException as error:
            tally.end(rule)
            tally.raised(rule, value, error)
            if getattr(error, "field", field) != field or not getattr(error, "rule", True):
                tally.fault(rule, f"is refused as `{getattr(error, 'field', None)}`", value)
        else:
            tally.end(rule)
            tally.taken(rule, (name, field, value))


def _endless(items: list[Any]) -> Iterator[Any]:
    while True:
        yield from items


async def _accept(report: Report, times: int, doors: dict[tuple[str, str], Door]) -> None:
    """As many valid ones: each is entered, and read where a context is read."""
    rng = Random(f"{report.seed} valid ids")
    ways = _endless(list(doors.items()))
    accepted = 0
    async with user_context("alice-1"):
        for _ in range(times):
            value = valid(rng)
            (_, field), door = next(ways)
            accepted += await _is_taken(door, field, value)
    report.control("ids: valid ones that were accepted", accepted, f"== {times}")


async def _is_taken(door: Door, field: str, value: str) -> bool:
    made = door(value)
    if isinstance(made, UserExecutionContext):
        return getattr(made, field) == value
    async with made:
        return getattr(current_context(), field) == value
