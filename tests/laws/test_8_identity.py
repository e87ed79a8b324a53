"""Law 8. Identity is authenticated or signed: nothing else makes a client somebody."""

from __future__ import annotations

import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from ringfence import current_context
from ringfence.integrations.jwt import BearerToken

from ..integrations.asgi_driver import call, fenced, respond

KEY, OTHER = OctKey.generate_key(256), OctKey.generate_key(256)
IDENTIFY = BearerToken(KEY)


def _token(key: OctKey = KEY, **claims: Any) -> str:
    return jwt.encode({"alg": "HS256"}, {"sub": "alice-1", "exp": time.time() + 60, **claims}, key)


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, body=current_context().user_id.encode())


CLAIMS_TO_BE_ALICE = {
    "nothing": {},
    "a header": {"headers": [("x-user-id", "alice-1"), ("x-user", "alice-1")]},
    "baggage": {"headers": [("baggage", "user_id=alice-1")]},
    "a cookie": {"headers": [("cookie", "user_id=alice-1")]},
    "a request id": {"headers": [("x-request-id", "alice-1")]},
    "the query": {"query_string": b"user_id=alice-1&token=" + _token().encode()},
    "another key": {"headers": [("authorization", f"Bearer {_token(OTHER)}")]},
    "a token that has expired": {"headers": [("authorization", f"Bearer {_token(exp=1)}")]},
    "no signature": {
        "headers": [("authorization", f"Bearer {_token().rpartition('.')[0]}.")],
    },
    "a subprotocol over http": {
        "headers": [("sec-websocket-protocol", f"ringfence.bearer, {_token()}")]
    },
}


@pytest.mark.parametrize("attack", CLAIMS_TO_BE_ALICE.values(), ids=CLAIMS_TO_BE_ALICE.keys())
async def test_it_is_not_enough(attack: dict[str, Any]) -> None:
    answer = await call(fenced(whoami, identify=IDENTIFY), **attack)
    assert answer.status == 401
    assert b"alice" not in answer.body


async def test_a_token_signed_by_our_key_is() -> None:
    headers = [("authorization", f"Bearer {_token()}"), ("x-user-id", "bob-22")]
    answer = await call(fenced(whoami, identify=IDENTIFY), headers=headers)
    assert (answer.status, answer.body) == (200, b"alice-1")
