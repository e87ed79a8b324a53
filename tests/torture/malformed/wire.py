"""Raw malformed requests, over real sockets, to uvicorn with both of its parsers."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import attrs

from tests.integration.options import Configuration
from tests.integration.servers import Served, serve
from tests.integration.wire import HOST

from ..report import Report

PARSERS = ("h11", "httptools")
KEYS = {"alice-1": b"Bearer key-of-alice", "bob-22": b"Bearer key-of-bob"}
PATIENCE = 0.25
"""Seconds without a byte after which a server waits for the rest of a request."""

AT_ONCE = 16

Make = Callable[[Random], bytes]


_START = b"GET /keyed/who HTTP/1.1\r\n"


def _request(*lines: bytes) -> bytes:
    return _START + b"\r\n".join((b"host: a.example", b"connection: close", *lines, b"", b""))


def _good(user: str) -> bytes:
    return _request(b"authorization: " + KEYS[user])


def _bearing(*values: bytes) -> Make:
    """A request whose credential is none."""
    return lambda rng: _request(b"authorization: " + rng.choice(values))


def _of_lines(*lines: bytes) -> Make:
    return lambda rng: _request(rng.choice(lines))


def _mutated(rng: Random) -> bytes:
    """Alice's request with some of its bytes changed, left out, or twice; all after its path."""
    start, text = _START, bytearray(_good("alice-1")[len(_START) :])
    for _ in range(rng.randint(1, 6)):
        where = rng.randrange(len(text))
        change = rng.randint(0, 3)
        if change == 0:
            text[where] ^= 1 << rng.randint(0, 7)
        elif change == 1:
            del text[where]
        elif change == 2:
            text[where:where] = rng.choice((b"\r", b"\n", b"\0", b"\r\n", b"\r\n ", b":", b"\xff"))
        else:
            text[where:where] = text[: rng.randint(0, where)]
    return start + bytes(text)


K = b"key-of-alice"

NOBODY: dict[str, Make] = {
    "no credential": _of_lines(b"x-user: alice-1", b"x_user: alice-1", b"from: alice-1"),
    "wrong key": _bearing(b"Bearer " + K[:-1], b"Bearer " + K + b"x", b"Bearer", b"", b"Bearer ,"),
    "scheme": _bearing(b"Basic " + K, b"Bearer" + K, b"Bearer\t" + K, b"B\xd0\xb5arer " + K),
    "control": _bearing(b"Bearer \x1b" + K, b"Bearer " + K + b"\x7f", b"Bearer \x01" + K),
    "NUL": _bearing(b"Bearer " + K + b"\0", b"Bearer \0" + K),
    "bare LF": _bearing(b"Bearer key-of\n-alice", b"Bearer\n" + K),
    "bare CR": _bearing(b"Bearer key-of\r-alice", b"Bearer\r" + K),
    "obs-fold": _bearing(b"Bearer key-of\r\n -alice", b"Bearer key-of\r\n\t-alice"),
    "non-latin": _bearing(b"Bearer " + K + b"\xe9", b"Bearer \xd0\xba" + K[1:]),
    "underscore": _of_lines(
        b"_authorization: " + KEYS["alice-1"], b"http_authorization: " + KEYS["alice-1"]
    ),
    "name": _of_lines(
        b"authorization : " + KEYS["alice-1"],
        b" authorization: " + KEYS["alice-1"],
        b"authorization\0: " + KEYS["alice-1"],
        b"authori\xc5\xbeation: " + KEYS["alice-1"],
    ),
    "twice": _of_lines(
        b"authorization: " + KEYS["alice-1"] + b"\r\nauthorization: " + KEYS["bob-22"],
        b"authorization: x\r\nAuthorization: " + KEYS["bob-22"],
        b"Host: b.example\r\nauthorization: " + KEYS["alice-1"],
    ),
    "many": lambda rng: _request(
        b"authorization: " + KEYS["alice-1"],
        *(b"x-%d: 1" % number for number in range(rng.choice((250, 1_000, 10_000)))),
    ),
    "large": lambda rng: _request(
        b"authorization: " + KEYS["alice-1"], b"x: " + b"x" * rng.choice((70_000, 1_000_000))
    ),
}
"""Nobody's: the application must not be reached."""


@attrs.frozen
class Answer:
    status: int
    body: bytes


def ask(port: int, raw: bytes, patience: float = PATIENCE) -> Answer:
    """Status 0: the server closed the connection, or waits for more."""
    received = b""
    with socket.create_connection((HOST, port), timeout=10) as wire:
        wire.settimeout(patience)
        with suppress(OSError):  # what it does not want to read it need not take
            wire.sendall(raw)
        with suppress(OSError):
            while chunk := wire.recv(65_536):
                received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return Answer(int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, body)


@attrs.define
class Count:
    """Of one parser. Lives for one run."""

    report: Report
    parser: str
    statuses: Counter[int] = attrs.field(factory=Counter)
    believed: int = 0
    broken: int = 0
    good: int = 0

    def judge(self, rule: str, raw: bytes, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        seen = answer.body.partition(b"]")[0]  # what follows answers what the server took for more
        if answer.status == 200 and (rule in NOBODY or seen != b'["alice-1","alice-1"'):
            self.believed += 1
            self.fault(rule, raw, answer)
        if answer.status >= 500:
            self.broken += 1
            self.fault(rule, raw, answer)

    def fault(self, rule: str, raw: bytes, answer: Answer) -> None:
        replay = f"python -m tests.torture malformed --seed {self.report.seed} --only wire"
        self.report.fault(f"wire/{self.parser}/{rule}: {raw[:200]!r} gave {answer}", replay)


def _is_believed_without_a_key(served: Served, raw: bytes) -> bool:
    return b"alice-1" in ask(served.port, raw.replace(b"/keyed/", b"/plain/")).body


def run(report: Report) -> None:
    if not "wire".startswith(report.only[:4]):
        return
    for parser in PARSERS:
        with serve(Configuration("uvicorn", "asyncio", parser, "websockets")) as served:
            _attack(report, parser, served)


def _attack(report: Report, parser: str, served: Served) -> None:
    rng = Random(f"{report.seed} wire")
    made = [(rule, make(rng)) for rule, make in NOBODY.items() for _ in range(report.size(60, 4))]
    made += [("mutated", _mutated(rng)) for _ in range(report.size(1_200, 60))]
    count = Count(report, parser)

    def one(number: int) -> None:
        rule, raw = made[number]
        count.judge(rule, raw, ask(served.port, raw))
        if number % 5 == 0:  # and the next one, of somebody else
            answer = ask(served.port, _good("bob-22"), patience=10)
            count.good += answer == Answer(200, b'["bob-22","bob-22"]')

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(one, range(len(made)))):
            report.progress(done, len(made))
    naive = sum(_is_believed_without_a_key(served, raw) for rule, raw in made[:40])
    asked = len(range(0, len(made), 5))
    refused = sum(count.statuses[status] for status in (400, 401, 431))
    left = served.state()["open_roots"]
    report.must(f"wire: malformed requests to {parser}", len(made), "> 100")
    report.must(f"wire: believed behind {parser}", count.believed, "== 0")
    report.must(f"wire: answered with 5xx behind {parser}", count.broken, "== 0")
    report.must(f"wire: open roots left behind {parser}", left, "== 0")
    report.control(f"wire: believed by a plain header's reader behind {parser}", naive)
    report.control(f"wire: answered with 400, 401 or 431 behind {parser}", refused)
    report.control(f"wire: good requests right after, behind {parser}", count.good, f"== {asked}")
