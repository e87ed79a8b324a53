"""
How users of the agent chat behave, for `ringfence torture`; and the service, as it is attacked.

    ringfence torture examples.agent_chat.torture:create --server-option factory=true \\
        --scenario examples.agent_chat.torture --users 50 --requests 5000 --timeout 30
"""

from __future__ import annotations

import atexit
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import select

from ringfence import Settings
from ringfence.testing.torture import Request, WebSocket

from . import language_model
from .app import create_app
from .database import URL_VARIABLE, open_engine, sqlite_url
from .tables import Message, Note, Summary
from .tokens import KEY_VARIABLE, bearer, issue

PATIENCE = 30  # seconds: SQLite lets one write at a time, so a commit may wait for many others


def create() -> FastAPI:
    """The service, in the server's process; key and address come from the scenario's."""
    language_model.PACE = 0.001  # at its own, a summary of a thousand notes takes minutes
    settings = Settings(finaliser_timeout=PATIENCE)
    return create_app(os.environ[URL_VARIABLE], bearer(os.environ[KEY_VARIABLE]), settings=settings)


class Scenario:
    """Users who are named after their canaries, so that to be taken for another is found too."""

    def __init__(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="ringfence-torture-")
        atexit.register(folder.cleanup)
        os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(32))
        os.environ.setdefault(
            URL_VARIABLE, f"{sqlite_url(Path(folder.name) / 'chat.db')}?timeout={PATIENCE}"
        )
        self._numbers: dict[str, int] = {}

    async def login(self, n: int, canary: str) -> dict[str, str]:
        self._numbers[canary] = n
        return {"authorization": f"Bearer {issue(os.environ[KEY_VARIABLE], canary)}"}

    def requests(self, n: int, canary: str) -> Iterator[Request | WebSocket]:
        said = {"message": f"{canary} says", "thread_id": f"t-{canary}", "run_id": f"r-{canary}"}
        yield Request("POST", "/agent/chat", body=said, echoes=True)
        yield Request("GET", "/notes", echoes=True)
        yield Request("POST", "/agent/stream", body=said, echoes=True)
        yield Request("POST", "/notes/summary")
        yield Request("GET", "/notes/summary", expect=(200, 404))  # the job may not have ended
        yield WebSocket("/agent/ws", [said, said], until='"done"', echoes=True)

    async def rows(self) -> list[tuple[int, str]]:
        engine = open_engine(os.environ[URL_VARIABLE])
        try:
            async with engine.connect() as connection:
                return [
                    (self._numbers[owner], text)
                    for table in (Message, Note, Summary)
                    for owner, text in await connection.execute(select(table.user_id, table.text))
                ]
        finally:
            await engine.dispose()


scenario = Scenario
