"""Exchange: what one request and its server say to each other, watched and settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from .. import counters
from ..errors import DrainingError, RingfenceError
from ..shutdown import STOPPED
from ..state import _get
from ..tasks import is_cancellation
from .problems import Problem, problem_of, send_problem

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["BEARER_SUBPROTOCOL", "Exchange", "Receive", "Scope", "Send", "answer", "is_silent"]

logger = logging.getLogger("ringfence.asgi")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

BEARER_SUBPROTOCOL = "ringfence.bearer"
"""A WebSocket client offers this and then its token: browsers cannot send `Authorization`."""

REQUEST_ID = b"x-request-id"
CLOSE_CODES = {401: 4401, 429: 4429, 500: 1011, 503: 1013}
"""What a WebSocket is closed with instead of an HTTP status; for any other it is 1008."""

_ENDS = frozenset(
    {
        "http.response.body",
        "http.response.pathsend",
        "http.response.zerocopysend",
        "websocket.close",
    }
)
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})
_GOODBYES = (1000, 1001, 1005)  # 1005: closed without a code, as a browser's `close()` does


class Exchange:
    """
    What one request and its server say to each other. Lives as long as the request's scope.

    Its `receive` and `send` stand between the server and the application: they add the request
    id, settle the database before a response starts, and notice that the client has gone.

    Attributes:
        failure: why the application's response was replaced, if it was.
        is_started: whether it is too late for another answer.
        is_accepted, is_complete, has_left: of a WebSocket: the application has accepted it, has
            closed it; its client has gone, in whatever way.
        is_gone: whether the client left before the response was complete.
        is_cut: whether the application was told so after its response had been replaced.
    """

    failure: Exception | None = None
    is_started = is_accepted = is_complete = has_left = is_gone = is_cut = False

    def __init__(self, root: RequestScope, scope: Scope, receive: Receive, send: Send) -> None:
        self.root = root
        self._scope = scope
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        """The server's next message; once the response was replaced, that nobody is there."""
        if self.failure is not None:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] in _DISCONNECTS:
            self.has_left = True
            if message.get("code") not in _GOODBYES:
                self.is_gone = self.is_gone or not self.is_complete
        return message

    def pass_on(self, message: Any) -> Awaitable[None]:
        """`send`, where nothing is to be settled and the server's raises nothing: its own await."""
        kind = message["type"]
        if kind == "http.response.start":
            self.is_started = True
            message = with_request_id(message, self.root)
        elif kind in _ENDS and not message.get("more_body"):
            self.is_started = self.is_complete = True
        return self._send(message)

    async def send(self, message: Any) -> None:
        """Pass on a message of the application."""
        if self.failure is not None:
            await self._discard(message)
            return
        kind = message["type"]
        if kind in _STARTS:
            if kind == "http.response.start":
                if not await self._is_settled(message["status"]):
                    return
            elif kind == "websocket.accept":
                message = _accept(self._scope, message)
                self.is_accepted = True
            self.is_started = True
            message = with_request_id(message, self.root)
        ends = kind in _ENDS and not message.get("more_body")
        if ends:
            self.is_complete = True  # hypercorn says that all is over before its `send` returns
        try:
            await self._send(message)
        except OSError:
            self.is_gone = True
            raise
        if ends:
            self.is_started = True

    async def answer(self, problem: Problem) -> None:
        """Answer with a problem, where nothing has been answered yet."""
        self.is_started = True
        await answer(problem, self.root.request_id, self._scope, self._send)

    def is_stopped_by(self, error: BaseException) -> bool:
        """Whether shutdown cancelled this request, and nothing else did, before it answered."""
        if self.is_started or not self.root.is_cut_short:
            return False
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            return error.args == (STOPPED,) and task is not None and task.uncancel() == 0
        return isinstance(error, DrainingError)

    def outcome(self, error: BaseException | None) -> str:
        """How a request ended that `error`, if any, came out of."""
        if self.root.is_cut_short and (is_cancellation(error) or isinstance(error, DrainingError)):
            return "cancelled"
        if self.failure is not None or isinstance(error, RingfenceError):
            return "error"
        if self.is_gone:
            return "client_disconnect"
        if error is None:
            return "completed"
        return "error" if isinstance(error, Exception) else "cancelled"

    async def _is_settled(self, status: int) -> bool:
        """Commit or roll back. If that fails, answer with a problem and return False."""
        recipes = self.root._recipes
        database = None if recipes is None else recipes.database
        if database is None:
            return True
        try:
            await database.before_response(self.root, status)
        except Exception as error:
            self.failure = error
        else:
            return True
        counters.count("commit.failed")
        problem = problem_of(self.failure)
        is_fault = problem.status >= 500
        logger.log(
            logging.ERROR if is_fault else logging.INFO,
            "Request `%s` could not be settled before its response, which was replaced: %d.",
            self.root.request_id,
            problem.status,
            exc_info=self.failure if is_fault else None,
        )
        try:
            await self.answer(problem)
        except OSError:
            self.is_gone = True
        return False

    async def _discard(self, message: Mapping[str, Any]) -> None:
        """The client has a whole answer: what the application goes on to say has no reader."""
        await checkpoint()  # a stream that never waits would stop the event loop
        if message.get("more_body") and not is_silent(self._scope):
            self.is_cut = True
            raise OSError("The response was replaced; nobody reads this stream.")


def with_request_id(message: Mapping[str, Any], root: RequestScope) -> Mapping[str, Any]:
    """
    The message with our header instead of any other of that name.

    But for that of a root within ours, as when the middleware is mounted again and knows the
    user: the application has run in that one.
    """
    here = _get()
    if here is not None and here._root is not root and here._root is not None:
        within = here._root._request_id.encode()
        if (REQUEST_ID, within) in message.get("headers", ()):
            return message
    return _with_header(message, root._request_id)


def _with_header(message: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """A copy: the application's own message and list are left as they are, many may share them."""
    headers = [*message.get("headers", ())]
    for pair in headers:
        if pair[0] == REQUEST_ID:
            headers = [pair for pair in headers if pair[0] != REQUEST_ID]
            break
    headers.append((REQUEST_ID, request_id.encode()))
    message = dict(message)
    message["headers"] = headers
    return message


def _accept(scope: Scope, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Choose our subprotocol if it was offered and no other is chosen: browsers insist on one."""
    if message.get("subprotocol") is None and BEARER_SUBPROTOCOL in scope.get("subprotocols", ()):
        return {**message, "subprotocol": BEARER_SUBPROTOCOL}
    return message


def is_silent(scope: Scope) -> bool:
    """Whether `send` raises nothing when the client has gone: so before ASGI 2.4."""
    return scope.get("asgi", _OLD).get("spec_version", "2.0") in _SILENT


_OLD: Mapping[str, str] = {}
_SILENT = frozenset({"2.0", "2.1", "2.2", "2.3"})


async def answer(problem: Problem, request_id: str, scope: Scope, send: Send) -> None:
    """Answer a request, or a WebSocket that is not accepted yet, with a problem."""
    if scope["type"] == "http":
        await send_problem(send, problem, request_id)
    elif "websocket.http.response" in (scope.get("extensions") or ()):
        await send_problem(send, problem, request_id, prefix="websocket.http.response")
    else:
        accept = _accept(scope, {"type": "websocket.accept"})
        await send(_with_header(accept, request_id))
        code = CLOSE_CODES.get(problem.status, 1008)
        await send({"type": "websocket.close", "code": code, "reason": problem.title})
