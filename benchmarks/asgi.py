"""ASGI: what the middleware adds to one request, beside two that do less and one that does none."""

from __future__ import annotations

import asyncio
import importlib
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ringfence import Identity, Ringfence, current_context

from .cases import IDS, variable
from .honesty import Check
from .report import Row, spread_of
from .timing import Case, Samples

__all__ = ["asgi_cases", "asgi_check", "asgi_rows"]

OURS = "asgi-ringfence"
STARLETTE_CONTEXT = "asgi-starlette-context"
CORRELATION = "asgi-correlation"
TITLES = {
    OURS: "ringfence UserContextMiddleware",
    STARLETTE_CONTEXT: "starlette-context Raw, no plug-ins",
    CORRELATION: "asgi-correlation-id",
}

CLAIM = "the middleware opens a scope for each request, and says its id"

Message = dict[str, Any]
App = Callable[[Message, Any, Any], Awaitable[None]]

REQUEST: Message = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/chat",
    "raw_path": b"/chat",
    "root_path": "",
    "query_string": b"",
    "client": ("127.0.0.1", 51234),
    "server": ("127.0.0.1", 8000),
    "headers": [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"benchmark"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"authorization", b"Bearer 7f3a"),
        (b"cookie", b"theme=dark"),
    ],
}


async def trivial(scope: Message, receive: Any, send: Any) -> None:
    """The application: two messages, made anew each time, as middlewares write on them."""
    await send({
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain")],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": b"ok"})


async def receive() -> Message:
    """The request's body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Where answers end."""


class Passing:
    """Does nothing: the frame that any middleware adds."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Header(Passing):
    """Adds one response header, the least of it: `send` is wrapped."""

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", b"3f2b8f4e"))
            await send(message)

        await self.app(scope, receive, answer)


class Variable(Passing):
    """Sets a ContextVar and resets it."""

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        token = variable.set(None)
        try:
            await self.app(scope, receive, send)
        finally:
            variable.reset(token)


def _ringfence(app: App) -> App:
    middleware = importlib.import_module("ringfence.integrations.asgi").UserContextMiddleware
    identity = Identity(IDS["user_id"])

    def identify(connection: Any) -> Identity:
        return identity

    wrapped: App = middleware(app, fence=Ringfence(), identify=identify)
    return wrapped


def _starlette_context(app: App) -> App:
    wrapped: App = importlib.import_module("starlette_context.middleware").RawContextMiddleware(app)
    return wrapped


def _correlation(app: App) -> App:
    wrapped: App = importlib.import_module("asgi_correlation_id").CorrelationIdMiddleware(app)
    return wrapped


MAKERS = {OURS: _ringfence, STARLETTE_CONTEXT: _starlette_context, CORRELATION: _correlation}


def asgi_cases() -> tuple[list[Case], list[Row]]:
    """The cases, and a row for each middleware that is not here to be timed."""
    apps: dict[str, App] = {
        "asgi-app": trivial,
        "asgi-passing": Passing(trivial),
        "asgi-header": Header(trivial),
        "asgi-variable": Variable(trivial),
    }
    skipped = []
    for name, make in MAKERS.items():
        try:
            apps[name] = make(trivial)
        except ImportError as missing:
            skipped.append(Row(name=name, title=TITLES[name], verdict=f"skipped: {missing}"))
    cases = [
        Case(
            name=name,
            title=TITLES.get(name, name),
            statement="await app(dict(request), receive, send)",
            names={"app": app, "request": REQUEST, "receive": receive, "send": send},
            on_loop=True,
        )
        for name, app in apps.items()
    ]
    return cases, skipped


def asgi_check(cases: Sequence[Case]) -> list[Check]:
    """That our middleware, if it is here, opens a scope of its own for each request it serves."""
    ours = next((case for case in cases if case.name == OURS), None)
    if ours is None:
        return []
    request = dict(REQUEST)
    heads: list[bytes] = []

    async def answered(message: Message) -> None:
        ctx = current_context()
        if ctx.user_id != IDS["user_id"]:
            raise ValueError("the user is another")
        if message["type"] == "http.response.start":
            heads.append(dict(message["headers"])[b"x-request-id"])
            if heads[-1].decode() != ctx.request_id:
                raise ValueError("the response header is not the request id")

    try:
        asyncio.run(ours.loop(2, **{**ours.names, "request": request, "send": answered}))
        if len(set(heads)) != 2 or request != REQUEST:
            raise ValueError(f"two requests had {len(set(heads))} ids, or changed each other")
    except Exception as error:
        return [Check(CLAIM, f"{type(error).__name__}: {error}")]
    return [Check(CLAIM)]


def asgi_rows(samples: Samples) -> list[Row]:
    """What each adds to the bare application, and what ours is beside the others."""
    over = {
        name: [with_it - bare for with_it, bare in zip(taken, samples["asgi-app"], strict=True)]
        for name, taken in samples.items()
        if name.startswith("asgi-") and name != "asgi-app"
    }
    header = [
        with_it - without
        for with_it, without in zip(over["asgi-header"], over["asgi-passing"], strict=True)
    ]
    rows = [
        _row("asgi-header-alone", "one response header, alone", header, samples),
        _row("asgi-variable", "ContextVar set and reset", over["asgi-variable"], samples),
    ]
    for name in (STARLETTE_CONTEXT, CORRELATION, OURS):
        if name in over:
            rows.append(_row(name, TITLES[name], over[name], samples))
    if OURS in over and STARLETTE_CONTEXT in over:
        beside = [a + b for a, b in zip(over[STARLETTE_CONTEXT], header, strict=True)]
        rows.append(_beside("starlette-context + header", over[OURS], beside, samples, 1.0))
    if OURS in over and CORRELATION in over:
        rows.append(_beside("asgi-correlation-id", over[OURS], over[CORRELATION], samples, 0.5))
    return rows


def _row(name: str, title: str, over: list[float], samples: Samples) -> Row:
    ratios = [each / floor for each, floor in zip(over, samples["floor"], strict=True)]
    return Row(
        name=name,
        title=f"ASGI adds: {title}",
        ns=statistics.median(over),
        x_floor=statistics.median(ratios),
        spread=spread_of(ratios),
    )


def _beside(of: str, ours: list[float], theirs: list[float], samples: Samples, gate: float) -> Row:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Row(
        name=f"{OURS} / {of}",
        title=f"ASGI: ringfence / {of}",
        ns=statistics.median(ours),
        x_floor=statistics.median(a / b for a, b in zip(ours, samples["floor"], strict=True)),
        ratio=statistics.median(ratios),
        of=of,
        spread=spread_of(ratios),
        gate=gate,
    )
