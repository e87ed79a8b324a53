"""The database: SQLite in a file, or PostgreSQL, by nothing but its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .tables import Base

URL_VARIABLE = "RINGFENCE_EXAMPLE_DATABASE_URL"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def sqlite_url(file: Path) -> str:
    return URL.create("sqlite", database=str(file)).render_as_string()


def open_engine(url: str) -> AsyncEngine:
    """
    An engine for `url`, which need not name a driver.

    Raises:
        ArgumentError: it is no address of a database.
    """
    address = make_url(url)
    driver = DRIVERS.get(address.drivername, address.drivername)
    engine = create_async_engine(address.set(drivername=driver))
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    """A write-ahead log: who reads need not wait for who writes, nor each commit for the disk."""
    cursor = connection.cursor()
    cursor.execute("pragma journal_mode=wal")
    cursor.execute("pragma synchronous=normal")
    cursor.close()


async def create_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
