"""
`/agent/ws`: a chat over a WebSocket; each message has a scope and a session of its own.

A browser cannot send `Authorization` here: it offers the subprotocols `ringfence.bearer` and its
token, which `integrations.jwt` reads.
"""

from __future__ import annotations

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError

from ringfence import bound_stream
from ringfence.integrations.fastapi import each_message

from .agent import answer
from .problems import why
from .validation import ChatRequest

router = APIRouter()


@router.websocket("/agent/ws")
async def chat(websocket: WebSocket) -> None:
    async def handle(message: str | bytes) -> None:
        try:
            said = ChatRequest.model_validate_json(message)
        except ValidationError as error:
            await websocket.send_json({"refused": why(error.errors())})
            return
        async for token in bound_stream(answer(said, websocket.app.state.work)):
            await websocket.send_json({"token": token})
        await websocket.send_json({"done": said.run_id})

    await each_message(websocket, handle)
