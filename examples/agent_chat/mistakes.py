"""
Two mistakes that a review does not see, as routes of the service. Each says what came of it.

    GET  /mistakes/agent   an agent made once per process keeps its first user's session
    POST /mistakes/task    a task goes on after its request has ended
    POST /mistakes/detach  the same work, done right
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ringfence import RequestScope, RingfenceError, current_context, current_scope

from .tables import Note
from .tools import write_note


class NotesAgent:
    """Fine, if there were one for each request."""

    def __init__(self, session: AsyncSession, user_id: str) -> None:
        self.session = session
        self.user_id = user_id

    async def texts(self) -> list[str]:
        own = select(Note.text).where(Note.user_id == self.user_id)
        return list(await self.session.scalars(own))


class Mistakes:
    def __init__(self) -> None:
        self._agent: NotesAgent | None = None
        self.is_kept = asyncio.Event()
        self.second_user_came = asyncio.Event()
        self.late_work: list[Awaitable[None]] = []  # so that the demo can see how it ends
        self.router = APIRouter(prefix="/mistakes")
        self.router.add_api_route("/agent", self.agent)
        self.router.add_api_route("/task", self.task, methods=["POST"])
        self.router.add_api_route("/detach", self.detach, methods=["POST"])

    async def agent(self) -> Response:
        if self._agent is not None:
            self.second_user_came.set()
            return await answer_with(self._agent)
        ctx = current_context()
        self._agent = NotesAgent(ctx.db_session, ctx.user_id)  # kept for all: the mistake
        answer = await answer_with(self._agent)
        self.is_kept.set()
        await asyncio.wait_for(self.second_user_came.wait(), 5)  # this request goes on meanwhile
        return answer

    async def task(self) -> Response:
        self.late_work.append(asyncio.create_task(slow_work("task", current_scope())))
        return JSONResponse({"status": "accepted"}, 202)

    async def detach(self, request: Request) -> Response:
        work = request.app.state.fence.detach(slow_work, "detach", current_scope())
        self.late_work.append(work.wait())
        return JSONResponse({"status": "accepted"}, 202)


async def answer_with(agent: NotesAgent) -> Response:
    try:
        return JSONResponse({"texts": await agent.texts()})
    except RingfenceError as error:
        return JSONResponse({"error": type(error).__name__, "message": str(error)}, 500)


async def slow_work(name: str, asked_in: RequestScope) -> None:
    """Writes its note when the request that asked for it has long been answered."""
    while asked_in.state != "closed":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    write_note(name, "written late")
