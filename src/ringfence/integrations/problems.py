"""Problems: what a client is told of an error, as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import attrs

from ..errors import (
    AgentLimitError,
    CarrierError,
    DrainingError,
    ForbiddenError,
    NoContextError,
    RingfenceError,
    UnknownAgentError,
    UnknownRunError,
)

__all__ = ["Problem", "problem_of", "problem_within", "refusal_in", "send_problem"]

logger = logging.getLogger("ringfence.asgi")

Send = Callable[[dict[str, Any]], Awaitable[None]]

STATUS: Mapping[type[Exception], int] = {
    NoContextError: 401,
    CarrierError: 401,
    DrainingError: 503,
    ForbiddenError: 403,
    UnknownAgentError: 404,
    UnknownRunError: 404,
    AgentLimitError: 429,
}
"""By class, the nearest one counts; everything else is 500."""

RETRY_AFTER = 5
"""Seconds after which a client may try again while an instance shuts down."""


@attrs.frozen
class Problem:
    """
    What a client is told of an error: a status and a stable type, and nothing of its text.

    An immutable value; lives as long as the answer. A message may name scopes, places in the
    source or values, so no part of one is shown: `type` leads to the documentation, and the
    request id to the logs.

    >>> Problem(500, "urn:ringfence:error:RF202").title
    'Internal Server Error'

    Args:
        status: of the response.
        type: `urn:ringfence:error:RFnnn`, or `about:blank` for what is no error of ours.
        challenge: the value of `WWW-Authenticate`, for a 401.
    """

    status: int
    type: str = "about:blank"
    challenge: str | None = None

    @property
    def title(self) -> str:
        """The reason phrase of the status."""
        return HTTPStatus(self.status).phrase

    def body(self, request_id: str | None = None) -> bytes:
        """The JSON document; `instance` names the request."""
        document = {"type": self.type, "title": self.title, "status": self.status}
        if request_id is not None:
            document["instance"] = f"urn:uuid:{request_id}"
        return json.dumps(document).encode()

    def headers(self, request_id: str | None = None) -> dict[str, str]:
        """The response's headers but for its length."""
        headers = {"content-type": "application/problem+json", "cache-control": "no-store"}
        if self.challenge is not None:
            headers["www-authenticate"] = self.challenge
        if self.status == 503:
            headers["retry-after"] = str(RETRY_AFTER)
        if request_id is not None:
            headers["x-request-id"] = request_id
        return headers


def problem_of(
    error: BaseException, status: int | None = None, *, challenge: str | None = None
) -> Problem:
    """
    The problem that tells a client of `error`.

    >>> from ringfence import NoContextError
    >>> problem_of(NoContextError("No scope is open here.")).status
    401

    Args:
        error: any exception; only those of ringfence have a type of their own. An
            `IntegrityError`, as SQLAlchemy raises, is the client's conflict: 409.
        status: if the place where it was raised knows better than the class.
        challenge: for `WWW-Authenticate`; used for a 401 only.
    """
    kinds = type(error).__mro__
    if status is None:
        status = next((STATUS[kind] for kind in kinds if kind in STATUS), 500)
        if status == 500 and any(kind.__name__ == "IntegrityError" for kind in kinds):
            status = 409
    return Problem(
        status,
        f"urn:ringfence:error:{error.code}" if isinstance(error, RingfenceError) else "about:blank",
        (challenge or "Bearer") if status == 401 else None,
    )


def problem_within(
    error: RingfenceError, request_id: str, *, has_user: bool, challenge: str | None = None
) -> Problem:
    """
    The problem that tells of an error which an application met in a request, and logs it.

    Who is identified and meets no context has met a fault, not a locked door: 500.
    """
    is_fault = has_user and isinstance(error, NoContextError)
    problem = problem_of(error, 500 if is_fault else None, challenge=challenge)
    if problem.status == 500:
        logger.error("Request `%s` failed: %s.", request_id, error.code, exc_info=error)
    else:
        logger.info("Request `%s` was refused: %d, %s.", request_id, problem.status, error.code)
    return problem


def refusal_in(error: BaseException) -> BaseException:
    """
    What a group of errors consists of, if that is one refusal of ringfence; else `error` itself.

    Task groups raise groups, also of a single error. Several count as one if clients are told
    the same status of each.

    >>> from ringfence import ForbiddenError
    >>> refusal_in(ExceptionGroup("tools", [ForbiddenError("The user may not do this.")]))
    ForbiddenError('The user may not do this.')
    """
    if isinstance(error, RingfenceError) or not isinstance(error, BaseExceptionGroup):
        return error
    within = [refusal_in(each) for each in error.exceptions]
    first = within[0]
    if not all(isinstance(each, RingfenceError) for each in within):
        return error
    return first if len({problem_of(each).status for each in within}) == 1 else error


async def send_problem(
    send: Send, problem: Problem, request_id: str | None = None, *, prefix: str = "http.response"
) -> None:
    """
    Answer with `problem`, as a whole ASGI response.

    Args:
        send: the server's, before any response has started.
        request_id: shown as `x-request-id` and as the problem's `instance`.
        prefix: `websocket.http.response` to deny a WebSocket where the server can.
    """
    body = problem.body(request_id)
    headers = {**problem.headers(request_id), "content-length": str(len(body))}
    await send(
        {
            "type": f"{prefix}.start",
            "status": problem.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": f"{prefix}.body", "body": body})
