"""Signed tokens with one bit turned, or cut: none of them signs anybody in."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ringfence.integrations.jwt import BearerToken

from ..report import Report
from .headers import SECRET, USERS, token
from .tally import Tally

TOKENS = 50
RULES = ("a bit turned", "cut")


async def run(report: Report) -> int:
    """How many malformed ones were offered."""
    tally = Tally("tokens", report)
    if not any(map(tally.chosen, RULES)):
        return 0
    read = BearerToken(SECRET)
    rng = Random(f"{report.seed} tokens")
    made = [token(rng.choice(USERS), rng.getrandbits(60)) for _ in range(report.size(TOKENS, 2))]
    unsigned = 0
    for done, whole in enumerate(made):
        for rule, text in _mutations(whole):
            if not tally.chosen(rule):
                continue
            tally.begin()
            try:
                read.identity(text)
            except BaseException as error:
                tally.end(rule)
                tally.raised(rule, text, error)
            else:
                tally.end(rule)
                tally.taken(rule, text)
            unsigned += _is_believed_unsigned(text)
        report.progress(done, len(made))
    tally.tell(report.size(5_000, 200))
    report.control("tokens: believed by a reader that checks no signature", unsigned)
    accepted = sum(read.identity(whole.decode()).user_id in USERS for whole in made)
    report.control("tokens: whole ones that were accepted", accepted, f"== {len(made)}")
    return tally.offered.total()


def _mutations(whole: bytes) -> Iterator[tuple[str, str]]:
    """Every one of one bit; and all that are cut."""
    for place, byte in enumerate(whole):
        for bit in range(8):
            turned = whole[:place] + bytes([byte ^ (1 << bit)]) + whole[place + 1 :]
            yield "a bit turned", turned.decode("latin-1")
    for length in range(len(whole)):
        yield "cut", whole[:length].decode("latin-1")


def _is_believed_unsigned(text: str) -> bool:
    """Whether the payload can be read; nobody but such a reader asks no more."""
    from joserfc.jws import extract_compact

    try:
        return b'"sub"' in extract_compact(text.encode("latin-1")).payload
    except Exception:
        return False
