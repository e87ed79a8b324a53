"""
MCP: each request to a server runs as the user whose credential it carries itself; each call of a
client carries the current user's.

A session may be shared, pooled, or opened by somebody else: who that was is never asked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar, cast

try:
    _VERSION = version("mcp")
except PackageNotFoundError as missing:
    raise ImportError(
        'This needs MCP. Install it with `pip install "ringfence[mcp]"`.'
    ) from missing
if int(_VERSION.partition(".")[0]) < 2:
    raise ImportError(
        f"mcp {_VERSION} runs a request as whoever opened its session: one user gets what is "
        'another\'s. Install mcp 2.2 or later: `pip install "ringfence[mcp]"`.'
    )

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from pydantic import BaseModel

from ..agents import Run, check_explicit
from ..context import UserExecutionContext
from ..current import (
    child_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    nobody,
    user_context,
)
from ..errors import (
    CarrierError,
    ConfigurationError,
    InvalidContextError,
    NoContextError,
    RingfenceError,
    WrongTypeError,
)
from ..identity import Identity
from ..scope import RequestScope
from ._called_tools import work_as_tool
from .asgi import _checked_identity
from .problems import problem_of

if TYPE_CHECKING:
    from ..protocols import Recipes

__all__ = [
    "RingfenceMiddleware",
    "from_access_token",
    "from_boundary",
    "from_credential",
    "outbound_auth",
    "outbound_meta",
]

R = TypeVar("R")

logger = logging.getLogger("ringfence.mcp")

CREDENTIAL = "ringfence/credential"
MAX_CREDENTIAL = 8192

Request = ServerRequestContext[Any, Any]
Identify = Callable[[Request], Identity | Awaitable[Identity | None] | None]

_FOR_ANYBODY = frozenset(
    """
    initialize ping server/discover logging/setLevel tools/list prompts/list resources/list
    resources/templates/list
    """.split()
)
"""What a client asks when it connects, maybe for nobody in particular. All else is a user's."""


# --- who it is --------------------------------------------------------------------------------


def from_access_token(request: Request) -> Identity | None:
    """
    The `identify` of a server that has a token verifier: the subject of the verified token.

    Of the HTTP request that brought this very message, not of the one that opened the session.
    A token without a subject is an application's and identifies no user. A subject is unique
    for one issuer only: with several, write your own.
    """
    scope = getattr(request.request, "scope", {})
    user = scope.get("user")
    if not isinstance(user, AuthenticatedUser) or user.access_token.subject is None:
        return None
    token = user.access_token
    ends = token.expires_at
    return Identity(
        user.access_token.subject,
        expires_at=None if ends is None else dt.datetime.fromtimestamp(ends, dt.UTC),
        claims={"client_id": token.client_id, "scopes": token.scopes},
    )


def from_boundary(request: Request) -> Identity | None:
    """
    The `identify` of a server behind `UserContextMiddleware`: whom that has identified.

    Of the HTTP request that brought this very message, not of the one that opened the session.
    """
    scope = getattr(request.request, "scope", {})
    root = scope.get("ringfence")
    if not isinstance(root, RequestScope) or not root.has_user:
        return None
    facts = root.context
    return Identity(facts.user_id, facts.tenant_id, expires_at=facts.expires_at, claims=root.claims)


def from_credential(
    verify: Callable[[str], Identity | Awaitable[Identity | None] | None],
) -> Identify:
    """
    An `identify` that reads what `outbound_meta` has put into the message itself.

    `_meta` is what a client says: it is `verify` that makes it true, by a signature, an
    audience and an expiry::

        RingfenceMiddleware(fence=fence, identify=from_credential(verify_token))

    Args:
        verify: the identity that a credential proves. It raises `CarrierError` for what it
            does not accept.
    """

    def identify(request: Request) -> Identity | Awaitable[Identity | None] | None:
        meta: Any = request.meta or {}
        if CREDENTIAL not in meta:
            return None
        credential = meta[CREDENTIAL]
        if type(credential) is not str or not 0 < len(credential) <= MAX_CREDENTIAL:
            raise CarrierError(
                "The credential in a message's `_meta` is no text, or too long.",
                "Make it with `outbound_meta`.",
            )
        return verify(credential)

    return identify


# --- the server -------------------------------------------------------------------------------


