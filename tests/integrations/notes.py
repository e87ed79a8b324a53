"""A small database of notes, for the tests of the SQLAlchemy integration."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import ForeignKey, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from ringfence import Ringfence, Settings
from ringfence.integrations.sqlalchemy import Database
from ringfence.testing.postgres import PostgresServer

DRIVERS = ("aiosqlite", "asyncpg", "psycopg")


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    notes: Mapped[list[Note]] = relationship(back_populates="author")


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(unique=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author | None] = relationship(back_populates="notes")


@functools.cache
def _template() -> bytes:
    """The database file, made once: a copy is far cheaper than the statements."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.db"
        engine = create_engine(f"sqlite:///{path}")
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            author = Author(id=1, name="ada")
            session.add_all([Note(id=1, body="one", author=author), Note(id=2, body="two")])
            session.commit()
        engine.dispose()
        return path.read_bytes()


@contextlib.asynccontextmanager
async def notes_engine(folder: Path, **options: Any) -> AsyncIterator[AsyncEngine]:
    """A file database with the tables, an author and two notes; a pool of 5 + 10."""
    path = folder / "notes.db"
    path.write_bytes(_template())
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def postgres_notes(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """The same in a PostgreSQL, whose tables of that name are replaced."""
    engine = create_async_engine(url, **options)
    try:
        async with engine.begin() as connection:
            # So that a transaction that a test has left open fails the next one, not hangs it.
            await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Author).values(id=1, name="ada"))
            notes = [{"body": "one", "author_id": 1}, {"body": "two", "author_id": None}]
            await connection.execute(insert(Note), notes)
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def notes_on(
    driver: str, server: Callable[[], PostgresServer], folder: Path, **options: Any
) -> AsyncIterator[AsyncEngine]:
    """The notes by one of `DRIVERS`; a server is asked for only if that is one of PostgreSQL's."""
    if driver == "aiosqlite":
        notes = notes_engine(folder, **options)
    else:
        notes = postgres_notes(server().url(driver), **options)
    async with notes as engine:
        yield engine


def fence_for(
    engine: AsyncEngine, *, settings: Settings | None = None, **options: Any
) -> Ringfence:
    database = Database(async_sessionmaker(engine), **options)
    return Ringfence(database=database, settings=settings)


async def bodies(engine: AsyncEngine) -> list[str]:
    """What is committed."""
    async with engine.connect() as connection:
        return list((await connection.scalars(select(Note.body).order_by(Note.id))).all())


def checked_out(engine: AsyncEngine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined]
