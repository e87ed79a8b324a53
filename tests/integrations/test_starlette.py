"""In Starlette applications: its connection, its handlers, and BaseHTTPMiddleware on both sides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ringfence import (
    ConfigurationError,
    Identity,
    NoContextError,
    OwnershipError,
    counters,
    current_context,
    current_scope,
)
from ringfence.integrations.starlette import (
    AuthenticatedUser,
    UserContextMiddleware,
    exception_handlers,
)

from .asgi_driver import FENCE, call, ok


async def identify(connection: HTTPConnection) -> Identity | None:
    await anyio.sleep(0)
    user = connection.headers.get("x-user")
    return None if user is None else Identity(user)


async def whoami(request: Request) -> Response:
    await anyio.sleep(0)
    return PlainTextResponse(current_context().user_id)


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        for _ in range(3):
            await anyio.sleep(0)
            yield f"{current_context().user_id} "

    return StreamingResponse(chunks())


async def background(request: Request) -> Response:
    def later() -> None:
        request.app.state.ran.append(current_context().user_id)

    return PlainTextResponse("ok", background=BackgroundTask(later))


async def cross(request: Request) -> Response:
    raise OwnershipError("Object of user `bob-22`.")


async def forbidden(request: Request) -> Response:
    raise HTTPException(403)


async def unbound(request: Request) -> Response:
    raise NoContextError("No scope is open here.")


async def broken(request: Request) -> Response:
    raise ValueError("mine")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    raise OwnershipError("Object of user `bob-22`.")


class Through(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


ROUTES = [
    Route("/", whoami),
    Route("/stream", stream),
    Route("/background", background),
    Route("/cross", cross),
    Route("/forbidden", forbidden),
    Route("/unbound", unbound),
    Route("/broken", broken),
    WebSocketRoute("/talk", talk),
]


def application(
    before: tuple[Middleware, ...] = (),
    after: tuple[Middleware, ...] = (),
    routes: Any = ROUTES,
    options: dict[str, Any] | None = None,
    **starlette: Any,
) -> Starlette:
    ours = Middleware(
        UserContextMiddleware, **{"fence": FENCE, "identify": identify, **(options or {})}
    )
    app = Starlette(routes=routes, middleware=[*before, ours, *after], **starlette)
    app.state.ran = []
    return app


THROUGH = (Middleware(Through),)


@pytest.mark.parametrize("before", [(), THROUGH], ids=["", "within"])
@pytest.mark.parametrize("after", [(), THROUGH], ids=["", "around"])
async def test_the_user_is_right_wherever_base_http_middleware_stands(
    before: tuple[Middleware, ...], after: tuple[Middleware, ...]
) -> None:
    app = application(before, after)
    answers: dict[str, list[bytes]] = {}

    async def client(user: str) -> None:
        answers[user] = [(await ok(app, path, user=user)).body for path in ("/", "/stream")]
        assert (await ok(app, "/background", user=user)).status == 200

    users = [f"user-{number}" for number in range(20)]
    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(client, user)
    expected = {user: [user.encode(), f"{user} ".encode() * 3] for user in users}
    assert answers == expected
    assert sorted(app.state.ran) == sorted(users)
    assert counters.value("inherited_scope.open") == 0
    assert counters.value("request.completed") == 60


async def test_identify_gets_starlette_s_connection() -> None:
    def look(connection: HTTPConnection) -> Identity:
        assert isinstance(connection, HTTPConnection)
        assert connection.url.path == "/"
        assert connection.cookies == {"a": "1"}
        return Identity("alice-1")

    answer = await ok(application(options={"identify": look}), headers=[("cookie", "a=1")])
    assert answer.body == b"alice-1"


async def test_errors_are_answered() -> None:
    app = application()
    assert (await ok(app)).status == 401
    assert (await ok(app, "/forbidden", user="alice-1")).status == 403
    crossed = await ok(app, "/cross", user="alice-1")
    assert crossed.problem["type"] == "urn:ringfence:error:RF202"
    assert b"bob" not in crossed.body
    answer = await call(app, "/broken", user="alice-1")  # Starlette's own handler saw it
    assert isinstance(answer.error, ValueError)
    assert (answer.status, answer.body) == (500, b"Internal Server Error")


async def test_as_handlers_their_answers_pass_the_middlewares_between() -> None:
    cors = (Middleware(CORSMiddleware, allow_origins=["https://a.example"]),)
    app = application(after=cors, exception_handlers=exception_handlers)
    answer = await ok(app, "/cross", user="alice-1", headers=[("origin", "https://a.example")])
    assert answer.status == 500
    assert answer.problem["type"] == "urn:ringfence:error:RF202"
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert answer.headers["x-request-id"] == answer.scope["ringfence"].request_id
    fault = await ok(app, "/unbound", user="alice-1")
    assert fault.status == 500
    open_app = application(options={"required": False}, exception_handlers=exception_handlers)
    assert (await ok(open_app, "/unbound")).status == 401


async def test_as_handlers_they_close_websockets() -> None:
    app = application(exception_handlers=exception_handlers)
    answer = await ok(app, "/talk", type="websocket", user="alice-1")
    accept, close = answer.messages
    assert accept["type"] == "websocket.accept"
    assert (close["code"], close["reason"]) == (1011, "Internal Server Error")


async def test_cors_may_stand_outside() -> None:
    cors = (Middleware(CORSMiddleware, allow_origins=["https://a.example"]),)
    answer = await ok(application(cors), headers=[("origin", "https://a.example")])
    assert answer.status == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


async def test_mounted_twice() -> None:
    inner = application(options={"exclude": ("/open",)}, routes=[
        Route("/", whoami), Route("/open", lambda request: PlainTextResponse(
            str(current_scope().has_user))),
    ])  # fmt: skip
    app = application(routes=[Mount("/in", inner)], options={"exclude": ("/in/",)})
    assert (await ok(app, "/in/", user="alice-1")).body == b"alice-1"
    assert (await ok(app, "/in/")).status == 401
    assert (await ok(app, "/in/open")).body == b"False"


def test_without_starlette_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "try: import ringfence.integrations.starlette\n"
        "except ImportError as error: print(error)\n"
        "sys.modules['joserfc'] = None\n"
        "try: import ringfence.integrations.jwt\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert 'pip install "ringfence[starlette]"' in first
    assert 'pip install "ringfence[jwt]"' in second


# --- AuthenticationMiddleware -----------------------------------------------------------------


class Account(SimpleUser):
    """A user as an application would write it."""

    @property
    def identity(self) -> str:
        return f"id-{self.username}"


class Backend(AuthenticationBackend):
    """For tests only: a plain header is no identity."""

    def __init__(self, kind: type[Any] = Account) -> None:
        self.kind = kind

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user = conn.headers.get("x-user")
        return None if user is None else (AuthCredentials(["read", "write"]), self.kind(user))


def authenticated(kind: type[Any] = Account, required: bool = True, **options: Any) -> Starlette:
    before = (Middleware(AuthenticationMiddleware, backend=Backend(kind)),)
    identify = AuthenticatedUser(**options)
    return application(before, options={"identify": identify, "required": required})


async def test_what_the_authentication_middleware_found_is_taken_over() -> None:
    app = authenticated()
    answer = await ok(app, user="alice-1")
    assert answer.body == b"id-alice-1"
    assert (await ok(app)).status == 401
    claimed: list[Any] = []

    def claims(request: Request) -> Response:
        claimed.append((current_scope().claims, current_context().tenant_id))
        return PlainTextResponse("ok")

    app = authenticated(user_id=lambda user: user.username, tenant_id=lambda user: "acme")
    app.router.routes.insert(0, Route("/claims", claims))
    assert (await ok(app, user="alice-1")).body == b"alice-1"
    await ok(app, "/claims", user="alice-1")
    assert claimed == [({"scopes": ("read", "write")}, "acme")]


class NotYet(Account):
    is_authenticated = False  # type: ignore[assignment]


class Method(Account):
    def is_authenticated(self) -> bool:  # type: ignore[override]
        return False


class Blank(Account):
    identity = ""  # type: ignore[assignment]


class Number(Account):
    identity = 17  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [NotYet, Method, Blank, Number])
async def test_who_is_not_authenticated_is_nobody(kind: type[Any]) -> None:
    assert (await ok(authenticated(kind), user="alice-1")).status == 401
    assert (await call(authenticated(kind, required=False), user="alice-1")).status != 200


class Nameless(BaseUser):
    def __init__(self, name: str) -> None: ...

    is_authenticated = True  # type: ignore[assignment]
    display_name = "alice-1"  # type: ignore[assignment]


async def test_a_display_name_is_no_identity(caplog: pytest.LogCaptureFixture) -> None:
    assert (await ok(authenticated(Nameless), user="alice-1")).status == 500
    [error] = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert isinstance(error, ConfigurationError)
    assert "user_id=" in error.remedy


async def test_without_the_authentication_middleware_it_says_where_it_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = application(options={"identify": AuthenticatedUser()})
    assert (await ok(app, user="alice-1")).status == 500
    [error] = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert isinstance(error, ConfigurationError)
    assert "before `UserContextMiddleware`" in error.remedy
