"""
Bearer tokens, signed and checked with a key that the service alone knows.

    RINGFENCE_EXAMPLE_KEY=... python -m examples.agent_chat.tokens ann

A real service gets its tokens from an identity provider, and checks them the same way.
"""

from __future__ import annotations

import os
import sys
import time

from joserfc import jwt
from joserfc.jwk import OctKey

from ringfence import RingfenceError, user_context
from ringfence.integrations.jwt import BearerToken

KEY_VARIABLE = "RINGFENCE_EXAMPLE_KEY"
NAME = "agent-chat"
HOUR = 3600


def issue(key: str, user_id: str, seconds: int = HOUR) -> str:
    """A token that says who its bearer is, for so many seconds."""
    now = int(time.time())
    claims = {"iss": NAME, "aud": NAME, "sub": user_id, "iat": now, "exp": now + seconds}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(key))


def bearer(key: str) -> BearerToken:
    """What tells the middleware who is asking; refuses all but our own valid tokens."""
    return BearerToken(key, issuer=NAME, audience=NAME)


def main() -> None:
    key = os.environ.get(KEY_VARIABLE)
    if len(sys.argv) != 2 or not key:
        sys.exit(f"usage: {KEY_VARIABLE}=... python -m examples.agent_chat.tokens USER")
    try:
        bearer(key)
        user_context(sys.argv[1])  # checks the id, and opens nothing until it is entered
    except RingfenceError as error:
        sys.exit(str(error))
    print(issue(key, sys.argv[1]))


if __name__ == "__main__":
    main()
