"""What the body of a chat request may be. Everything else is refused with a clear 4xx."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY = 16 * 1024  # bytes
MAX_MESSAGE = 2_000  # characters
FIELDS = ("message", "thread_id", "run_id")
NAMES = ", ".join(f"`{name}`" for name in FIELDS)


@dataclass(frozen=True)
class ChatRequest:
    message: str
    thread_id: str
    run_id: str


async def read_chat_request(request: Request) -> ChatRequest:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "Send JSON, with `content-type: application/json`.")
    values = _parse(await _read(request))
    unknown = sorted(values.keys() - set(FIELDS))
    if unknown:
        raise HTTPException(422, f"There is no field `{unknown[0][:40]}`; there are {NAMES}.")
    for name in FIELDS:
        if not isinstance(values.get(name), str):
            raise HTTPException(422, f"`{name}` is missing or no text.")
    chat = ChatRequest(**values)
    if not chat.message.strip():
        raise HTTPException(422, "`message` is blank.")
    if len(chat.message) > MAX_MESSAGE:
        raise HTTPException(422, f"`message` is longer than {MAX_MESSAGE} characters.")
    return chat  # what ids may be, ringfence knows: `child_context` checks them


async def _read(request: Request) -> bytes:
    """The body, but no more of it than may be: the limit holds before anything is parsed."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"The body is larger than {MAX_BODY} bytes.")
    return body


def _parse(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body.decode())
        json.dumps(values, ensure_ascii=False).encode()  # an escape may be half a character
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deep
        raise HTTPException(400, "The body is not JSON in UTF-8.") from None
    if not isinstance(values, dict):
        raise HTTPException(422, "The body must be a JSON object.")
    return values
