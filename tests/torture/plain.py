"""
An application that does not use ringfence: a context variable of its own, as many have.

Right as it is: the variable is set for each request, nobody's included. With `LEAKY=set_and_reset`
it is what everybody writes: set if there is a user, and reset.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from contextvars import ContextVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

IS_LEAKY = os.environ.get("LEAKY") == "set_and_reset"

current_user: ContextVar[str | None] = ContextVar("current_user", default=None)
notes_of: defaultdict[str, list[str]] = defaultdict(list)


class CurrentUser:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        user = HTTPConnection(scope).headers.get("authorization")
        if user is None and IS_LEAKY:
            await self.app(scope, receive, send)
            return
        token = current_user.set(user)
        try:
            await self.app(scope, receive, send)
        finally:
            current_user.reset(token)


async def notes(request: Request) -> Response:
    user = current_user.get()
    if user is None:
        return JSONResponse({"error": "who are you?"}, 401)
    if request.method == "POST":
        text = (await request.json())["text"]
        await asyncio.sleep(0.001)
        notes_of[user] = [*notes_of[user][-2:], text]
    return JSONResponse(notes_of[user])


app = Starlette(
    routes=[Route("/notes", notes, methods=["GET", "POST"])],
    middleware=[Middleware(CurrentUser)],
)
