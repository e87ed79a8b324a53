"""What the users of `leaky.py` do; each is named after their canary, so that a name is a find."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator

from ringfence.testing.torture import Request, WebSocket


class Scenario:
    async def login(self, n: int, canary: str) -> dict[str, str]:
        return {"authorization": f"Bearer {canary}"}

    def requests(self, n: int, canary: str) -> Iterator[Request | WebSocket]:
        yield Request("POST", "/notes", body={"text": f"note of {canary}"})
        yield Request("GET", "/notes")
        yield Request("GET", "/me", echoes=True)
        yield Request("GET", "/whoami", echoes=True)
        yield Request("GET", "/stream")
        yield Request("POST", "/jobs", body={"text": f"job of {canary}"})
        yield WebSocket("/ws", [f"hello from {canary}"])

    def rows(self) -> Iterator[tuple[int, str]]:
        connection = sqlite3.connect(os.environ["LEAKY_DATABASE"])
        try:
            for owner, text in connection.execute("select user_id, text from notes"):
                yield number_of(owner), text
        finally:
            connection.close()


def number_of(canary: str) -> int:
    found = re.match(r"canary(\d{6})x", canary)
    return int(found[1]) if found else -1


scenario = Scenario()
