"""
Users with passwords, in memory.

A real service asks an identity provider, and limits how often somebody may try.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

import anyio


@dataclass(frozen=True)
class User:
    user_id: str
    name: str  # whatever they call themselves: to be shown as text
    password: str = field(repr=False)


class Users:
    def __init__(self, *users: User) -> None:
        self._salt = secrets.token_bytes(16)
        self._users = {user.user_id: user for user in users}
        self._digests = {user.user_id: self._digest(user.password) for user in users}
        self._nobodys = secrets.token_bytes(64)
        self._one_at_a_time = anyio.CapacityLimiter(1)  # a digest takes a while, and memory

    async def find(self, user_id: str, password: str) -> User | None:
        """The user, if that is the password. It takes as long if there is no such user."""
        found = await anyio.to_thread.run_sync(self._digest, password, limiter=self._one_at_a_time)
        expected = self._digests.get(user_id, self._nobodys)
        return self._users.get(user_id) if hmac.compare_digest(found, expected) else None

    def _digest(self, password: str) -> bytes:
        return hashlib.scrypt(password.encode(), salt=self._salt, n=2**14, r=8, p=1)


def demo_users() -> list[User]:
    """Two, with passwords that nobody knows yet."""
    return [User(name.lower(), name, secrets.token_urlsafe(9)) for name in ("Ann", "Bob")]
