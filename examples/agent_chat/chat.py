"""`POST /agent/chat` and `GET /notes`: a question answered as JSON, and what the tools noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from ringfence import child_context, current_context
from ringfence.integrations.fastapi import CurrentContext

from . import agent, planner
from .planner import Operation
from .tables import Note
from .validation import ChatRequest

router = APIRouter()


class NoteShown(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    run_id: str
    tool: str
    text: str


class ChatAnswer(BaseModel):
    user_id: str
    thread_id: str
    run_id: str
    operations: Operation
    notes: list[NoteShown]


@router.post("/agent/chat", response_model=ChatAnswer)
async def chat(said: ChatRequest, root: CurrentContext) -> Any:
    """Keep the user's message, then let the agent's tools work on it."""
    # Thread and run come in the body, so they are known only now: a child may name them.
    async with child_context("chat", thread_id=said.thread_id, run_id=said.run_id):
        await agent.keep(said)
        plan = await planner.run(said.message)
    return {
        "user_id": root.user_id,
        "thread_id": said.thread_id,
        "run_id": said.run_id,
        "operations": Operation("request", root.request_id, root.operation_depth, [plan]),
        "notes": await own_notes(Note.run_id == said.run_id),
    }


@router.get("/notes", response_model=list[NoteShown])
async def notes() -> Any:
    return await own_notes()


async def own_notes(*which: Any) -> Sequence[Note]:
    """The current user's notes, oldest first."""
    ctx = current_context()
    own = select(Note).where(Note.user_id == ctx.user_id, *which).order_by(Note.id)
    return (await ctx.db_session.scalars(own)).all()
