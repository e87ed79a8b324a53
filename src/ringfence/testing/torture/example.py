"""A small application behind ringfence, which the template of a scenario runs against."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from ... import Identity, Ringfence, current_context
from ...integrations.asgi import Connection, UserContextMiddleware

NOTES: defaultdict[str, list[str]] = defaultdict(list)
MOST = 20


async def _notes(scope: Any, receive: Any, send: Any) -> None:
    """Notes, each user's own; it asks the context whose."""
    if scope["type"] == "websocket":
        await _websocket(receive, send)
        return
    own = NOTES[current_context().user_id]
    if scope["path"] == "/notes" and scope["method"] == "POST":
        own.append(json.loads(await _body(receive))["text"])
        del own[:-MOST]
        await _respond(send, 201, [json.dumps(own[-1])])
    elif scope["path"] == "/notes":
        await _respond(send, 200, [json.dumps(own)])
    elif scope["path"] == "/stream":
        await _respond(send, 200, [f"{note}\n" for note in own])
    else:
        await _respond(send, 404, ["there is no such note"])


async def _websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        for text in (message["text"], *NOTES[current_context().user_id], "done"):
            await send({"type": "websocket.send", "text": text})


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _respond(send: Any, status: int, pieces: list[str]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    for piece in pieces:
        body = piece.encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})


def _identify(connection: Connection) -> Identity | None:
    """Whoever says so: for this example only."""
    scheme, _, user = connection.headers.get("authorization", "").partition(" ")
    return Identity(user) if scheme == "Bearer" and user else None


app = UserContextMiddleware(_notes, fence=Ringfence(), identify=_identify)
