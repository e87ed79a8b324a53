"""What a chat request may be. Everything else is refused with a clear 4xx."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringfence import Settings

MAX_BODY = 16 * 1024  # bytes, of a WebSocket message too
MAX_MESSAGE = 2_000  # characters
RULES = Settings.from_env().id_rules  # the fence's own: what passes here may name a thread


def not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    return text


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: Annotated[str, StringConstraints(max_length=MAX_MESSAGE), AfterValidator(not_blank)]
    thread_id: Annotated[str, AfterValidator(partial(RULES.check, "thread_id"))]
    run_id: Annotated[str, AfterValidator(partial(RULES.check, "run_id"))]


class BodyLimit:
    """No more of a body than may be: the limit holds before anything is parsed."""

    def __init__(self, app: ASGIApp, max_size: int) -> None:
        self.app = app
        self.max_size = max_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_size:
                raise HTTPException(413, f"The body is larger than {self.max_size} bytes.")
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)
