"""The middleware that everybody writes: set the user on the way in, reset it on the way out."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ringfence.integrations.jwt import BearerToken

current_user: ContextVar[str | None] = ContextVar("current_user", default=None)


class NaiveMiddleware:
    def __init__(self, app: ASGIApp, identify: BearerToken) -> None:
        self.app = app
        self.identify = identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = None
        if scope["type"] == "http":
            identity = self.identify(HTTPConnection(scope))
        if identity is None:
            await self.app(scope, receive, send)
            return
        token = current_user.set(identity.user_id)
        try:
            await self.app(scope, receive, send)
        finally:
            current_user.reset(token)


async def notes(request: Request) -> Response:
    user = current_user.get()
    if user is None:
        return JSONResponse({"error": "who are you?"}, 401)
    return JSONResponse({"user": user})


def create_naive_app(identify: BearerToken) -> Starlette:
    middleware = [Middleware(NaiveMiddleware, identify=identify)]
    return Starlette(routes=[Route("/notes", notes)], middleware=middleware)
