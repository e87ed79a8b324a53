"""Identifiers: what is an id and what only looks like one, for every field; and making new ones."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringfence import (
    ConfigurationError,
    ContextLimitError,
    InvalidContextError,
    Ringfence,
    Settings,
    UserExecutionContext,
    WrongTypeError,
    child_context,
    identifiers,
    nobody,
    user_context,
)
from ringfence.identifiers import IdRules, generate_id

CONSTRUCTOR_FIELDS = (
    "user_id thread_id run_id request_id websocket_client_id parent_request_id tenant_id "
    "client_request_id"
).split()
BLOCK_FIELDS = [field for field in CONSTRUCTOR_FIELDS if field != "parent_request_id"]


class Text(str):
    """A `str` that may answer differently each time it is asked."""


CHARACTERS = [
    "placeholder ", " placeholder", "test\t", "te\tst", "test\n", "test\r\n", "alice-1\n", "a\nb",
    "t\u0435st",  # Cyrillic e
    "\u0440laceholder",  # Cyrillic p
    "d\u03b5fault",  # Greek epsilon
    "\uff54\uff45\uff53\uff54",  # full-width
    "\uff11\uff12\uff13", "\u0661\u0662", "\u2167", "\u017fample",  # digits, a numeral, a long s
    "te\u200bst", "test\u200c", "te\u200dst", "te\u2060st", "\ufefftest",  # nothing to see
    "te\u00adst",  # soft hyphen
    "\u202etset", "\u2066test\u2069",  # right to left
    "te\u0301st", "e\u0301lise", "\u00e9lise",  # combined, and composed
    "test\x00", "\x00", "nu\x00ll", "te\x7fst", "te\x85st", "te\x08st",
    "\x1b[31mtest", "\x1b]0;title\x07",
    "a b", "a\u00a0b", "a\u2028b", "a\u3000b",
    "\ud800", "user\udcff", "\U0001f642", "\u540d\u524d",
    ".hidden", "..", ":x", "@x", "|x", "+x", "=x", "/etc/passwd",
    "a;b", "a,b", "a'b", 'a"b', "<b>", "{x}", "$x", "a%00", "a\\b", "a*", "a!", "a?b", "a#b", "(a)",
    "a" * 30 + "\n", "a" * 30 + "\u200b", "a" * 30 + " ", " " + "a" * 30, "a" * 30 + "\x00",
]  # fmt: skip
PLACEHOLDERS = [
    *"registry placeholder default temp none null undefined 0 1 xxx yyy example test demo sample "
    "template mock fake dummy anonymous todo".split(),
    *"Placeholder TEST None NULL Undefined XXX ToDo ANONYMOUS dEmO".split(),
]
PREFIXES = [
    *"placeholder_1 registry_1 default_1 temp_1 test_1 example_1 demo_1 sample_1 template_1 mock_1 "
    "fake_1 placeholder-1 test.user test:1 mock-db fake.x Test_1 TEMP-x DEMO:9 test_ test-".split(),
    "test_" + "1" * 14,  # one short of where the rule ends
]
BLANK = ["", " ", "   ", "\t", "\n", "\r\n\t ", "\u3000", "\u00a0", "\u2028"]
LONG = ["a" * 129, "a" * 200, "a" * 1_000_000, "\u0435" * 129]
TYPES = [
    b"alice-1", bytearray(b"alice-1"), 17, 0, 1, True, False, 1.5, ["alice-1"], ("alice-1",), {},
    object(), str, uuid.UUID("7d9f2a44-6a3e-4c0e-9d34-3a3c6d1f0c11"), Text("alice-1"),
]  # fmt: skip

HOSTILE = [
    *((value, "characters") for value in CHARACTERS),
    *((value, "placeholder") for value in PLACEHOLDERS),
    *((value, "prefix") for value in PREFIXES),
    *((value, "blank") for value in BLANK),
    *((value, "length") for value in LONG),
    *((value, "type") for value in TYPES),
]  # fmt: skip
KINDS = {"length": ContextLimitError, "type": WrongTypeError}

VALID = [
    "7d9f2a44-6a3e-4c0e-9d34-3a3c6d1f0c11", "7D9F2A446A3E4C0E9D343A3C6D1F0C11",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",  # ULID
    "2SGNzXDDxM8BYEcmeEHkwLlxNu1",  # KSUID
    "-V1StGXR8_Z5jdHi6B-myT", "_x7", "-", "_", "--",  # nanoid and what it may begin with
    "175928847299117063", "507f1f77bcf86cd799439011", "7", "2", "10", "00", "01",
    "alice@example.com", "a.b+c@x.org", "auth0|123", "google-oauth2|103547991597142817347",
    "dGVzdC11c2Vy_-8=", "YWxpY2U=", "a+b/c==", "user:1@x", "us-east-1:7d9f2a44",
    "arn:aws:iam::123456789012:user/Alice", "did:key:z6MkhaXg", "CN=alice", "org/team/alice",
    "tester", "testing-1", "demographics.1", "temperature_1", "mockingbird-2", "examples:1",
    "todo-1", "null_1", "none.x", "anonymous-7", "xxxy", "0x", "1-1", "-test_1", "my-test",
    "test_" + "1" * 15, "placeholder_that_is_long_enough",
    "a", "Z", "9" * 128, "a" + "._:@|+=/-" * 14, "test" + "e" * 124,
]  # fmt: skip


def _construct(field: str, value: Any) -> UserExecutionContext:
    given = {"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1"}
    return UserExecutionContext(**{**given, field: value})


def _open(field: str, value: Any) -> UserExecutionContext:
    given: dict[str, Any] = {"user_id": "alice-1", field: value}
    context = user_context(**given)._context  # type: ignore[attr-defined]
    assert isinstance(context, UserExecutionContext)
    return context


def _names(cases: list[tuple[Any, str]]) -> list[str]:
    return [
        f"{n} {rule} {ascii(value)[:30] if isinstance(value, str) else type(value).__name__}"
        for n, (value, rule) in enumerate(cases)
    ]


# --- every field ------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "rule"), HOSTILE, ids=_names(HOSTILE))
def test_what_is_no_id_is_refused_in_every_field(value: Any, rule: str) -> None:
    ways = [(_construct, field) for field in CONSTRUCTOR_FIELDS]
    ways += [(_open, field) for field in BLOCK_FIELDS]
    for make, field in ways:
        with pytest.raises(InvalidContextError) as caught:
            make(field, value)
        error = caught.value
        assert (error.field, error.rule) == (field, rule)
        assert type(error) is KINDS.get(rule, InvalidContextError)
        assert f"`{field}`" in error.fact
        assert error.remedy
        if rule != "type" and rule != "placeholder" and len(value) > 4:
            assert value not in str(error)  # it may be somebody's, or hostile to a terminal


@pytest.mark.parametrize("value", VALID)
def test_ids_as_they_are_used_in_the_world_pass_in_every_field(value: str) -> None:
    for field in CONSTRUCTOR_FIELDS:
        assert getattr(_construct(field, value), field) == value
    for field in BLOCK_FIELDS:
        assert getattr(_open(field, value), field) == value


def test_there_are_enough_of_both() -> None:
    disguised = [value for value, rule in HOSTILE if rule != "type"]
    assert len(disguised) == len(set(disguised)) >= 30
    assert len(set(VALID)) >= len(VALID) >= 30


@pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
def test_a_missing_id_is_refused(field: str) -> None:
    with pytest.raises(WrongTypeError, match=f"`{field}` must be a `str`, not `NoneType`"):
        _construct(field, None)


def test_no_user_is_no_user() -> None:
    with pytest.raises(WrongTypeError, match="`user_id` must be a `str`, not `NoneType`"):
        user_context(None)  # type: ignore[arg-type]


async def test_a_childs_and_nobodys_ids_are_validated_too() -> None:
    with pytest.raises(InvalidContextError, match="`request_id`"):
        nobody(request_id="test")
    async with user_context("alice-1"):
        with pytest.raises(InvalidContextError, match="`thread_id`"):
            child_context("tool", thread_id="t\u0435st")
        with pytest.raises(InvalidContextError, match="`run_id`"):
            child_context("tool", run_id="placeholder ")
        async with child_context("tool", thread_id="t-2", run_id="r-2") as child:
            assert (child.thread_id, child.run_id) == ("t-2", "r-2")


@pytest.mark.parametrize("bad", ["0123456789-0123456789\nx", "x\n0123456789-0123456789"])
def test_three_ids_in_one_look_cannot_borrow_from_each_other(bad: str) -> None:
    good = "0123456789-0123456789"
    for ids in ((bad, good, good), (good, bad, good), (good, good, bad)):
        with pytest.raises(InvalidContextError, match=r"U\+000A"):
            user_context(ids[0], thread_id=ids[1], run_id=ids[2])
    with pytest.raises(InvalidContextError, match="`run_id` is empty"):
        user_context(good, thread_id=good, run_id="")


def test_the_remedy_for_another_type_is_text() -> None:
    with pytest.raises(WrongTypeError, match=r"`user_id` must be a `str`, not `int`\..*str\(user"):
        _construct("user_id", 17)


@pytest.mark.parametrize(
    ("value", "setting"),
    [("test", "id_placeholders"), ("test_1", "id_prefixes"), ("a b", "id_pattern")],
)
def test_the_remedy_names_the_setting(value: str, setting: str) -> None:
    with pytest.raises(InvalidContextError, match=f"`Settings.{setting}`"):
        _construct("user_id", value)
    with pytest.raises(ContextLimitError, match="129 characters.*`Settings.id_max_length`"):
        _construct("user_id", "a" * 129)


@pytest.mark.parametrize(("value", "code"), [("a b", "0020"), ("ab\n", "000A"), (".a", "002E")])
def test_the_odd_character_is_named_by_its_code(value: str, code: str) -> None:
    with pytest.raises(InvalidContextError, match=rf"U\+{code}"):
        _construct("user_id", value)


# --- the rules against an oracle --------------------------------------------------------------


def _is_id(value: str) -> bool:
    """Section 3 of the contract, written down once more."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._:@|+=/-]{0,127}", value):
        return False
    low = value.lower()
    if low in {word.lower() for word in PLACEHOLDERS}:
        return False
    words = {prefix.lower().rstrip("_-.:1") for prefix in PREFIXES[:11]}
    return len(value) >= 20 or not any(low.startswith(w + end) for w in words for end in "_-.:")


