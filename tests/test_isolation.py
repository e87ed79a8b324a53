"""Isolation: copies that share nothing, refusals of what cannot be copied, and the registry."""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import gc
import io
import ipaddress
import pathlib
import re
import sys
import threading
import time
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence import (
    ContextIsolationError,
    ContextLimitError,
    InvalidContextError,
    OwnershipError,
    Ringfence,
    Settings,
    SharedObjectError,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    clear_shared_object_registry,
    current_scope,
    owned,
    register_shared_object,
    user_context,
)
from ringfence import isolation as module
from ringfence.copies import isolated_copy, mutable_objects
from ringfence.isolation import (
    Claimant,
    IsolationRegistry,
    registry,
    stamp_of,
)


class Color(enum.Enum):
    RED = 1


@attrs.define
class Note:
    words: list[str]


@attrs.frozen
class FrozenNote:
    words: list[str]


@dataclasses.dataclass
class Card:
    words: list[str]
    other: Any = None


class Slotted:
    __slots__ = ("never_filled", "words")

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]


class Pair(tuple[Any, Any]):
    """A tuple with a place for more."""


Point = collections.namedtuple("Point", "x y")


def _make(**data: Any) -> UserExecutionContext:
    return UserExecutionContext("alice-1", "t-1", "r-1", agent_context=data)


def _share_nothing(one: object, two: object) -> bool:
    ours = {id(item): item for item in mutable_objects(one)}
    return not any(id(item) in ours for item in mutable_objects(two))


# --- copies -----------------------------------------------------------------------------------

COPIED: list[Any] = [
    [1, [2, {"k": [3]}]], {"deep": {"er": [1]}}, ([1], (2, [3])), {1, 2}, {(1, 2), "x"},
    frozenset({1, frozenset({2})}), bytearray(b"x"), array.array("i", [1]),
    collections.deque([[1]]), collections.OrderedDict(a=[1]), collections.Counter("aab"),
    collections.defaultdict(list, a=[1]), collections.ChainMap({"a": [1]}),
    Note(["w"]), FrozenNote(["w"]), Card(["w"], Card([])),
    Slotted(["w"]), types.SimpleNamespace(words=["w"]), Point([1], [2]), Pair(([1], 2)),
    {"text": 1, 2: "number", None: "none", (1, "x"): ["tuple"], 1.5: 0, b"b": 1, Color.RED: 2},
    {frozenset({1}): [1], dt.date(2030, 1, 1): [2], uuid.UUID(int=1): [3]},
]  # fmt: skip
VALUES = [
    None, True, 1, 1.5, 1j, "x", b"x", ..., range(3), float("nan"), float("inf"),
    dt.datetime(2030, 1, 1, tzinfo=dt.UTC), dt.date(2030, 1, 1), dt.time(1), dt.timedelta(1),
    dt.UTC, zoneinfo.ZoneInfo("UTC"), decimal.Decimal("1.5"), fractions.Fraction(1, 3),
    uuid.UUID(int=1), re.compile("x"), pathlib.PurePosixPath("/x"), pathlib.Path("/x"),
    ipaddress.ip_address("127.0.0.1"), ipaddress.ip_network("10.0.0.0/8"), Color.RED,
    (1, "x", (2,)), (), frozenset({1}),
]  # fmt: skip


def _numbered(values: list[Any]) -> list[str]:
    return [f"{n} {getattr(v, '__name__', type(v).__name__)}" for n, v in enumerate(values)]


@pytest.mark.parametrize("value", COPIED, ids=_numbered(COPIED))
def test_a_copy_is_equal_and_shares_nothing(value: Any) -> None:
    duplicate = isolated_copy({"value": value})["value"]
    assert type(duplicate) is type(value)
    assert duplicate == value
    assert _share_nothing(duplicate, value)
    assert _make(value=value).verify_isolation()


@pytest.mark.parametrize("value", VALUES, ids=_numbered(VALUES))
def test_what_cannot_change_stays_the_same_and_is_claimed_by_nobody(value: Any) -> None:
    contexts = [_make(value=value, more=[value]), _make(value=value, more=[value])]
    for ctx in contexts:
        assert ctx.agent_context["value"] is value
        assert ctx.agent_context["more"][0] is value
        assert ctx.verify_isolation()


