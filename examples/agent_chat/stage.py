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

from sqlalchemy import Pool

from ringfence.isolation import registry
from ringfence.state import open_roots

from . import screen
from .tokens import issue

USERS = ("ann", "bob")
PATIENCE = 5  # seconds


class Failed(Exception):
    """A step did not show what it claims."""


def require(truth: object, cause: str) -> None:
    if not truth:
        raise Failed(cause)


class Stage:
    """A database, and two users with tokens."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.key = secrets.token_hex(32)
        self.tokens = {user: issue(self.key, user) for user in USERS}

    def said(self, user: str, run: str, words: int) -> dict[str, str]:
        """A chat request of so many words, each of which tells whose it is."""
        message = " ".join([f"{user}-secret"] * words)
        return {"message": message, "thread_id": f"{user}-chat", "run_id": run}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()


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


def left(pool: Pool) -> Left:
    connections: int = pool.checkedout()  # type: ignore[attr-defined]
    return Left(len(open_roots()), len(registry), connections)


async def left_soon(pool: Pool, expected: Left) -> Left:
    """What is left, a moment later: a client has its answer before the scope has ended."""
    for _ in range(100):
        if left(pool) == expected:
            break
        await asyncio.sleep(0.01)
    return left(pool)


async def nothing_left(pool: Pool) -> None:
    found = await left_soon(pool, Left(0, 0, 0))
    screen.title("end", str(found))
    require(found == Left(0, 0, 0), f"something is left: {found}")