ALPHABET = st.sampled_from("abtesTES01._:@|+=/- \n\u0435\u200b")
NEARLY = st.builds(
    lambda head, join, tail: head + join + tail,
    st.sampled_from([*PLACEHOLDERS, "tests", "x"]),
    st.sampled_from(["", "_", "-", ".", ":", "@", " "]),
    st.text(ALPHABET, max_size=20),
)


@given(st.text(ALPHABET, max_size=140) | st.text(max_size=30) | NEARLY)
@example("a" * 128)
@example("a" * 129)
@example("-" * 19)
@example("test-" + "a" * 15)
def test_it_is_the_contracts_rule_and_nothing_else(value: str) -> None:
    try:
        assert IdRules().check("user_id", value) is value
        accepted = True
    except InvalidContextError:
        accepted = False
    assert accepted == _is_id(value)


@given(st.text(ALPHABET, max_size=30), st.sampled_from(["strict", "warning"]))
def test_the_quick_look_lets_nothing_through_that_the_rules_refuse(value: str, mode: str) -> None:
    """A custom pattern has a quick look of its own."""
    rules = IdRules(mode=mode, pattern=r".+")
    if rules.is_plainly_valid(value):
        assert value.isprintable()
        assert 20 <= len(value) <= 128
        assert value.lower() not in rules.placeholders


