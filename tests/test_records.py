"""Records: whatever the data holds, JSON comes out; bounded, redacted, from real requests too."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import json
import sys
import threading
import time
import types
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from ringfence import UserExecutionContext
from ringfence.records import json_ready, request_facts


class Color(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Mood(str, enum.Enum):  # noqa: UP042 (its own `str` says `Mood.GOOD`)
    GOOD = "good"


class Flags(enum.Flag):
    A = 1
    B = 2


class Loud(str):
    """Whoever asks for its text gets an exception."""

    def __str__(self) -> str:
        raise RuntimeError("loud")

    __repr__ = __str__


class Broken(Mapping[str, int]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("broken")

    def __len__(self) -> int:
        return 1


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@attrs.frozen
class Point:
    x: int = 1


def _ready(value: object) -> Any:
    ready = json_ready(value)
    json.loads(json.dumps(ready, allow_nan=False))
    return ready


# --- what becomes of what ---------------------------------------------------------------------


KINDS: list[tuple[Any, Any]] = [
    (None, None), (True, True), (0, 0), (-7, -7), (1.5, 1.5), ("text", "text"), ("", ""),
    (float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf"),
    (dt.datetime(2030, 1, 2, tzinfo=dt.UTC), "2030-01-02T00:00:00+00:00"),
    (dt.date(2030, 1, 2), "2030-01-02"), (dt.time(1, 2), "01:02:00"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (Color.RED, "red"), (Color.PAIR, [1, 2]), (Level.LOW, 1), (Mood.GOOD, "good"),
    (Flags.A | Flags.B, 3),
    ((1, [2, {3}]), [1, [2, [3]]]), (frozenset({4}), [4]), ({}, {}), ([], []),
    (types.MappingProxyType({"a": (1,)}), {"a": [1]}), (collections.OrderedDict(a=1), {"a": 1}),
    (b"bytes", "<bytes>"), (bytearray(b"x"), "<bytearray>"), (object(), "<object>"),
    (threading.Lock(), "<lock>"), (print, "<builtin_function_or_method>"), (Point, "<type>"),
    (Point(), "<Point>"), (decimal.Decimal("1.5"), "<Decimal>"), (1j, "<complex>"),
    (collections.deque([1]), "<deque>"), (range(3), "<range>"), (Unprintable(), "<Unprintable>"),
    (Loud("loud"), "loud"), (Broken(), "<Broken>"), ([Broken(), 1], ["<Broken>", 1]),
    ("\ud800", "\ud800"), ("\x00\x1b[31m", "\x00\x1b[31m"),
    (10**5000, "<int of 16610 bits>"), (-(10**5000), "<int of 16610 bits>"), (2**1999, 2**1999),
    ([10**5000], ["<int of 16610 bits>"]),
]  # fmt: skip


def _numbered(cases: list[tuple[Any, Any]]) -> list[str]:
    return [f"{n} {type(value).__name__}" for n, (value, _) in enumerate(cases)]


@pytest.mark.parametrize(("value", "expected"), KINDS, ids=_numbered(KINDS))
def test_each_kind_becomes_what_json_knows(value: object, expected: object) -> None:
    ready = _ready(value)
    assert ready == expected
    assert type(ready) is type(expected)


KEY_KINDS: list[tuple[Any, Any]] = [
    ("k", "k"), (1, "1"), (None, "None"), (True, "True"), ((1, 2), "(1, 2)"), (Loud("k"), "k"),
    (dt.date(2030, 1, 2), "2030-01-02"), (b"k", "b'k'"), (10**5000, "<int of 16610 bits>"),
    (Unprintable(), "<Unprintable>"), ((10**5000,), "<tuple>"), (float("nan"), "nan"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "expected"), KEY_KINDS, ids=_numbered(KEY_KINDS))
def test_each_key_becomes_text(key: object, expected: str) -> None:
    ready = _ready({key: 1})
    assert ready == {expected: 1}
    assert type(next(iter(ready))) is str


def test_the_original_is_left_alone() -> None:
    mine: dict[str, Any] = {"a": [1, {"token": "t"}], "s": {1}}
    ready = json_ready(mine)
    ready["a"].append(2)
    assert mine == {"a": [1, {"token": "t"}], "s": {1}}


# --- bounds -----------------------------------------------------------------------------------


WRAPS = ["list", "dict", "tuple"]


def test_cycles_are_named() -> None:
    cycle: dict[str, Any] = {"list": []}
    cycle["list"].append(cycle)
    assert _ready(cycle) == {"list": ["<cycle>"]}


def test_one_value_in_two_places_is_no_cycle() -> None:
    twice = [1]
    assert _ready({"a": twice, "b": [twice]}) == {"a": [1], "b": [[1]]}


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}, lambda x: (x,)], ids=WRAPS)
def test_what_is_nested_ten_thousand_deep_is_cut(wrap: Any) -> None:
    deep: Any = 1
    for _ in range(10_000):
        deep = wrap(deep)
    assert "<cut>" in json.dumps(_ready(deep))


@pytest.mark.parametrize(
    "wrap", [lambda x: [x, x], lambda x: {"a": x, "b": x}, lambda x: (x, x)], ids=WRAPS
)
def test_a_billion_laughs_end_soon(wrap: Any) -> None:
    laugh: Any = "ha"
    for _ in range(60):
        laugh = wrap(laugh)
    began = time.thread_time()
    text = json.dumps(_ready(laugh))
    assert time.thread_time() - began < (10 if sys.gettrace() else 2)  # coverage is slow
    assert "<cut>" in text
    assert len(text) < 2_000_000


def test_it_needs_no_room_on_the_stack() -> None:
    """Called from deep inside a framework, it cuts instead of failing."""
    deep: Any = 1
    for _ in range(150):
        deep = [deep]

    def call(left: int) -> Any:
        return call(left - 1) if left else json_ready({"deep": deep, "flat": 1})

    ready = call(750)
    assert ready["flat"] == 1
    assert "<cut>" in json.dumps(ready)


def test_a_container_that_changes_meanwhile_is_named() -> None:
    class Growing(dict[str, int]):
        def items(self) -> Any:
            for key in super().keys():  # noqa: SIM118 - `super()` alone is no iterable
                self[key + "x"] = 1
                yield key, 1

    assert _ready([Growing(a=1), "next"]) == ["<Growing>", "next"]


# --- secrets ----------------------------------------------------------------------------------

SECRET = [
    *"password passwd secret api_key apikey api-key apiKey API_KEY Authorization cookie set-cookie "
    "Set-Cookie credential credentials token access_token accessToken refresh-token refreshToken "
    "id_token auth_token bearer_token session_token db_password dbPassword user-secret "
    "clientSecret client_secret private_key privateKey x-api-key PASSWORD sessionToken".split()
]
HARMLESS = [
    *"tokens max_tokens token_count total_tokens tokenizer passwordless cookies_accepted secretary "
    "key keys api author authorized monkey session id description password_hint_shown".split()
]


@pytest.mark.parametrize("key", SECRET)
@pytest.mark.parametrize("value", ["hunter2", b"bytes", 1234, ["hunter2"], {"value": "hunter2"}])
def test_secrets_are_redacted_by_their_key(key: str, value: object) -> None:
    assert _ready({"a": [{key: value}]}) == {"a": [{key: "[redacted]"}]}


@pytest.mark.parametrize("key", HARMLESS)
def test_other_keys_are_not(key: str) -> None:
    assert _ready({key: "value"}) == {key: "value"}


@pytest.mark.parametrize("value", [None, True, False])
def test_whether_there_is_a_secret_is_none(value: object) -> None:
    assert _ready({"password": value}) == {"password": value}


def test_a_context_redacts_in_both_dictionaries_and_in_the_trail() -> None:
    ctx = UserExecutionContext(
        "alice-1", "t-1", "r-1", agent_context={"api_key": "k-1"}, audit_metadata={"cookie": "k-2"}
    )
    for record in (ctx.to_dict(), ctx.get_audit_trail()):
        text = json.dumps(record)
        assert "k-1" not in text
        assert "k-2" not in text
    assert ctx.agent_context["api_key"] == "k-1"


# --- anything at all --------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=8),
    st.complex_numbers(), st.decimals(), st.fractions(), st.uuids(), st.dates(), st.times(),
    st.datetimes(), st.timedeltas(), st.sampled_from([Color.RED, Level.LOW, Mood.GOOD, Flags.A]),
    st.integers(10**4999, 10**5000), st.characters(categories=["Cs"]),
    st.builds(Loud, st.text(max_size=3)), st.builds(object), st.builds(Broken), st.just(print),
)  # fmt: skip
KEYS = st.one_of(
    st.text(max_size=5), st.integers(), st.none(), st.floats(), st.binary(max_size=3),
    st.tuples(st.integers(), st.text(max_size=2)), st.just(Color.RED), st.dates(),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple), st.sets(st.integers(), max_size=3),
        st.lists(inner, max_size=2).map(collections.deque),
        st.dictionaries(st.text(max_size=3), inner, max_size=2).map(types.MappingProxyType),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
def test_whatever_it_is_json_takes_it(value: object) -> None:
    _ready(value)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, ANYTHING, max_size=4), st.dictionaries(KEYS, ANYTHING, max_size=2))
def test_whatever_a_context_holds_its_dict_and_trail_are_json(
    agent: dict[Any, Any], audit: dict[Any, Any]
) -> None:
    """Also what was put in after the copy, and was never checked."""
    ctx = UserExecutionContext("alice-1", "t-1", "r-1")
    ctx.agent_context.update(agent)
    ctx.audit_metadata.update(audit)
    json.dumps(ctx.to_dict(), allow_nan=False)
    json.dumps(ctx.get_audit_trail(), allow_nan=False)


# --- requests ---------------------------------------------------------------------------------


def _request(**changes: Any) -> Request:
    scope = {
        "type": "http", "method": "POST", "scheme": "https", "server": ("api.example", 443),
        "path": "/agent/chat", "root_path": "", "query_string": b"token=SECRET&q=1",
        "client": ("203.0.113.9", 40001), "headers": [],
    }  # fmt: skip
    return Request({**scope, **changes})


def _headers(**headers: str) -> list[tuple[bytes, bytes]]:
    return [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]


def test_a_request_with_everything() -> None:
    headers = _headers(
        host="api.example", user_agent="curl/8", content_type="application/json",
        x_request_id="x-1", x_correlation_id="x-2", x_trace_id="x-3", traceparent="00-ab-cd-01",
        authorization="Bearer SECRET", cookie="session=SECRET",
    )  # fmt: skip
    facts = request_facts(_request(headers=headers))
    assert facts == {
        "client_ip": "203.0.113.9",
        "user_agent": "curl/8",
        "method": "POST",
        "url": "https://api.example/agent/chat",
        "content_type": "application/json",
        "x_request_id": "x-1",
        "x_correlation_id": "x-2",
        "x_trace_id": "x-3",
        "traceparent": "00-ab-cd-01",
    }


def test_what_was_not_sent_is_unknown() -> None:
    facts = request_facts(_request(client=None))
    assert facts == {
        "client_ip": "unknown",
        "user_agent": "unknown",
        "method": "POST",
        "url": "https://api.example/agent/chat",
        "content_type": "unknown",
    }


def test_each_fact_is_cut() -> None:
    headers = _headers(user_agent="u" * 10_000, content_type="c" * 10_000, x_request_id="x" * 600)
    facts = request_facts(_request(headers=headers, path="/" + "p" * 10_000))
    assert {len(facts[name]) for name in ("user_agent", "content_type", "x_request_id", "url")} == {
        512
    }


@pytest.mark.parametrize("path", ["/agent/chat", "/a?token=SECRET", "/a#token=SECRET", "//x/[y"])
def test_no_query_fragment_or_login_of_a_url_is_kept(path: str) -> None:
    url = request_facts(_request(path=path, headers=_headers(host="user:SECRET@api.example")))[
        "url"
    ]
    assert "token=" not in url.partition("?")[2]
    assert "user:" not in url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:SECRET@h:8000/a?token=SECRET#SECRET", "https://h:8000/a"),
        ("https://a@b@h/a", "https://h/a"),
        ("/only/a/path?x=1", "/only/a/path"),
        ("http://[::1/a?token=SECRET", "unknown"),  # as a Host header of `[::1` makes it
        ("", "unknown"),
    ],
)
def test_urls_as_other_frameworks_may_give_them(text: str, expected: str) -> None:
    request = types.SimpleNamespace(headers={}, client=None, method="GET", url=text)
    assert request_facts(request)["url"] == expected


async def _unused(*_: Any) -> Any:
    raise AssertionError


def test_any_starlette_request_serves() -> None:
    scope = dict(_request().scope)
    del scope["method"]
    socket = WebSocket({**scope, "type": "websocket"}, receive=_unused, send=_unused)
    for connection in (socket, HTTPConnection(scope)):
        facts = request_facts(connection)
        assert facts["method"] == "unknown"
        assert facts["client_ip"] == "203.0.113.9"
