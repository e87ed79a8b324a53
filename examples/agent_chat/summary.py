"""`/notes/summary`: a job that outlives its request, and what came of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from ringfence import current_context
from ringfence.integrations.fastapi import CurrentContext, ScopedSession

from .agent import converse
from .chat import own_notes
from .tables import Summary

router = APIRouter()


class Accepted(BaseModel):
    job: str  # the request id that its rows and log lines have


class SummaryShown(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    request_id: str
    text: str


@router.post("/notes/summary", status_code=202)
async def start(request: Request) -> Accepted:
    """Answered at once; the job has a scope and a session of its own, and ends when it ends."""
    job = request.app.state.fence.detach(summarise_notes)
    return Accepted(job=job.request_id)


@router.get("/notes/summary", response_model=SummaryShown)
async def latest(ctx: CurrentContext, session: ScopedSession) -> Any:
    own = select(Summary).where(Summary.user_id == ctx.user_id).order_by(Summary.id.desc())
    found = await session.scalar(own.limit(1))
    if found is None:
        raise HTTPException(404, "There is no summary yet.")
    return found


async def summarise_notes() -> None:
    ctx = current_context()
    notes = await own_notes()
    await ctx.db_session.commit()  # gives the connection back while the model thinks
    conversation = await converse()
    prompt = " ".join(note.text for note in notes)
    text = " ".join([word async for word in conversation.say(prompt)])
    ctx.db_session.add(Summary(user_id=ctx.user_id, request_id=ctx.request_id, text=text))