# --- settings for ids -------------------------------------------------------------------------


def _check(value: str, **given: Any) -> str:
    return Settings(**given).id_rules.check("user_id", value)


def test_a_team_with_other_ids_says_so() -> None:
    assert _check("müller 7", id_pattern=r"[\w ]+") == "müller 7"
    assert _check("test_1", id_prefixes=()) == "test_1"
    assert _check("test", id_placeholders=()) == "test"
    assert _check("a" * 200, id_max_length=200) == "a" * 200
    with pytest.raises(InvalidContextError, match="`Settings.id_placeholders`"):
        _check("Guest", id_placeholders={"GUEST"})
    with pytest.raises(InvalidContextError, match="`Settings.id_prefixes`"):
        _check("svc-1", id_prefixes={"SVC"})
    with pytest.raises(InvalidContextError, match="`Settings.id_pattern`"):
        _check("alice", id_pattern=r"[0-9]+")


@pytest.mark.parametrize("length", [5, 19, 20, 21, 128])
def test_the_length_that_was_set_is_the_limit(length: int) -> None:
    assert _check("a" * length, id_max_length=length)
    with pytest.raises(ContextLimitError, match=f"{length} are allowed"):
        _check("a" * (length + 1), id_max_length=length)


@pytest.mark.parametrize("pattern", [r".+", r"[^/]+", r"(?s:.+)", r"a+.|b"])
@pytest.mark.parametrize("tail", ["\x00", "\n", "\x1b", "\u200b", "\u202e", "\ud800"])
@pytest.mark.parametrize("length", [3, 40])
def test_no_pattern_lets_control_characters_in(pattern: str, tail: str, length: int) -> None:
    for mode in ("strict", "warning"):
        with pytest.raises(InvalidContextError) as caught:
            _check("a" * length + tail, id_pattern=pattern, validation=mode)
        assert caught.value.rule == "characters"


