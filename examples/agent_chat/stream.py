"""`POST /agent/stream`: the answer word by word, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from ringfence import bound_stream

from .agent import answer
from .validation import ChatRequest

router = APIRouter()


@router.post("/agent/stream", response_class=EventSourceResponse)
async def stream(said: ChatRequest, request: Request) -> AsyncIterator[ServerSentEvent]:
    """Events `token`, each with a word, and at last one `done`."""
    async for token in bound_stream(answer(said, request.app.state.work)):
        yield ServerSentEvent(event="token", data=token)
    yield ServerSentEvent(event="done", data={"run_id": said.run_id})
