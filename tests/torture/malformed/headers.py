"""Malformed headers, through the real middleware; what it must answer is judged without it."""

from __future__ import annotations

import logging
import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import attrs
from joserfc import jwt
from joserfc.jwk import OctKey

from ringfence import CarrierError, Identity, Ringfence, current_context_or_none
from ringfence.integrations.asgi import Connection, UserContextMiddleware
from ringfence.integrations.jwt import BearerToken

from ..report import Report
from .ids import is_id
from .tally import Tally

Raw = list[tuple[bytes, bytes]]

MOST, LARGEST = 200, 64 * 1024
CLIENT_ID = frozenset(string.ascii_letters + string.digits + "._-")
SECRET = OctKey.import_key(b"0123456789abcdef0123456789abcdef")
USERS = ("alice-1", "bob-22", "carol-3")


def token(user: str, number: int = 0) -> bytes:
    claims = {"sub": user, "exp": int(time.time()) + 36_000, "jti": str(number), "roles": ["a"]}
    return jwt.encode({"alg": "HS256"}, claims, SECRET).encode()


TOKENS = {token(user): user for user in USERS}
SESSIONS = {f"{number:032x}": user for number, user in enumerate(USERS, 2**100)}
bearer = BearerToken(SECRET)


def identify(connection: Connection) -> Identity | None:
    found = bearer(connection)
    if found is None:
        user = SESSIONS.get(connection.cookies.get("session", ""))
        return None if user is None else Identity(user)
    return found


# --- the oracle -------------------------------------------------------------------------------


@attrs.frozen
class Expected:
    """Status, user, and what the client calls the request."""

    status: int
    user: str | None = None
    client_id: str | None = None


def expected(raw: Raw) -> Expected:
    """What the page on the boundary says of such a request."""
    if len(raw) > MOST or sum(len(value) for _, value in raw) > LARGEST:
        return Expected(431)
    given: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        given.setdefault(name, []).append(value)
    if any(len(given.get(name, ())) > 1 for name in (b"authorization", b"host")):
        return Expected(400)
    user = _user(given)
    if user is None:
        return Expected(401)
    client_ids = [value.decode("latin-1") for value in given.get(b"x-request-id", ())]
    is_kept = len(client_ids) == 1 and set(client_ids[0]) <= CLIENT_ID and is_id(client_ids[0])
    return Expected(200, user, client_ids[0] if is_kept else None)


def _user(given: dict[bytes, list[bytes]]) -> str | None:
    authorization = given.get(b"authorization", [b""])[0]
    if authorization[:7].lower() == b"bearer " or authorization.lower() == b"bearer":
        return TOKENS.get(authorization[7:])
    for cookie in given.get(b"cookie", ()):
        for number, user in enumerate(USERS, 2**100):
            if cookie == f"session={number:032x}".encode():
                return user
    return None


# --- what is wrong with them ------------------------------------------------------------------


def _base(rng: Random) -> Raw:
    """The headers of a browser, and no credentials."""
    return [
        (b"host", b"api.example.com"),
        (b"user-agent", b"Mozilla/5.0"),
        (b"accept", b"*/*"),
        (b"x-tag", b"%032x" % rng.getrandbits(128)),
    ]


def _session(rng: Random) -> Raw:
    return [*_base(rng), (b"cookie", f"session={rng.choice(list(SESSIONS))}".encode())]


def _bearing(value: Callable[[Random, bytes], bytes]) -> Callable[[Random], Raw]:
    """A request whose only credential is a token with something wrong."""
    return lambda rng: [
        *_base(rng),
        (b"authorization", value(rng, rng.choice(list(TOKENS)))),
    ]


def _split(rng: Random, text: bytes, odd: bytes) -> bytes:
    """Something odd in the midst of a token, where no scheme is."""
    where = rng.randint(1, len(text) - 1)
    return b"Bearer " + text[:where] + odd + text[where:]


def _authorised(rng: Random) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + rng.choice(list(TOKENS)))


def _renamed(*names: bytes) -> Callable[[Random], Raw]:
    """A valid credential under a name that is not its own."""
    return lambda rng: [*_base(rng), (rng.choice(names), _authorised(rng)[1])]


def _called(value: Callable[[Random], bytes]) -> Callable[[Random], Raw]:
    """A good request that calls itself something odd."""
    return lambda rng: [*_session(rng), (b"x-request-id", value(rng))]