@pytest.mark.parametrize("pattern", ["a|b", "(a)|(?:b)"])
def test_a_pattern_is_matched_whole(pattern: str) -> None:
    assert _check("a", id_pattern=pattern) == "a"
    for value in ("ax", "xb", "ab"):
        with pytest.raises(InvalidContextError):
            _check(value, id_pattern=pattern)


def test_rules_by_hand_refuse_what_is_no_pattern() -> None:
    with pytest.raises(InvalidContextError, match="not a regular expression"):
        IdRules(pattern="(")


async def test_the_fences_settings_hold_in_its_scopes() -> None:
    fence = Ringfence(settings=Settings(id_prefixes=(), id_placeholders=()))
    with pytest.raises(InvalidContextError):
        user_context("test_1")
    async with fence.user_context("test_1", thread_id="test") as ctx:
        assert ctx.with_websocket_connection("mock_1").websocket_client_id == "mock_1"
        async with child_context("tool", run_id="fake_1"):
            pass
        async with user_context("demo_1"):  # the fence of the scope beneath
            pass
    strict = Ringfence(settings=Settings(id_pattern=r"u-\d+"))
    with pytest.raises(InvalidContextError):
        strict.user_context("alice-1")


# --- warning mode -----------------------------------------------------------------------------

RELAXED = [
    (value, rule)
    for value, rule in HOSTILE
    if rule in ("placeholder", "prefix") or (rule == "characters" and value.isprintable())
]
NEVER = [(value, rule) for value, rule in HOSTILE if (value, rule) not in RELAXED]