async def test_time_zones_in_two_trees_accuse_nobody() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    async with user_context("alice-1") as alice, user_context("bob-22") as bob:
        for ctx in (alice, bob):
            ctx.agent_context["zone"] = zone
            assert ctx.verify_isolation()


def test_aliases_and_cycles_are_kept() -> None:
    inner = [1]
    cycle: dict[str, Any] = {"a": inner, "b": inner, "t": (inner,)}
    cycle["me"] = [cycle]
    duplicate = isolated_copy({"c": cycle})["c"]
    assert duplicate["a"] is duplicate["b"] is duplicate["t"][0]
    assert duplicate["me"][0] is duplicate
    assert _share_nothing(duplicate, cycle)
    whole: dict[str, Any] = {}
    whole["me"] = whole
    assert isolated_copy(whole)["me"]["me"] is not whole


def test_a_cycle_through_a_tuple_ends() -> None:
    items: list[Any] = []
    items.append((items,))
    duplicate = isolated_copy({"x": items})["x"]
    assert duplicate is not items
    assert duplicate[0][0] is duplicate


def test_a_cycle_through_an_object_ends() -> None:
    card = Card([])
    card.other = {"back": [card]}
    duplicate = isolated_copy({"x": card})["x"]
    assert duplicate is not card
    assert duplicate.other["back"][0] is duplicate


def test_a_subclass_of_dict_may_be_passed_and_a_dict_is_kept() -> None:
    ctx = _make(**collections.OrderedDict(a=1))
    assert type(ctx.agent_context) is dict


LOOKS = ["list", "dict", "tuple"]
NEST: list[Callable[[Any], Any]] = [lambda x: [x], lambda x: {"k": x}, lambda x: (x,)]
LAUGH: list[Callable[[Any], Any]] = [lambda x: [x, x], lambda x: {"a": x, "b": x}, lambda x: (x, x)]


def _nest(wrap: Callable[[Any], Any], times: int, value: Any = 1) -> Any:
    for _ in range(times):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", LAUGH, ids=LOOKS)
@pytest.mark.parametrize("core", ["ha", ["ha"]], ids=["immutable", "mutable"])
def test_a_billion_laughs_are_copied_walked_and_written_soon(
    wrap: Callable[[Any], Any], core: Any
) -> None:
    data = {"x": _nest(wrap, 60, core)}
    began = time.thread_time()
    ctx = _make(**data)
    child = ctx.create_child_context("tool")
    again = copy.copy(ctx)
    for each in (ctx, child, again):
        assert each.verify_isolation()
    ctx.to_dict()
    assert time.thread_time() - began < (10 if sys.gettrace() else 2)  # coverage is slow


@pytest.mark.parametrize("wrap", NEST, ids=LOOKS)
def test_nesting_has_a_limit(wrap: Callable[[Any], Any]) -> None:
    assert _make(x=_nest(wrap, 99))
    for times in (100, 101, 10_000):
        with pytest.raises(ContextLimitError, match="is nested too deep") as caught:
            _make(x=_nest(wrap, times))
        assert caught.value.rule == "depth"
        assert len(str(caught.value)) < 300


def test_the_limit_is_a_setting() -> None:
    deep = _nest(NEST[0], 4)
    assert isolated_copy({"x": deep}, "data", 5)
    with pytest.raises(ContextLimitError, match=r"`Settings.max_data_depth`"):
        isolated_copy({"x": deep}, "data", 4)
    assert Settings(max_data_depth=5000).max_data_depth == 5000


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {"x": [1, 2, 3]},
        {"x": (1, 2, [])},
        {"x": {1, 2, 3}},
        {"x": {"a": 1, "b": 2, "c": 3}},
        {"x": [[1], [2]]},
    ],
)
def test_items_are_counted_in_all_containers(data: dict[str, Any]) -> None:
    assert isolated_copy(data, "data", 100, 5) == data
    with pytest.raises(ContextLimitError, match=r"too many items.*`Settings.max_data_items`") as no:
        isolated_copy(data, "data", 100, 3)
    assert no.value.rule == "items"


class _HashedOnce:
    """A key that goes into its dict, and raises when anybody else looks at it."""

    def __init__(self) -> None:
        self.times = 0

    def __hash__(self) -> int:
        self.times += 1
        if self.times > 1:
            raise RuntimeError("hashed again")
        return 1


