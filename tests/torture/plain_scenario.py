"""What the users of `plain.py` do; a module can be a scenario too."""

from __future__ import annotations

from collections.abc import Iterator

from ringfence.testing.torture import Request


async def login(n: int) -> dict[str, str]:
    return {"authorization": f"user-{n}"}


def requests(n: int, canary: str) -> Iterator[Request]:
    yield Request("POST", "/notes", body={"text": canary}, echoes=True)
    yield Request("GET", "/notes", echoes=True)