@pytest.mark.parametrize(("value", "rule"), RELAXED, ids=_names(RELAXED))
def test_warning_mode_logs_field_value_and_rule_and_goes_on(
    value: str, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    fence = Ringfence(settings=Settings(validation="warning"))
    for field in BLOCK_FIELDS:
        caplog.clear()
        block: Any = fence.user_context(**{"user_id": "alice-1", field: value})
        assert getattr(block._context, field) == value
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("ringfence.identifiers", logging.WARNING)
        for part in (f"`{field}`", f"(rule {rule})", repr(value)):
            assert part in record.getMessage()


@pytest.mark.parametrize(("value", "rule"), NEVER, ids=_names(NEVER))
def test_warning_mode_refuses_what_no_mode_lets_pass(value: Any, rule: str) -> None:
    fence = Ringfence(settings=Settings(validation="warning"))
    for field in BLOCK_FIELDS:
        with pytest.raises(InvalidContextError) as caught:
            fence.user_context(**{"user_id": "alice-1", field: value})
        assert (caught.value.field, caught.value.rule) == (field, rule)


def test_a_value_is_logged_by_the_rule_that_strict_would_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for value in ("test.ü", "demo user", "test_é", "none "):
        with pytest.raises(InvalidContextError) as caught:
            _check(value)
        caplog.clear()
        Settings(validation="warning").id_rules.check("user_id", value)
        (record,) = caplog.records  # one, not one for each rule
        field, _, rule, shown = record.args  # type: ignore[misc]
        assert (field, rule, shown) == ("user_id", caught.value.rule, value)


def test_both_kinds_are_many() -> None:
    assert len(RELAXED) >= 60
    assert {rule for _, rule in NEVER} == {"characters", "blank", "length", "type"}


def test_warning_mode_says_nothing_of_valid_ids(caplog: pytest.LogCaptureFixture) -> None:
    rules = Settings(validation="warning").id_rules
    for value in VALID:
        rules.check("user_id", value)
    assert caplog.records == []


def test_strict_mode_does_not_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidContextError):
        Settings().id_rules.check("user_id", "test")
    assert caplog.records == []


def test_an_unknown_mode_is_an_error() -> None:
    for mode in ("lenient", "WARNING", "", None, True):
        with pytest.raises(ConfigurationError, match="must be `strict` or `warning`"):
            Settings(validation=mode)  # type: ignore[arg-type]


# --- new ids ----------------------------------------------------------------------------------


def test_a_hundred_thousand_are_unique_and_valid_version_4() -> None:
    made = [generate_id() for _ in range(100_000)]
    assert len(set(made)) == 100_000
    form = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(map(form.fullmatch, made))
    for text in made[:2000]:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
        assert str(parsed) == text


def test_every_bit_that_may_vary_does() -> None:
    ones, zeros = 0, 0
    for _ in range(2000):
        bits = uuid.UUID(generate_id()).int
        ones |= bits
        zeros |= ~bits & (1 << 128) - 1
    assert (ones & zeros).bit_count() == 122


def test_they_are_the_random_bytes_in_the_layout_of_the_standard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(range(256)) * (count // 256)

    monkeypatch.setattr(os, "urandom", urandom)
    texts = identifiers._random_uuids(512)
    assert asked == [16 * 512]
    expected = [uuid.UUID(bytes=bytes(range(i, i + 16)), version=4) for i in range(0, 256, 16)]
    assert texts[:16] == list(map(str, expected))


def test_threads_never_get_the_same() -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def work(own: list[str]) -> None:
        start.wait()
        own.extend(generate_id() for _ in range(5000))

    threads = [threading.Thread(target=work, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for own in made for text in own}) == 40_000


FORK = """
import os
from ringfence.identifiers import generate_id, _pool

generate_id()
assert len(_pool) > 100  # otherwise this would prove nothing
read, write = os.pipe()
child = os.fork()
mine = [generate_id() for _ in range(600)]
if child == 0:
    os.write(write, "\\n".join(mine).encode())
    os._exit(0)
os.close(write)
theirs = b""
while part := os.read(read, 1 << 16):
    theirs += part
os.waitpid(child, 0)
theirs = theirs.decode().split()
print(len(theirs), len(set(mine) & set(theirs)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_repeat_the_pool() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["600", "0"]
