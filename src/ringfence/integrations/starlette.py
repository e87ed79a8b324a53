"""
Starlette: `identify` gets its `HTTPConnection`, or what its `AuthenticationMiddleware` found;
errors as its exception handlers; `each_message` for WebSockets; endpoints for events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

try:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket, WebSocketState
except ImportError as missing:
    raise ImportError(
        'This needs Starlette. Install it with `pip install "ringfence[starlette]"`.'
    ) from missing

from ..errors import ConfigurationError, ContextClosedError, RingfenceError
from ..identity import Identity
from ..offers import offer
from . import asgi
from ._event_socket import event_socket
from ._event_stream import event_stream
from ._exchange import CLOSE_CODES, Exchange
from ._messages import each_message
from .problems import Problem, problem_within

if TYPE_CHECKING:
    from ..protocols import Recipes
    from ..scope import RequestScope

__all__ = [
    "AuthenticatedUser",
    "UserContextMiddleware",
    "answer_error",
    "each_message",
    "event_socket",
    "event_stream",
    "exception_handlers",
]


class UserContextMiddleware(asgi.UserContextMiddleware):
    """
    `asgi.UserContextMiddleware` whose `identify` is given Starlette's `HTTPConnection`.

    Lives as long as the application::

        app = Starlette(
            routes,
            middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)],
            lifespan=fence.lifespan,
        )

    Args:
        app, fence, identify, required, exclude, realm: as there.

    Raises:
        ConfigurationError: an `exclude` or a `realm` that cannot work.
    """

    def __init__(
        self,
        app: asgi.ASGIApp,
        *,
        fence: Recipes,
        identify: Callable[[HTTPConnection], Identity | Awaitable[Identity | None] | None],
        required: bool = True,
        exclude: Collection[str] = (),
        realm: str = "ringfence",
    ) -> None:
        of_any: Callable[[Any], Any] = identify
        super().__init__(
            app, fence=fence, identify=of_any, required=required, exclude=exclude, realm=realm
        )
        self._connect = lambda scope, headers: HTTPConnection(scope)


class AuthenticatedUser:
    """
    An `identify` that takes over what Starlette's `AuthenticationMiddleware` has found.

    Lives as long as the application. That middleware stands before ours::

        middleware = [
            Middleware(AuthenticationMiddleware, backend=backend),
            Middleware(UserContextMiddleware, fence=fence, identify=AuthenticatedUser()),
        ]

    The scopes of its `AuthCredentials` become the claim `scopes`. A user whose
    `is_authenticated` is not exactly `True` is nobody.

    Args:
        user_id: of its user object; `user.identity` if not given, never the `display_name`.
        tenant_id: of its user object; without it there is none.

    Raises:
        ConfigurationError: on a request, there was no such middleware, or no `identity`.
    """

    def __init__(
        self,
        *,
        user_id: Callable[[Any], str] | None = None,
        tenant_id: Callable[[Any], str | None] | None = None,
    ) -> None:
        self._user_id = user_id or _identity_of
        self._tenant_id = tenant_id

    def __call__(self, connection: asgi.Connection | HTTPConnection) -> Identity | None:
        """The identity of a request, `None` if nobody is authenticated; `identify` is this."""
        scope = connection.scope
        if "user" not in scope:
            raise ConfigurationError(
                "No `AuthenticationMiddleware` has seen this request.",
                "List it before `UserContextMiddleware` in `middleware=[...]`.",
            )
        user = scope["user"]
        if user.is_authenticated is not True:  # a method would be true for everybody
            return None
        return Identity(
            self._user_id(user),
            None if self._tenant_id is None else self._tenant_id(user),
            claims={"scopes": tuple(getattr(scope.get("auth"), "scopes", ()))},
        )


def _identity_of(user: Any) -> str:
    try:
        found: str = user.identity
    except (AttributeError, NotImplementedError):
        raise ConfigurationError(
            f"A `{type(user).__name__}` has no `identity`.",
            "Define that property, or say `AuthenticatedUser(user_id=lambda user: ...)`.",
        ) from None
    return found


async def answer_error(connection: Request | WebSocket, error: Exception) -> Response | None:
    """
    An exception handler for `RingfenceError`: a problem, or the close code of a WebSocket.

    The middleware answers these errors anyhow. Handled here, the answer passes through the
    middlewares between, such as one that adds CORS headers.
    """
    if not isinstance(error, RingfenceError):
        raise error
    root = connection.scope.get(asgi.KEY)
    request_id = None if root is None else root.request_id
    has_user = root is not None and root.has_user
    problem = problem_within(error, request_id or "-", has_user=has_user)
    if isinstance(connection, WebSocket):
        state = connection.application_state
        if state is WebSocketState.CONNECTING and _can_deny(connection):
            await connection.send_denial_response(_response(problem, request_id))
        elif state is not WebSocketState.DISCONNECTED:
            code = CLOSE_CODES.get(problem.status, 1008)
            await connection.close(code, problem.title)
        return None
    return _response(problem, request_id)


def _can_deny(websocket: WebSocket) -> bool:
    return "websocket.http.response" in (websocket.scope.get("extensions") or ())


def _response(problem: Problem, request_id: str | None) -> Response:
    return Response(problem.body(request_id), problem.status, problem.headers(request_id))


def _request_of(scope: RequestScope) -> Request:
    made: Request = _made_once(scope, "http", Request)
    return made


def _connection_of(scope: RequestScope) -> HTTPConnection:
    made: HTTPConnection = _made_once(scope, "http websocket", HTTPConnection)
    return made


def _websocket_of(scope: RequestScope) -> WebSocket:
    made: WebSocket = _made_once(scope, "websocket", WebSocket)
    return made


def _made_once(scope: RequestScope, kind: str, make: Any) -> Any:
    """One object for a whole request. It is not the handler's own, which Starlette makes later."""
    found = asgi.conversation_of(scope, kind)
    if make not in found.objects:
        ends = () if make is HTTPConnection else _ends(scope.root, found, make is WebSocket)
        found.objects[make] = make(found.scope, *ends)
    made = found.objects[make]
    if make is WebSocket:
        _follow(made, found.exchange)
    return made


