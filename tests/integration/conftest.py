"""The notes by each driver, and the tables under row-level security by those of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ringfence.testing.postgres import PostgresServer

from ..integrations.notes import DRIVERS, checked_out, notes_on
from .row_security import Databases, databases


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine_options() -> dict[str, int]:
    return {}


@pytest.fixture
async def engine(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path, engine_options: dict[str, int]
) -> AsyncIterator[AsyncEngine]:
    def server() -> PostgresServer:
        return request.getfixturevalue("postgres")

    async with notes_on(driver, server, tmp_path, **engine_options) as engine:
        yield engine
        assert checked_out(engine) == 0


@pytest.fixture(params=["asyncpg", "psycopg"])
async def db(request: pytest.FixtureRequest, postgres: PostgresServer) -> AsyncIterator[Databases]:
    async with databases(postgres, request.param) as all_of_it:
        yield all_of_it
