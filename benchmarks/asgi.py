"""ASGI: what the middleware adds to one request, beside two that do less and one that does none."""

from __future__ import annotations

import asyncio
import importlib
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from ringfence import Identity, Ringfence, current_context

from .cases import IDS, variable
from .honesty import Check
from .report import Row, row_of, spread_of
from .timing import Case, Samples

__all__ = ["asgi_cases", "asgi_check", "asgi_rows", "ringfence_around"]

OURS = "asgi-ringfence"
STARLETTE_CONTEXT = "asgi-starlette-context"
CORRELATION = "asgi-correlation"
FASTAPI = "asgi-fastapi"
FASTAPI_WITHOUT = "asgi-fastapi-without"
BESIDE_STARLETTE_CONTEXT = 1.75
BESIDE_CORRELATION = 0.85
"""Gates: what no change may make worse. What we would like is 1.0 and 0.5."""
TITLES = {
    OURS: "ringfence UserContextMiddleware",
    STARLETTE_CONTEXT: "starlette-context Raw, no plug-ins",
    CORRELATION: "asgi-correlation-id",
    FASTAPI: "FastAPI, a route that reads its context",
    FASTAPI_WITHOUT: "FastAPI, the same without ringfence",
}

CLAIM = "the middleware opens a scope for each request, and says its id"

FASTAPI_CLAIM = "the FastAPI route answers with who asks"

Message = dict[str, Any]
App = Callable[[Message, Any, Any], Awaitable[None]]

REQUEST: Message = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn has it
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


def ringfence_around(app: App) -> App:
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


def _fastapi(is_fenced: bool) -> App:
    """A route that says who asks; without ringfence, by a dependency as light as can be."""
    fastapi = importlib.import_module("fastapi")
    app: Any = fastapi.FastAPI(openapi_url=None)

    async def whoami(user: Any) -> str:
        return str(user.user_id)

    async def identity() -> Identity:
        return Identity(IDS["user_id"])

    user: Any = Annotated[Identity, fastapi.Depends(identity)]
    if is_fenced:
        user = importlib.import_module("ringfence.integrations.fastapi").CurrentContext
    whoami.__annotations__ = {"user": user, "return": str}
    app.get("/chat")(whoami)
    return ringfence_around(app) if is_fenced else app


MAKERS: dict[str, Callable[[], App]] = {
    OURS: lambda: ringfence_around(trivial),
    STARLETTE_CONTEXT: lambda: _starlette_context(trivial),
    CORRELATION: lambda: _correlation(trivial),
    FASTAPI: lambda: _fastapi(True),
    FASTAPI_WITHOUT: lambda: _fastapi(False),
}


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
            apps[name] = make()
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
    """That our middleware opens a scope for each request, and that FastAPI says who asks."""
    by_name = {case.name: case for case in cases}
    made = []
    for claim, check, names in (
        (CLAIM, _opens_a_scope, (OURS,)),
        (FASTAPI_CLAIM, _says_who_asks, (FASTAPI, FASTAPI_WITHOUT)),
    ):
        for name in names:
            if name in by_name:
                try:
                    check(by_name[name])
                except Exception as error:
                    made.append(Check(claim, f"{type(error).__name__}: {error}"))
                else:
                    made.append(Check(claim))
    return made


def _opens_a_scope(ours: Case) -> None:
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

    asyncio.run(ours.loop(2, **{**ours.names, "request": request, "send": answered}))
    if len(set(heads)) != 2 or request != REQUEST:
        raise ValueError(f"two requests had {len(set(heads))} ids, or changed each other")


def _says_who_asks(case: Case) -> None:
    said: list[Any] = []

    async def answered(message: Message) -> None:
        said.append(message.get("status", message.get("body")))

    asyncio.run(case.loop(1, **{**case.names, "request": dict(REQUEST), "send": answered}))
    if said != [200, f'"{IDS["user_id"]}"'.encode()]:
        raise ValueError(f"it said {said}")


def asgi_rows(samples: Samples, *, is_judged: bool) -> list[Row]:
    """What each adds to the bare application, and what ours is beside the others."""
    over = {
        name: [with_it - bare for with_it, bare in zip(taken, samples["asgi-app"], strict=True)]
        for name, taken in samples.items()
        if name.startswith("asgi-") and name not in ("asgi-app", FASTAPI, FASTAPI_WITHOUT)
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
        of, gate = "starlette-context + header", BESIDE_STARLETTE_CONTEXT
        rows.append(_beside(of, over[OURS], beside, samples, gate, 1.0, is_judged))
    if OURS in over and CORRELATION in over:
        of, gate = "asgi-correlation-id", BESIDE_CORRELATION
        rows.append(_beside(of, over[OURS], over[CORRELATION], samples, gate, 0.5, is_judged))
    if FASTAPI in samples and FASTAPI_WITHOUT in samples:
        rows.append(_end_to_end(samples))
    return rows


def _end_to_end(samples: Samples) -> Row:
    case = Case(name=FASTAPI, title=TITLES[FASTAPI], statement="pass", of=FASTAPI_WITHOUT)
    return row_of(case, samples, is_judged=False)


def _row(name: str, title: str, over: list[float], samples: Samples) -> Row:
    ratios = [each / floor for each, floor in zip(over, samples["floor"], strict=True)]
    return Row(
        name=name,
        title=f"ASGI adds: {title}",
        ns=statistics.median(over),
        x_floor=statistics.median(ratios),
        spread=spread_of(ratios),
    )


def _beside(
    of: str,
    ours: list[float],
    theirs: list[float],
    samples: Samples,
    gate: float,
    stretch: float,
    is_judged: bool,
) -> Row:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return Row(
        name=f"{OURS} / {of}",
        title=f"ASGI: ringfence / {of}",
        ns=statistics.median(ours),
        x_floor=statistics.median(a / b for a, b in zip(ours, samples["floor"], strict=True)),
        ratio=ratio,
        of=of,
        spread=spread_of(ratios),
        gate=gate,
        stretch=stretch,
        verdict=("ok" if ratio <= gate else "FAIL") if is_judged else "info",
    )
