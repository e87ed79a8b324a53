"""Starlette: `identify` gets its `HTTPConnection`; errors as its exception handlers."""

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

from ..errors import RingfenceError
from . import asgi
from ._exchange import CLOSE_CODES, Scope
from .problems import problem_within

if TYPE_CHECKING:
    from ..identity import Identity
    from ..protocols import Recipes

__all__ = ["UserContextMiddleware", "answer_error", "exception_handlers"]


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

    def connect(self, scope: Scope, headers: dict[bytes, bytes]) -> HTTPConnection:
        """Starlette's view of the request."""
        return HTTPConnection(scope)


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
        if connection.application_state is not WebSocketState.DISCONNECTED:
            code = CLOSE_CODES.get(problem.status, 1008)
            await connection.close(code, problem.title)
        return None
    return Response(problem.body(request_id), problem.status, problem.headers(request_id))


exception_handlers: dict[Any, Any] = {RingfenceError: answer_error}
"""For `Starlette(exception_handlers={**exception_handlers, ...})`."""
