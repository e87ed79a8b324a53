"""
What all steps of the demo share. A step can fail: what it claims is checked.

The checks go by what was sent and by the rows as SQLite has them, not by what ringfence says.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from ringfence import Settings
from ringfence.isolation import registry
from ringfence.state import open_roots

from .app import create_app
from .database import sqlite_url
from .tokens import bearer, issue

USERS = ("ann", "bob")
PATIENCE = 5  # seconds


class Failed(Exception):
    """A step did not show what it claims."""


def require(truth: object, cause: str) -> None:
    if not truth:
        raise Failed(cause)


@dataclass(frozen=True)
class Left:
    """What is open at this moment."""

    scopes: int
    registry: int
    connections: int

    def __str__(self) -> str:
        return (
            f"open scopes {self.scopes}, registry {self.registry}, "
            f"connections checked out {self.connections}"
        )


class Stage:
    """The service, with a database for each step that asks for one, and two users with tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = secrets.token_hex(32)
        self.identify = bearer(self.key)
        self.tokens = {user: issue(self.key, user) for user in USERS}
        self._pools: list[Any] = []

    def app(self, name: str, *more: APIRouter, settings: Settings | None = None) -> FastAPI:
        """The service anew."""
        self.database = self.folder / f"{name}.db"
        url = sqlite_url(self.database)
        app = create_app(url, self.identify, *more, settings=settings)
        self._pools.append(app.state.engine.pool)  # a disposed engine has another
        return app

    def said(self, user: str, run: str, words: int) -> dict[str, str]:
        """A chat request of so many words, each of which tells whose it is."""
        message = " ".join([f"{user}-secret"] * words)
        return {"message": message, "thread_id": f"{user}-chat", "run_id": run}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def left(self) -> Left:
        connections = sum(pool.checkedout() for pool in self._pools)
        return Left(len(open_roots()), len(registry), connections)

    async def nothing_left(self) -> Left:
        """A client has its answer a moment before the scope ends: wait for that."""
        nothing = Left(0, 0, 0)
        for _ in range(50):
            if self.left() == nothing:
                break
            await asyncio.sleep(0.01)
        require(self.left() == nothing, f"something is left: {self.left()}")
        return self.left()