class _Unreadable(dict[Any, Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("iterated")

    keys = items = __iter__


class _Hiding(dict[Any, Any]):
    """Shows its keys to who copies it, and to nobody else."""

    def __iter__(self) -> Any:
        return iter(())

    def keys(self) -> Any:
        return dict.keys(self)


class _Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("asked for its text")


class _Faceless:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("asked for its class")


class _Uncopied:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __deepcopy__(self, memo: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "make",
    [
        lambda: {_HashedOnce(): 1},
        lambda: _Unreadable({"a": 1}),
        lambda: {"x": _Uncopied(_Speechless())},
        lambda: {"x": [_Unreadable({"a": 1})]},
        lambda: {"x": _Faceless()},
    ],
    ids=["key", "dict", "error", "dict within", "object"],
)
@pytest.mark.parametrize("field", ["agent_context", "audit_metadata"])
def test_data_that_raises_when_it_is_looked_at_is_refused_by_name(
    make: Callable[[], Any], field: str
) -> None:
    with pytest.raises(InvalidContextError) as refused:
        UserExecutionContext("u-17", "t-1", "r-1", **{field: make()})
    assert str(refused.value.field).startswith(field)
    assert refused.value.rule in ("unreadable", "live")


def test_what_is_put_in_later_and_raises_is_refused_in_a_child() -> None:
    ctx = _make()
    ctx.agent_context["x"] = {(_HashedOnce(),): 1}
    ctx.agent_context["y"] = _Uncopied(_Speechless())
    with pytest.raises(InvalidContextError, match="`agent_context"):
        ctx.create_child_context("one")


def test_a_dict_that_hides_its_keys_hides_no_reserved_one() -> None:
    with pytest.raises(InvalidContextError) as refused:
        UserExecutionContext("u-17", "t-1", "r-1", agent_context=_Hiding({"user_id": "bob-22"}))
    assert refused.value.rule == "reserved"


def test_a_refusal_is_one_short_line_whatever_was_raised() -> None:
    for text in ("two\nlines\x1b[31m", "x" * 5_000):
        with pytest.raises(InvalidContextError) as refused:
            _make(x=_Uncopied(ValueError(text)))
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 500


def test_a_method_of_a_live_object_is_one_within_an_object_too() -> None:
    for wrap in (lambda x: [x], lambda x: collections.deque([x])):
        with pytest.raises(InvalidContextError, match="cannot be copied") as refused:
            _make(x=wrap(io.StringIO().readline))
        assert refused.value.rule == "live"
    assert _make(x=collections.deque([len])).agent_context["x"][0] is len


def test_the_limit_of_items_holds_for_roots_children_and_entered_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ringfence import settings as settings_module

    ctx = _make(x=[1, 2, 3])
    monkeypatch.setattr(settings_module, "_default", Settings(max_data_items=3))
    with pytest.raises(ContextLimitError, match="`agent_context.*too many items"):
        _make(x=[1, 2, 3])
    with pytest.raises(ContextLimitError, match="`agent_context.*too many items"):
        ctx.create_child_context("one")


@pytest.mark.parametrize(
    "wrap",
    [lambda x: collections.deque([x]), lambda x: Card([], x), lambda x: Point(x, 1)],
    ids=["deque", "dataclass", "namedtuple"],
)
def test_objects_nested_ten_thousand_deep_are_an_error_and_no_crash(
    wrap: Callable[[Any], Any],
) -> None:
    with pytest.raises(ContextLimitError, match="is nested too deep"):
        _make(x=_nest(wrap, 10_000))


def test_a_limit_beyond_the_stack_is_an_error_and_no_crash() -> None:
    with pytest.raises(ContextLimitError, match="is nested too deep"):
        isolated_copy({"x": _nest(NEST[0], 50_000)}, "data", 10**9)


def test_walking_needs_no_stack() -> None:
    ctx = _make()
    ctx.agent_context["x"] = _nest(NEST[0], 9_000)
    assert ctx.verify_isolation()


# --- live objects -----------------------------------------------------------------------------


class Client:
    """As a client of a database or an HTTP service is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refuses:
    def __deepcopy__(self, memo: object) -> Any:
        raise PermissionError("not me")


class Singleton:
    def __deepcopy__(self, memo: object) -> Singleton:
        return self


async def _coroutine() -> None: ...


def _generator() -> Any:
    yield 1


LIVE: list[Any] = [
    threading.Lock(), threading.RLock(), threading.Event(), Client(), Refuses(), Singleton(),
    _generator(), print, len, _coroutine, lambda: 1, Client, int, types, pathlib,
    asyncio.Lock, memoryview(b"x"), weakref.ref(Client), "".join, open,
    types.MappingProxyType({"a": 1}), property(), (x for x in ()),
]  # fmt: skip


@pytest.mark.parametrize("value", LIVE, ids=_numbered(LIVE))
@pytest.mark.parametrize("place", ["agent_context", "audit_metadata"])
def test_a_live_object_is_refused_by_its_key_with_a_word_about_injection(
    value: Any, place: str
) -> None:
    for data, path in (({"k": value}, "['k']"), ({"a": {"b": [1, (value,)]}}, "['a']['b']")):
        with pytest.raises(InvalidContextError) as caught:
            UserExecutionContext("alice-1", "t-1", "r-1", **{place: data})
        assert caught.value.rule == "live"
        assert caught.value.field == f"{place}{path}"
        assert f"`{place}{path}` holds a `" in caught.value.fact
        assert "belongs in injection" in caught.value.remedy


INNER = [value for value in LIVE if not isinstance(value, module.UNOWNABLE)]


@pytest.mark.parametrize("value", INNER, ids=_numbered(INNER))
@pytest.mark.parametrize(
    "hold",
    [lambda x: collections.deque([[x]]), Card, Point],
    ids=["deque", "dataclass", "namedtuple"],
)
def test_a_live_object_inside_another_object_is_refused_too(value: Any, hold: Any) -> None:
    """`copy.deepcopy` would keep some of them, and two requests would share one."""
    held = hold(value, 1) if hold is Point else hold(value)
    with pytest.raises(
        InvalidContextError, match=r"`agent_context\['a'\]\['b'\]` holds a `"
    ) as caught:
        _make(a={"b": [held]})
    assert caught.value.rule == "live"


def test_functions_and_classes_inside_an_object_are_kept() -> None:
    assert _make(x=Card([], [print, Note])).agent_context["x"].other == [print, Note]


def test_the_reason_is_kept() -> None:
    with pytest.raises(InvalidContextError, match="not me") as caught:
        _make(k=Refuses())
    assert isinstance(caught.value.__cause__, PermissionError)


def _key_name(key: object) -> str:
    return getattr(key, "__name__", type(key).__name__)


@pytest.mark.parametrize(
    "key", [Client(), Note, print, FrozenNote("w"), Pair((1, 2))], ids=_key_name
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_key_that_is_no_value_is_refused(key: Any, nested: bool) -> None:
    """A key would be reachable from both sides: keys cannot be copied."""
    data = {"n": {key: 1}} if nested else {key: 1}
    with pytest.raises(InvalidContextError, match="which cannot be copied") as caught:
        UserExecutionContext("alice-1", "t-1", "r-1", agent_context=data)
    assert caught.value.rule == "live"


@pytest.mark.parametrize("nested", [False, True])
def test_keys_that_are_values_are_kept(nested: bool) -> None:
    keys = (1, 2.5, None, True, b"k", (1, (2, "x")), frozenset({1}), Color.RED, uuid.UUID(int=1))
    data: dict[Any, Any] = dict.fromkeys(keys, "x")
    copied = isolated_copy({"n": data} if nested else data)
    assert (copied["n"] if nested else copied) == data


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (10**5000, "[<int>]"),  # Python refuses to write it out
        ("k" * 1_000_000, f"['{'k' * 59}…]"),
        (b"\x1b[31m", "[b'\\x1b[31m']"),
        ("\x1b[31m", "['\\x1b[31m']"),
    ],
    ids=["huge", "long", "bytes", "terminal"],
)
def test_whatever_the_key_is_the_message_is_short_and_printable(key: Any, shown: str) -> None:
    with pytest.raises(InvalidContextError) as caught:
        _make(a={key: threading.Lock()})
    assert caught.value.field == f"agent_context['a']{shown}"
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_key_that_cannot_be_shown_is_named_by_its_type() -> None:
    with pytest.raises(InvalidContextError, match=r"`agent_context\['a'\]\[<Unprintable>\]` holds"):
        _make(a={Unprintable(): 1})


def test_coroutines_are_refused() -> None:
    coroutine = _coroutine()
    with pytest.raises(InvalidContextError, match="holds a `coroutine`"):
        _make(k=coroutine)
    coroutine.close()


# --- anything at all --------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.uuids(),
    st.binary(max_size=4), st.dates(), st.decimals(allow_nan=False),
    st.sampled_from([Color.RED, dt.UTC]),
)  # fmt: skip
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.frozensets(inner, max_size=2), st.tuples(inner)
    ),
    max_leaves=3,
)
DATA = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(HASHABLE, inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple), st.sets(HASHABLE, max_size=3),
        st.lists(inner, max_size=2).map(collections.deque), st.builds(Note, st.lists(inner)),
        st.builds(Card, st.lists(inner, max_size=2), inner), st.builds(Slotted, inner),
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(HASHABLE, DATA, max_size=4))
def test_whatever_the_data_is_its_copy_shares_nothing(data: dict[Any, Any]) -> None:
    duplicate = isolated_copy(data)
    assert _share_nothing(duplicate, data)
    assert duplicate == data


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.text(max_size=3), DATA | st.sampled_from(LIVE), max_size=3).filter(
        lambda data: not {"user_id", "run_id"} & set(data)
    )
)
def test_whatever_is_passed_it_is_a_context_or_a_typed_error(data: dict[str, Any]) -> None:
    rule = None
    try:
        ctx = UserExecutionContext("alice-1", "t-1", "r-1", agent_context=data)
    except InvalidContextError as error:
        rule = error.rule
    assert rule in ("live", "depth") if rule else _share_nothing(ctx.agent_context, data)


# --- walking ----------------------------------------------------------------------------------


def test_every_mutable_object_is_met_once() -> None:
    inner = [1]
    note, card, slotted = Note([]), Card([]), Slotted([])
    data: dict[str, Any] = {
        "a": inner, "b": (inner, frozenset({1})), "n": note, "c": card, "s": slotted,
        "d": collections.deque([inner]), "set": {1},
    }  # fmt: skip
    data["me"] = data
    met = list(mutable_objects(data))
    expected = [
        data, inner, note, note.words, card, card.words, slotted, slotted.words, data["d"],
        data["set"], vars(card),
    ]  # fmt: skip
    ids = [id(item) for item in met]
    assert len(ids) == len(set(ids))
    assert {id(item) for item in expected[:-1]} == set(ids)


def test_classes_modules_and_functions_are_not_walked_into() -> None:
    assert list(mutable_objects((Note, types, print, _generator, "".join, Color.RED, dt.UTC))) == []


def test_keys_are_walked_into() -> None:
    key = Client()
    assert key in list(mutable_objects({"x": {(1, (key,)): 1}}))


# --- ringfence's own objects -------------------------------------------------------------------


@owned
class Memory:
    def __init__(self) -> None:
        self.notes = [1]


class Agent:
    """As a team's agent, which keeps what it was made with."""

    def __init__(self, fence: Ringfence, ctx: UserExecutionContext) -> None:
        self.fence, self.ctx, self.scope = fence, ctx, current_scope()


async def test_what_data_lead_to_through_an_owned_object_or_a_context_accuses_nobody() -> None:
    fence = Ringfence()
    async with fence.user_context("alice-1") as alice, fence.user_context("bob-22") as bob:
        alice.agent_context["ctx"] = alice
        bob.agent_context["ctx"] = bob
        bob.agent_context["agent"] = Agent(fence, bob)
        bob.agent_context["memory"] = Memory()
        assert alice.verify_isolation()
        assert bob.verify_isolation()


async def test_an_owned_object_in_the_data_stays_its_trees() -> None:
    async with user_context("alice-1") as alice:
        root = current_scope()
        alice.agent_context["memory"] = memory = Memory()
        async with child_context("tool") as child:
            mine = child.agent_context["memory"]
            assert mine is not memory
            assert mine.notes == [1]
            assert stamp_of(mine) is root
        value = copy.copy(alice)
        async with user_context(value) as other:
            with pytest.raises(OwnershipError):
                _ = other.agent_context["memory"].notes


async def test_a_scope_or_a_fence_is_never_copied() -> None:
    async with user_context("alice-1") as ctx:
        scope, fence = current_scope(), Ringfence()
        agent = isolated_copy({"agent": Agent(fence, ctx)})["agent"]
        assert agent.scope is copy.copy(scope) is copy.deepcopy(scope) is scope
        assert agent.fence is fence
        assert agent.ctx == ctx
        for thing in (scope, fence):
            with pytest.raises(InvalidContextError, match="its copy is the object itself"):
                _make(thing=thing)
            with pytest.raises(WrongTypeError, match="cannot be owned"):
                scope.own(thing)


# --- shared objects ---------------------------------------------------------------------------


def test_a_shared_object_is_found_wherever_it_is() -> None:
    shared = Card([])
    register_shared_object(shared)
    register_shared_object(shared)
    places: list[Any] = [
        shared, [shared], (1, (shared,)), {"x": [{"y": shared}]}, Card([], shared), Note([shared]),
        collections.deque([shared]), Slotted([shared]), {"set": (frozenset(), [shared])},
    ]  # type: ignore[list-item]  # fmt: skip
    for place in places:
        with pytest.raises(
            SharedObjectError, match="`agent_context` holds a `Card` that was regis"
        ):
            _make(x=place)
        ctx = _make()
        ctx.agent_context["later"] = place
        with pytest.raises(SharedObjectError):
            ctx.verify_isolation()


def test_a_shared_dictionary_cannot_be_the_data() -> None:
    shared: dict[str, Any] = {"plain": 1}
    register_shared_object(shared)
    with pytest.raises(SharedObjectError, match="`audit_metadata` holds a `dict`"):
        UserExecutionContext("alice-1", "t-1", "r-1", audit_metadata=shared)


async def test_a_shared_object_is_refused_in_a_childs_additions() -> None:
    shared = [1]
    register_shared_object(shared)
    async with user_context("alice-1") as ctx:
        with pytest.raises(SharedObjectError):
            ctx.create_child_context("tool", {"x": shared})
        with pytest.raises(SharedObjectError):
            ctx.create_child_context("tool", None, {"x": [shared]})
        with pytest.raises(SharedObjectError):
            ctx.with_db_session(shared)


def test_an_equal_object_is_not_the_shared_one() -> None:
    register_shared_object([1])
    assert _make(x=[1]).verify_isolation()


def test_what_was_registered_is_kept_alive_so_that_its_id_cannot_pass_on() -> None:
    """Of the old registry, 1000 of 1000 new objects took a dead one's place."""
    for _ in range(1000):
        register_shared_object(Card([]))
    gc.collect()
    for _ in range(1000):
        assert _make(x=Card([]))


def test_after_clearing_it_is_shared_no_more() -> None:
    shared = [1]
    register_shared_object(shared)
    clear_shared_object_registry()
    assert _make(x=shared).verify_isolation()


@pytest.mark.parametrize(
    "value", ["x", 1, None, True, (), frozenset(), int, types, print, Color.RED]
)
def test_values_cannot_be_registered(value: object) -> None:
    with pytest.raises(
        WrongTypeError, match="cannot be owned: every request may hold the same one"
    ):
        register_shared_object(value)


# --- the registry -----------------------------------------------------------------------------


def test_a_claim_holds_until_it_is_released() -> None:
    own = IsolationRegistry()
    alice, bob, thing = Claimant("a-1"), Claimant("b-1"), [1]
    assert own.claim(thing, alice) is thing
    assert own.claim(thing, alice) is thing
    assert own.owner_of(thing) is alice
    assert own.owner_of([1]) is None
    assert len(own) == 1
    with pytest.raises(OwnershipError, match="`list` belongs to request `a-1`, but request `b-1`"):
        own.claim(thing, bob)
    own.release(bob)
    assert own.owner_of(thing) is alice
    own.release(alice)
    own.release(alice)
    assert len(own) == 0
    assert own.claim(thing, bob) is thing


def test_the_error_can_be_a_finer_one() -> None:
    own = IsolationRegistry()
    alice, bob, thing = Claimant("a-1"), Claimant("b-1"), [1]
    own.claim(thing, alice)
    with pytest.raises(ContextIsolationError) as caught:
        own.claim(thing, bob, error=ContextIsolationError)
    assert type(caught.value) is ContextIsolationError
    assert (caught.value.owner_request_id, caught.value.request_id) == ("a-1", "b-1")


def test_claims_are_bounded_and_the_bound_is_per_claimant() -> None:
    own = IsolationRegistry()
    alice, kept = Claimant("a-1"), [[n] for n in range(4)]
    for thing in kept[:3]:
        own.claim(thing, alice, limit=3)
    own.claim(kept[0], alice, limit=3)
    with pytest.raises(ContextLimitError, match=r"`a-1` owns 3 objects.*`Settings.max_owned`"):
        own.claim(kept[3], alice, limit=3)
    bob = Claimant("b-1")
    assert own.claim(kept[3], bob, limit=3)


def test_an_entry_keeps_its_object_alive_and_so_its_id() -> None:
    own = IsolationRegistry()
    alice = Claimant("a-1")
    card = Card([])
    gone = weakref.ref(card)
    own.claim(card, alice)
    del card
    gc.collect()
    assert gone() is not None
    own.release(alice)
    assert gone() is None


def test_a_claimant_that_is_gone_owns_nothing() -> None:
    own = IsolationRegistry()
    alice, thing = Claimant("a-1"), [1]
    own.claim(thing, alice)
    own.claim([2], alice)
    del alice
    gc.collect()
    assert len(own) == 0
    assert own.owner_of(thing) is None


def test_what_was_claimed_anew_while_a_claimant_died_stays_claimed() -> None:
    own = IsolationRegistry()
    alice, bob, thing = Claimant("a-1"), Claimant("b-1"), [1]
    own.claim(thing, alice)
    first = weakref.ref(alice, lambda ref: own.claim(thing, bob))  # called before the registry's
    del alice
    gc.collect()
    assert first() is None
    assert own.owner_of(thing) is bob


def test_of_two_threads_one_wins() -> None:
    both_looked = threading.Barrier(2)

    class Slow(IsolationRegistry):
        def owner_of(self, obj: object) -> Claimant | None:
            owner = super().owner_of(obj)
            with contextlib.suppress(threading.BrokenBarrierError):
                both_looked.wait(timeout=0.05)
            return owner

    own, thing, outcomes = Slow(), [1], []
    claimants = [Claimant("a-1"), Claimant("b-1")]

    def work(claimant: Claimant) -> None:
        try:
            own.claim(thing, claimant)
            outcomes.append("won")
        except OwnershipError:
            outcomes.append("refused")

    threads = [threading.Thread(target=work, args=(claimant,)) for claimant in claimants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "won"]
    assert sorted(len(claimant.claimed) for claimant in claimants) == [0, 1]


async def test_the_process_has_one_and_scopes_leave_nothing_in_it() -> None:
    async with user_context("alice-1") as ctx:
        ctx.agent_context["x"] = [1, [2]]
        assert ctx.verify_isolation()
        current_scope().own({})
        assert len(registry) == 4
    assert len(registry) == 0


def test_contexts_that_were_never_entered_leave_nothing_either() -> None:
    for _ in range(100):
        assert _make(x=[[1], [2]]).verify_isolation()
    gc.collect()
    assert len(registry) == 0


async def test_a_claim_of_a_scope_holds_for_its_whole_tree_and_for_no_other_of_the_user() -> None:
    shared = [1]
    async with user_context("alice-1") as one:
        one.agent_context["x"] = shared
        assert one.verify_isolation()
        child = one.create_child_context("tool")
        child.agent_context["y"] = shared
        assert child.verify_isolation()
        async with user_context("alice-1") as two:
            two.audit_metadata["z"] = {"deep": (shared,)}
            with pytest.raises(ContextIsolationError) as caught:
                two.verify_isolation()
            assert caught.value.owner_request_id == one.request_id


def test_verification_is_bounded_by_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringfence import settings as settings_module

    ctx = _make(rows=[[n] for n in range(12_000)])
    with pytest.raises(ContextLimitError, match="owns 10000 objects"):
        ctx.verify_isolation()
    monkeypatch.setattr(settings_module, "_default", Settings(max_owned=20_000))
    again = _make(rows=[[n] for n in range(12_000)])
    assert again.verify_isolation()


def test_only_owned_classes_carry_a_stamp() -> None:
    card = Card([])
    module.stamp(card, object())
    assert stamp_of(card) is None
    assert vars(card) == {"words": [], "other": None}
