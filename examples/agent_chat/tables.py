"""Three tables: questions and answers, what the agent noted, and summaries of the notes."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    thread_id: Mapped[str]
    run_id: Mapped[str]
    text: Mapped[str]
    answer: Mapped[str | None]


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    run_id: Mapped[str]
    request_id: Mapped[str]  # of the operation that wrote it
    tool: Mapped[str]
    text: Mapped[str]


class Summary(Base):
    __tablename__ = "summaries"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    request_id: Mapped[str]  # of the job that wrote it
    text: Mapped[str]