def _many(rng: Random) -> Raw:
    count = rng.choice((201, 500)) if rng.random() < 0.99 else 10_000
    more = [(b"x-%d" % (number if rng.random() < 0.5 else 0), b"1") for number in range(count)]
    return [*_session(rng), *more]


def _large(rng: Random) -> Raw:
    size = rng.choice((LARGEST, 70_000)) if rng.random() < 0.99 else 1_000_000
    parts = rng.choice((1, 2, 7))
    names = [b"x-big"] * parts if rng.random() < 0.5 else [b"x-%d" % n for n in range(parts)]
    return [*_session(rng), *((name, b"x" * (size // parts + 1)) for name in names)]


def _repeated(name: bytes) -> Callable[[Random], Raw]:
    def make(rng: Random) -> Raw:
        pair = {b"authorization": _authorised(rng), b"host": (b"host", b"evil.example")}[name]
        raw = [*_session(rng), pair]
        if name == b"authorization":
            raw.append(rng.choice((_authorised(rng), (name, b"Basic YTpi"), (name, b""))))
        rng.shuffle(raw)
        return raw

    return make


CONTROL = [bytes([code]) for code in (*range(1, 9), *range(11, 13), *range(14, 32), 127)]

REFUSED: dict[str, Callable[[Random], Raw]] = {
    "too many": _many,
    "too large": _large,
    "repeated authorization": _repeated(b"authorization"),
    "repeated host": _repeated(b"host"),
    "underscore spelling": _renamed(b"_authorization", b"authorization_", b"http_authorization"),
    "another name": _renamed(
        b"x-authorization", b"proxy-authorization", b"x-forwarded-authorization", b"x-user",
        b"authorization ", b" authorization", b"authorization\t", b"auth\xc3\xb6rization", b"",
        b"x-forwarded-user", b"authorization\0", b"authorizatio\xd0\xbf",
    ),
    "plain header": lambda rng: [
        *_base(rng),
        (rng.choice((b"x-user", b"x-user-id", b"x_user_id", b"from", b"baggage")), b"alice-1"),
    ],
    "obs-fold": _bearing(lambda rng, text: _split(rng, text, rng.choice((b"\r\n ", b"\r\n\t")))),
    "bare LF": _bearing(lambda rng, text: _split(rng, text, b"\n")),
    "bare CR": _bearing(lambda rng, text: _split(rng, text, b"\r")),
    "a header within": _bearing(
        lambda rng, text: _split(rng, text, b"\r\nx-user: alice-1\r\n")
    ),
    "NUL": _bearing(lambda rng, text: _split(rng, text, b"\0")),
    "control": _bearing(lambda rng, text: _split(rng, text, rng.choice(CONTROL))),
    "non-latin": _bearing(lambda rng, text: _split(rng, text, bytes([rng.randint(128, 255)]))),
    "space around": _bearing(
        lambda rng, text: rng.choice((b"Bearer  %s", b"Bearer %s ", b"Bearer\t%s", b" Bearer %s",
                                      b"Bearer %s\t", b"Bearer \t%s", b"Bearer %s\r\n")) % text
    ),
    "scheme": _bearing(
        lambda rng, text: rng.choice((b"Bearer%s", b"Bearer:%s", b"Basic %s", b"Token %s", b"%s",
                                      b"Bearer=%s", b"B\xd0\xb5arer %s", b"Bearer,%s")) % text
    ),
    "two tokens": _bearing(
        lambda rng, text: b"Bearer " + text + rng.choice((b", ", b",", b" ", b";")) + text
    ),
    "cut token": _bearing(lambda rng, text: b"Bearer " + text[: rng.randint(0, len(text) - 1)]),
    "padded token": _bearing(lambda rng, text: b"Bearer " + text + rng.choice((b"=", b"==", b"."))),
    "cookie": lambda rng: [
        *_base(rng),
        (b"cookie", _within(rng, f"session={rng.choice(list(SESSIONS))}".encode())),
    ],
}  # fmt: skip


def _within(rng: Random, text: bytes) -> bytes:
    where = rng.randint(9, len(text) - 1)
    odd = rng.choice((b"\n", b"\r\n ", b"\0", b" ", b"\xe2\x80\x8b", b"=", b'"', b",", b"\x1b"))
    return text[:where] + odd + text[where:]


def _odd_id(rng: Random) -> bytes:
    good = b"%032x" % rng.getrandbits(128)
    odd = rng.choice((b"\n", b"\r\n ", b"\0", b" ", b"\xe9", b"<", b"/", b":", b"\x1b[31m", b"\t"))
    where = rng.randint(0, len(good))
    return good[:where] + odd + good[where:]


IGNORED: dict[str, Callable[[Random], Raw]] = {
    "odd request id": _called(_odd_id),
    "long request id": _called(lambda rng: b"a" * rng.choice((129, 500, 20_000))),
    "placeholder request id": _called(
        lambda rng: rng.choice((b"test", b"None", b"0", b"", b"demo-1", b"NULL", b"test_7"))
    ),
    "repeated request id": lambda rng: [
        *_session(rng),
        *((b"x-request-id", b"%08x" % rng.getrandbits(32)) for _ in range(rng.randint(2, 5))),
    ],
    "underscore request id": lambda rng: [*_session(rng), (b"x_request_id", b"abc-123")],
}


# --- offering them ----------------------------------------------------------------------------


@attrs.define
class Seen:
    """What the application saw; it is asked once for each request, or not at all."""

    calls: int = 0
    user: str | None = None
    client_id: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        ctx = current_context_or_none()
        self.calls += 1
        self.user = None if ctx is None else ctx.user_id
        self.client_id = None if ctx is None else ctx.client_request_id
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(app: Any, raw: Raw) -> int:
    """The status that a request is answered with."""
    status = 0

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(
        {
            "type": "http", "method": "GET", "path": "/", "query_string": b"token=x",
            "headers": raw, "asgi": {"spec_version": "2.3"},
        },
        receive,
        send,
    )  # fmt: skip
    return status


async def run(report: Report) -> int:
    """How many malformed ones were offered."""
    tally = Tally("headers", report)
    makers = {rule: make for rule, make in {**REFUSED, **IGNORED}.items() if tally.chosen(rule)}
    if not makers:
        return 0
    each = report.size(5_200, 1_000)
    seen = Seen()
    app = UserContextMiddleware(seen, fence=Ringfence(), identify=identify)
    wrong = naive = 0
    with _quiet():
        for done, (rule, make) in enumerate(makers.items()):
            rng = tally.random(rule)
            for number in range(each):
                raw = make(rng)
                wrong += await _offer(tally, rule, app, seen, raw)
                naive += number < 1_000 and rule in REFUSED and _naive(raw) is not None
            report.progress(done, len(makers))
        tally.tell(1_000)
        report.must("headers: answers that the page does not promise", wrong, "== 0")
        report.control("headers: believed by a naive reader", naive)
        await _accept(report, each * len(makers), app, seen)
    return tally.offered.total()


async def _offer(tally: Tally, rule: str, app: Any, seen: Seen, raw: Raw) -> bool:
    """Offer one; whether the answer is another than the oracle's."""
    right = expected(raw)
    before, seen.calls = list(raw), 0
    if rule in REFUSED and right.status == 200:
        tally.fault(rule, "is no malformed request", raw)
    tally.begin()
    try:
        status = await ask(app, raw)
    except BaseException as error:
        tally.end(rule)
        tally.raised(rule, before, error)
        return True
    tally.end(rule)
    if rule in REFUSED and seen.calls:
        tally.taken(rule, before)
    if rule in IGNORED and seen.client_id is not None:
        tally.taken(rule, before)
    found = Expected(status, seen.user, seen.client_id) if seen.calls else Expected(status)
    if found != right or seen.calls != (right.status == 200):
        tally.fault(rule, f"gave {found}, not {right}", before)
        return True
    return False


async def _accept(report: Report, times: int, app: Any, seen: Seen) -> None:
    rng = Random(f"{report.seed} valid headers")
    accepted = 0
    for number in range(times):
        raw = _session(rng) if number % 2 else [*_base(rng), _authorised(rng)]
        raw.append((b"x-request-id", b"%032x" % rng.getrandbits(128)))
        seen.user = None
        status = await ask(app, raw)
        accepted += Expected(status, seen.user, seen.client_id) == expected(raw)
    report.control("headers: valid requests that were served", accepted, f"== {times}")


def _naive(raw: Raw) -> str | None:
    """Names and values are cleaned up, of two the last counts: whom such a reader believes."""
    last = {name.strip().replace(b"_", b"-").strip(b"-"): value for name, value in raw}
    words = last.get(b"authorization", b"").split()
    try:
        return bearer.identity(words[-1].decode("latin-1")).user_id
    except (CarrierError, IndexError):
        return last[b"x-user"].decode("latin-1") if b"x-user" in last else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Each refusal is logged: half a million lines."""
    logger = logging.getLogger("ringfence.asgi")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
