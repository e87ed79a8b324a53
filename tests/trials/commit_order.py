"""
A client that has seen 2xx finds its row, at once and by another connection.

    python -m tests.trials.commit_order --trials 1000

A real application behind `UserContextMiddleware`, on PostgreSQL. The client is whoever receives
what the server sends: as soon as `http.response.start` with 201 is there it looks for its row, over
a connection of its own, before the server may go on. The control is the same application with the
policy `commit_on_exit`, which commits after the response, as a session from a yield dependency
does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import attrs
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ringfence import Ringfence, current_context
from ringfence.integrations.asgi import UserContextMiddleware
from ringfence.integrations.sqlalchemy import Database
from ringfence.testing.postgres import postgres_server

from ..integrations.asgi_driver import identify, request
from ..integrations.notes import Note, postgres_notes


@attrs.define
class Report:
    """What clients saw."""

    trials: int = 0
    seen: int = 0
    missing: int = 0


async def create(request: Request) -> Response:
    session = current_context().db_session
    session.add(Note(body=request.query_params["body"]))
    return JSONResponse({}, 201)


async def create_or_409(request: Request) -> Response:
    session = current_context().db_session
    session.add(Note(body=request.query_params["body"] + ", before"))
    await session.flush()
    session.add(Note(body="one"))  # there is one
    try:
        await session.flush()
    except IntegrityError:
        return JSONResponse({"title": "There is one"}, 409)
    return JSONResponse({}, 201)


async def stream(request: Request) -> Response:
    async def lines() -> Any:
        session = current_context().db_session
        yield b"begun\n"
        session.add(Note(body=request.query_params["body"]))
        await session.flush()
        yield b"written\n"
        if "fail" in request.query_params:
            raise ValueError("the stream broke")

    return StreamingResponse(lines(), 200)


def application(engine: AsyncEngine, *, policy: Any = "commit_before_response") -> Any:
    """The application under test."""
    routes = [Route("/notes", create), Route("/409", create_or_409), Route("/stream", stream)]
    fence = Ringfence(database=Database(async_sessionmaker(engine), policy=policy))
    return UserContextMiddleware(Starlette(routes=routes), fence=fence, identify=identify)


async def is_there(connection: AsyncConnection, body: str) -> bool:
    """Whether another connection sees the row now."""
    async with connection.begin():
        found = await connection.scalar(select(Note.id).where(Note.body == body))
    return found is not None


async def _create(app: Any, connection: AsyncConnection, body: str, report: Report) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] != "http.response.start":
            return
        report.seen += 200 <= message["status"] < 300
        found = await is_there(connection, body)  # first: `+=` reads before it waits
        report.missing += not found

    scope = request("/notes", user="alice-1", query_string=f"body={body}".encode())
    await app(scope, receive, send)
    report.trials += 1


async def run(engine: AsyncEngine, trials: int, *, control: bool = False) -> Report:
    """That many clients, four at a time, each with a connection of its own."""
    report = Report()
    app = application(engine, policy="commit_on_exit" if control else "commit_before_response")
    numbers = iter(range(trials))
    name = "control" if control else "trial"

    async def client() -> None:
        async with engine.connect() as connection:
            for number in numbers:
                await asyncio.create_task(_create(app, connection, f"{name}-{number}", report))

    await asyncio.gather(*(client() for _ in range(4)))
    return report


def show(title: str, report: Report) -> None:
    """Print one report."""
    print(
        f"{title}: {report.trials} tries, {report.seen} clients saw 2xx, "
        f"{report.missing} of them did not find their row"
    )


async def _main(driver: str, url: str, trials: int) -> bool:
    async with postgres_notes(url, pool_size=10) as engine:
        held = await run(engine, trials)
        control = await run(engine, max(1, trials // 10), control=True)
    show(f"{driver}, commit_before_response", held)
    show(f"{driver}, control: commit_on_exit", control)
    return held.missing == 0 and held.seen == trials and control.missing > 0


def main() -> int:
    """Run by both drivers; 1 if a row was missing, or none was in the control."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    with postgres_server() as server:
        right = [
            asyncio.run(_main(driver, server.url(driver), trials))
            for driver in ("asyncpg", "psycopg")
        ]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
