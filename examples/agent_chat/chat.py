"""`POST /agent/chat`: a question answered as JSON; and what was said and noted so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from ringfence import current_context
from ringfence.integrations.fastapi import CurrentContext

from . import agent
from .operations import Operation
from .tables import Message, Note
from .tools import ToolFailed
from .validation import ChatRequest

router = APIRouter()

MOST_MESSAGES = 100


class NoteShown(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    run_id: str
    tool: str
    text: str


class MessageShown(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    thread_id: str
    run_id: str
    text: str
    answer: str | None


class ChatAnswer(BaseModel):
    user_id: str
    thread_id: str
    run_id: str
    answer: str
    operations: Operation
    notes: list[NoteShown]


@router.post("/agent/chat", response_model=ChatAnswer)
async def chat(said: ChatRequest, root: CurrentContext, request: Request) -> Any:
    """Keep the user's message, then let the agent's tools work on it."""
    try:
        plan, answer = await agent.run(said, request.app.state.work)
    except (ToolFailed, ExceptionGroup) as error:
        if not is_of_tool(error):
            raise
        raise HTTPException(502, "A tool failed.") from error
    return {
        "user_id": root.user_id,
        "thread_id": said.thread_id,
        "run_id": said.run_id,
        "answer": answer,
        "operations": Operation("request", root.request_id, root.operation_depth, [plan]),
        "notes": await own_notes(Note.run_id == said.run_id),
    }


def is_of_tool(error: Exception) -> bool:
    """Alone, or in a group: tools run at the same time."""
    if isinstance(error, ExceptionGroup):
        return error.split(ToolFailed)[1] is None
    return isinstance(error, ToolFailed)


@router.get("/agent/messages", response_model=list[MessageShown])
async def messages() -> Any:
    """The latest, oldest first: what a client loads that missed more than it can be told."""
    ctx = current_context()
    own = select(Message).where(Message.user_id == ctx.user_id).order_by(Message.id.desc())
    return list(reversed((await ctx.db_session.scalars(own.limit(MOST_MESSAGES))).all()))


@router.get("/notes", response_model=list[NoteShown])
async def notes() -> Any:
    return await own_notes()


async def own_notes(*which: Any) -> Sequence[Note]:
    """The current user's notes, oldest first."""
    ctx = current_context()
    own = select(Note).where(Note.user_id == ctx.user_id, *which).order_by(Note.id)
    return (await ctx.db_session.scalars(own)).all()