class RingfenceMiddleware:
    """
    Each request in a scope of the user whom it identifies itself; tools in child contexts.

    Lives as long as the server, and serves all users and sessions::

        server = MCPServer("crm", middleware=[RingfenceMiddleware(fence=fence, identify=identify)])

    A scope that is current already, as behind `UserContextMiddleware`, must be of the same
    user: then it is the parent. Another's is refused.

    Args:
        fence: the application's `Ringfence`.
        identify: who is it? Given the message's own context; sync or async. See
            `from_access_token`, `from_boundary` and `from_credential`.
        required: whether a request without an identity is refused. If not, it belongs to
            nobody. Handshakes and lists do in any case.

    Raises:
        ConfigurationError: a `fence` or an `identify` that cannot work.
    """

    def __init__(self, *, fence: Recipes, identify: Identify, required: bool = True) -> None:
        if isinstance(fence, type) or not callable(identify):
            raise ConfigurationError(
                "`fence` must be a `Ringfence()`, and `identify` a function.",
                "Write `RingfenceMiddleware(fence=fence, identify=identify)`.",
            )
        self.fence = fence
        self.identify = identify
        self.required = required

    async def __call__(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """Serve one message."""
        try:
            block = await self._admit(ctx)
        except MCPError:
            raise
        except Exception as error:
            raise _refusal(error, _status_of(error)) from error
        failures: list[Exception] = []
        try:
            async with block:
                try:
                    return await _serve(ctx, call_next)
                except Exception as error:
                    failures.append(error)
                    raise
        except Exception as error:
            if error in failures and not isinstance(error, RingfenceError):
                raise  # the server's own, which it answers as it does
            raise _failure(error) from error

    async def _admit(self, ctx: Request) -> AbstractAsyncContextManager[Any]:
        """The block that this message is served in."""
        ambient = current_scope_or_none()
        async with self._hiding(ambient):
            identity = self.identify(ctx)
            if inspect.isawaitable(identity):
                identity = await identity
        identity = _checked_identity(identity)
        if identity is None or identity.is_expired():
            return self._unidentified(ctx, identity)
        if ambient is None or not ambient.has_user:
            return user_context(identity, fence=self.fence)
        check_explicit(identity)
        if ambient._recipes is not self.fence:  # a client and its server in one process
            return user_context(identity, fence=self.fence)
        return contextlib.nullcontext()

    def _unidentified(
        self, ctx: Request, expired: Identity | None
    ) -> AbstractAsyncContextManager[Any]:
        is_for_anybody = ctx.request_id is None or ctx.method in _FOR_ANYBODY
        if self.required and not (is_for_anybody and expired is None):
            raise NoContextError(
                "This message says of nobody that it is theirs.",
                "Send a credential with each message; see `outbound_meta` and `outbound_auth`.",
            )
        return nobody(fence=self.fence)

    def _hiding(self, ambient: RequestScope | None) -> AbstractAsyncContextManager[Any]:
        """A block in which nobody is current: whose a message is, it says itself."""
        if ambient is None:
            return contextlib.nullcontext()
        block: Any = nobody(fence=self.fence)
        block._more().is_admitted = True  # while draining, too: the request was admitted
        return cast("AbstractAsyncContextManager[Any]", block)


async def _serve(ctx: Request, call_next: CallNext) -> HandlerResult:
    """Do what was asked for, a user's in a child context."""
    scope = current_scope()
    if not scope.has_user:
        return await call_next(ctx)
    if ctx.method != "tools/call":
        async with child_context(ctx.method):
            return await call_next(ctx)

    async def work(told: Run) -> HandlerResult:
        result = await call_next(ctx)
        if _said(result, "resultType") == "input_required":
            told.data["interrupted"] = True
        return result

    name = (ctx.params or {}).get("name")
    return await work_as_tool(
        name, ctx.request_id, work, lambda result: _said(result, "isError") is True
    )


def _said(result: HandlerResult, key: str) -> Any:
    """What a result says under this key on the wire."""
    if isinstance(result, BaseModel):
        result = result.model_dump(by_alias=True)
    return (result or {}).get(key)


# --- what a client is told --------------------------------------------------------------------


def _status_of(error: Exception) -> int | None:
    """What `identify` gave, and no context may hold, identifies nobody."""
    return 401 if isinstance(error, InvalidContextError) else None


def _refusal(error: Exception, status: int | None = None) -> MCPError:
    """The error's type and status, and nothing of its text."""
    problem = problem_of(error, status)
    is_fault = problem.status >= 500
    logger.log(
        logging.ERROR if is_fault else logging.INFO,
        "A message was refused: %d, %s.",
        problem.status,
        problem.type,
        exc_info=error if is_fault else None,
    )
    return MCPError(
        INTERNAL_ERROR if is_fault else INVALID_REQUEST,
        problem.title,
        {"type": problem.type, "status": problem.status},
    )


def _failure(error: Exception) -> MCPError:
    """The same for what was met inside: who is identified met a fault, not a locked door."""
    return _refusal(error, 500 if problem_of(error).status == 401 else None)


# --- the client -------------------------------------------------------------------------------


def outbound_meta(credential: Callable[[UserExecutionContext], str]) -> Callable[..., Any]:
    """
    A function that gives the `_meta` for a call as the current user::

        meta = outbound_meta(sign)
        await client.call_tool("list_orders", {}, meta=meta())

    One connection serves all users: each call says itself whose it is. For the OpenAI Agents
    SDK it is the `tool_meta_resolver`; what the run was given as its context must be of the
    same user.

    Args:
        credential: what proves to the server who this is, such as a token that is signed, is
            for this server alone, and expires soon.

    Raises:
        NoContextError, ContextClosedError: on calling it, nobody is current here.
        ContextMismatchError: on calling it, the run's context is another user's.
        WrongTypeError: on calling it, the credential is no text.
    """

    def meta(call: Any = None) -> Any:
        given = getattr(getattr(call, "run_context", None), "context", None)
        return {CREDENTIAL: _checked(credential(check_explicit(given)))}

    return meta


def outbound_auth(credential: Callable[[UserExecutionContext], str]) -> Callable[[R], R]:
    """
    An `auth` for an HTTP client: each request bears the current user's credential::

        httpx2.AsyncClient(auth=outbound_auth(sign))

    A request of nobody's, such as the handshake of a connection that is opened at start-up,
    bears none. Give an `mcp.Client` that users share `cache=None`: it would answer one user
    with what another was answered.
    """

    def authenticate(request: R) -> R:
        context = current_context_or_none()
        if context is not None:
            headers = cast("Any", request).headers
            headers["authorization"] = f"Bearer {_checked(credential(context))}"
        return request

    return authenticate


def _checked(credential: object) -> str:
    if type(credential) is str and 0 < len(credential) <= MAX_CREDENTIAL:
        return credential
    raise WrongTypeError(
        f"A credential is text of at most {MAX_CREDENTIAL} characters.",
        "Return such from the function that makes it.",
        rule="type",
    )