def _ends(root: RequestScope, found: asgi.Conversation, is_websocket: bool) -> tuple[Any, Any]:
    """Hears and says something in its request alone, and nothing once the WebSocket is closed."""
    exchange = found.exchange

    async def receive() -> Any:
        root._require_here()
        if is_websocket and exchange.has_left:
            raise _closed(root)
        return await exchange.receive()

    async def send(message: Any) -> None:
        root._require_here()
        if is_websocket and exchange.is_complete:
            raise _closed(root)
        await found.send(message)

    return receive, send


def _closed(root: RequestScope) -> ContextClosedError:
    return ContextClosedError(
        f"The WebSocket of request `{root.request_id}` has been closed.",
        "Take what you need from it before; its states do not open it again.",
        request_id=root.request_id,
    )


def _follow(made: WebSocket, exchange: Exchange) -> None:
    """Let it know what was done with the handler's own."""
    if exchange.is_accepted and made.application_state is WebSocketState.CONNECTING:
        made.client_state = made.application_state = WebSocketState.CONNECTED
    if exchange.is_complete:
        made.application_state = WebSocketState.DISCONNECTED
    if exchange.has_left:
        made.client_state = WebSocketState.DISCONNECTED


offer(Request, _request_of, lambda scope: asgi.answers(scope, "http"))
offer(HTTPConnection, _connection_of, lambda scope: asgi.answers(scope, "http websocket"))
offer(WebSocket, _websocket_of, lambda scope: asgi.answers(scope, "websocket"))

exception_handlers: dict[Any, Any] = {RingfenceError: answer_error}
"""For `Starlette(exception_handlers={**exception_handlers, ...})`."""
