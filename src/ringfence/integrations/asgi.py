"""The boundary: every request in a root scope of its own, in any ASGI application."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from .. import counters
from ..current import RootOptions, nobody, user_context
from ..errors import (
    CarrierError,
    ConfigurationError,
    ContextLimitError,
    DrainingError,
    InvalidContextError,
    NoContextError,
    RingfenceError,
)
from ..identifiers import generate_id
from ..identity import Identity
from ..refusals import draining
from ..scope import RequestScope
from ..state import CLOSED, OPEN, _get, roots
from ._connection import Connection, Headers, route_path
from ._exchange import REQUEST_ID, Exchange, Receive, Scope, Send, answer
from .problems import problem_of, problem_within

if TYPE_CHECKING:
    from ..protocols import Recipes

__all__ = ["Connection", "Headers", "UserContextMiddleware"]

logger = logging.getLogger("ringfence.asgi")

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "ringfence"
OUTCOME = "ringfence.outcome"
MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 * 1024
"""Of the values together."""

_REFUSING = (InvalidContextError, CarrierError, DrainingError)
_is_client_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
_has_warned = False


class UserContextMiddleware:
    """
    Opens a root scope around every request and WebSocket: one user's, or nobody's.

    Lives as long as the application; put it outermost, or next to a CORS middleware that is. A
    scope that the server leaked into a request is never inherited. Lifespan and unknown
    protocols pass untouched::

        app = UserContextMiddleware(app, fence=fence, identify=identify, exclude=("/health",))

    `identify` takes a `Connection` and returns an `Identity`, or `None` where there are no
    credentials. To refuse credentials it raises `CarrierError`, and the client is told
    `invalid_token`. What else it raises passes to the server untouched.

    The request's scope is `scope["ringfence"]` in the ASGI dict, for outer error handlers too;
    `scope["ringfence.outcome"]` says how it ended: `completed`, `client_disconnect`, `cancelled`
    or `error`.

    Args:
        app: the ASGI application.
        fence: the application's `Ringfence`.
        identify: who is it? Sync or async.
        required: whether a request without an identity is answered with 401. If not, it belongs
            to nobody, and so does one whose credentials are expired or refused.
        exclude: paths that belong to nobody without asking, as routes see them: exact ones, and
            all that begin with one that ends in `/`. `/` itself is exact.
        realm: shown in `WWW-Authenticate`.

    Raises:
        ConfigurationError: an `exclude` or a `realm` that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        fence: Recipes,
        identify: Callable[[Connection], Identity | Awaitable[Identity | None] | None],
        required: bool = True,
        exclude: Collection[str] = (),
        realm: str = "ringfence",
    ) -> None:
        self.app = app
        self.fence = fence
        self.identify = identify
        self.required = required
        self.exclude = _checked_paths(exclude)
        self._prefixes = tuple(path for path in self.exclude if path.endswith("/") and path != "/")
        self._challenge = _challenge(realm)

    def connect(self, scope: Scope, headers: dict[bytes, bytes]) -> Any:
        """What `identify` is given. `headers` has the first value of each name."""
        return Connection(scope, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await self.app(scope, receive, send)
            return
        ambient = _get()
        if ambient is not None or KEY in scope:
            await self._serve_within(ambient, scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve_within(
        self, ambient: RequestScope | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A scope is here already: this request's own, or one that leaked into it."""
        if ambient is None:
            await self._serve(scope, receive, send)
        elif _is_beneath(ambient, scope.get(KEY)):
            if ambient.has_user or not self.required or self._is_exempt(scope):
                await self.app(scope, receive, send)
            else:
                await self._serve(scope, receive, send)
        else:
            _count_inherited(ambient)
            if self.fence.is_draining:
                await self._refuse(_Refusal(draining(), 503), scope, receive, send)
                return
            # Hides the leaked scope from `identify` too. On leaving, what was here is back: it
            # may be the caller's own, who calls this application in process.
            async with nobody(fence=self.fence):
                await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            block: Any = self._admit(scope)
            if type(block) is not RequestScope:
                block = await block
        except _Refusal as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        exchange = Exchange(block, self.fence.database, scope, receive, send)
        scope[KEY] = block
        has_user = block.has_user  # an ended scope cannot tell
        try:
            async with block:
                if self.fence.is_on_trio:
                    await self._serve_stoppable(scope, exchange)
                else:
                    await self.app(scope, exchange.receive, exchange.send)
                if exchange.failure is not None:
                    raise exchange.failure  # so that the scope has not ended well
        except BaseException as error:
            _record(scope, exchange.outcome(error))
            if exchange.is_stopped_by(error):
                await exchange.answer(problem_of(draining()))
            elif not await self._is_answered(error, exchange, has_user):
                raise
        else:
            _record(scope, "client_disconnect" if exchange.is_gone else "completed")

    async def _serve_stoppable(self, scope: Scope, exchange: Exchange) -> None:
        """Where shutdown finds no task of asyncio's to cancel, it is given a cancel scope."""
        with anyio.CancelScope() as stop:
            roots[exchange.root] = stop
            await self.app(scope, exchange.receive, exchange.send)
        if stop.cancelled_caught:
            raise draining()

    # --- who it is ----------------------------------------------------------------------------

    def _admit(self, scope: Scope) -> Any:
        """The root scope for a request; to be awaited if `identify` is."""
        headers = _checked_headers(scope)
        if (self.exclude or scope.get("method") == "OPTIONS") and self._is_exempt(scope):
            return nobody(fence=self.fence)
        try:
            identity: Any = self.identify(self.connect(scope, headers))
            if type(identity) is not Identity and identity is not None:
                return self._admit_later(identity, headers)
            return self._root(identity, headers)
        except _REFUSING as error:
            return self._root_despite(error)

    async def _admit_later(self, identity: Any, headers: dict[bytes, bytes]) -> Any:
        try:
            if inspect.isawaitable(identity):
                identity = await identity
            return self._root(_checked_identity(identity), headers)
        except _REFUSING as error:
            return self._root_despite(error)

    def _root(self, identity: Identity | None, headers: dict[bytes, bytes]) -> Any:
        """The root scope of this user; nobody's, if that will do."""
        if identity is None or (identity.expires_at is not None and identity.is_expired()):
            if not self.required:
                return nobody(fence=self.fence)
            raise _Refusal(_unidentified(), 401, has_credentials=identity is not None)
        facts: RootOptions = {}
        if REQUEST_ID in headers:
            facts["client_request_id"] = self._client_request_id(headers[REQUEST_ID])
        if identity.tenant_id is not None:
            facts["tenant_id"] = identity.tenant_id
        if identity.expires_at is not None:
            facts["expires_at"] = identity.expires_at
        if identity.claims:
            facts["claims"] = identity.claims
        return user_context(identity.user_id, fence=self.fence, **facts)

    def _root_despite(self, error: RingfenceError) -> Any:
        """Credentials that were refused identify nobody."""
        if isinstance(error, DrainingError):
            raise _Refusal(error, 503)
        if self.required:
            raise _Refusal(error, 401, has_credentials=True)
        return nobody(fence=self.fence)

    def _client_request_id(self, value: bytes) -> str | None:
        """What the client calls the request, if that may be shown in a log."""
        if not _is_client_id(value):
            return None
        try:
            return self.fence.settings.id_rules.check("client_request_id", value.decode())
        except InvalidContextError:
            return None

    def _is_exempt(self, scope: Scope) -> bool:
        """Whether nobody is asked who they are: an excluded path, or a CORS preflight."""
        if scope.get("method") == "OPTIONS":
            names = {name for name, _ in scope.get("headers", ())}
            if b"origin" in names and b"access-control-request-method" in names:
                return True
        path = route_path(scope)
        if path in self.exclude:
            return True
        return path.startswith(self._prefixes) and not _climbs(path)

    # --- answers of our own -------------------------------------------------------------------

    async def _refuse(self, refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer instead of the application, which never hears of the request."""
        request_id = generate_id()
        error = refusal.error
        logger.info(
            "Request `%s` was refused: %d, %s, %s.",
            request_id,
            refusal.status,
            error.code,
            getattr(error, "reason", None) or getattr(error, "rule", None) or "-",
        )
        challenge = self._challenge
        if refusal.has_credentials:
            challenge += ', error="invalid_token"'
        if scope["type"] == "websocket":
            await receive()  # the client's wish to connect
        problem = problem_of(error, refusal.status, challenge=challenge)
        await answer(problem, request_id, scope, send)

    async def _is_answered(self, error: BaseException, exchange: Exchange, has_user: bool) -> bool:
        """Whether what came out of the application needs no more than what the client was told."""
        if exchange.failure is not None:
            return error is exchange.failure or (exchange.is_cut and isinstance(error, Exception))
        if exchange.is_started or not isinstance(error, RingfenceError):
            return False
        problem = problem_within(
            error, exchange.root.request_id, has_user=has_user, challenge=self._challenge
        )
        await exchange.answer(problem)
        return True


class _Refusal(Exception):
    """Why a request does not reach the application."""

    def __init__(self, error: RingfenceError, status: int, has_credentials: bool = False) -> None:
        self.error = error
        self.status = status
        self.has_credentials = has_credentials


def _checked_identity(identity: object) -> Identity | None:
    if identity is None or isinstance(identity, Identity):
        return identity
    raise ConfigurationError(
        f"`identify` answered with a `{type(identity).__name__}`.",
        "Return an `Identity`, or `None` if there are no credentials.",
    )


def _is_beneath(ambient: RequestScope, carried: object) -> bool:
    """Whether the request that `carried` was opened for is the one that runs here."""
    if ambient._state is not OPEN:
        return False
    scope: RequestScope | None = ambient
    while scope is not None and scope is not carried:
        scope = scope._below
    return scope is not None and scope._state is OPEN


def _count_inherited(ambient: RequestScope) -> None:
    global _has_warned
    state = "closed" if ambient._state is CLOSED else "open"
    counters.count(f"inherited_scope.{state}")
    if not _has_warned:
        _has_warned = True
        logger.warning(
            "A request began with the %s scope of request `%s` in its context variables; it "
            "does not inherit it. The server starts requests in each other's contexts, and other "
            "libraries' variables do leak: use uvicorn with `reset_contextvars=True`, or put "
            "this middleware outermost. Further cases are counted only.",
            state,
            ambient.request_id,
        )


def _record(scope: Scope, outcome: str) -> None:
    scope[OUTCOME] = outcome
    counters.count(f"request.{outcome}")


# --- headers and paths ------------------------------------------------------------------------


def _checked_headers(scope: Scope) -> dict[bytes, bytes]:
    """The first value of each header, if they are within bounds."""
    raw = scope.get("headers", ())
    if type(raw) is not list:
        raw = scope["headers"] = list(raw)
    headers = dict(raw)
    if len(headers) != len(raw):
        headers = _first_values(raw)
    elif len(raw) > MAX_HEADERS or len(b"".join(headers.values())) > MAX_HEADER_BYTES:
        raise _too_large()
    return headers


def _first_values(raw: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The same, where a name came more than once."""
    if len(raw) > MAX_HEADERS or sum(len(value) for _, value in raw) > MAX_HEADER_BYTES:
        raise _too_large()
    names = [name for name, _ in raw]
    if names.count(b"authorization") > 1:
        error = InvalidContextError(
            "There is more than one `Authorization` header.", "Send one.", field="authorization"
        )
        raise _Refusal(error, 400)
    first = dict(reversed(raw))
    if names.count(REQUEST_ID) > 1:
        del first[REQUEST_ID]
    return first


def _too_large() -> _Refusal:
    error = ContextLimitError(
        f"There are more than {MAX_HEADERS} headers, or {MAX_HEADER_BYTES} bytes of their values.",
        "Send fewer.",
        field="headers",
        rule="length",
    )
    return _Refusal(error, 431)


def _unidentified() -> NoContextError:
    return NoContextError("Nobody is identified.", "Send valid credentials.")


def _climbs(path: str) -> bool:
    """Whether a path has segments that some servers of files resolve to another."""
    return not {".", ".."}.isdisjoint(path.replace("\\", "/").split("/"))


def _checked_paths(paths: Collection[str]) -> frozenset[str]:
    if isinstance(paths, str) or not all(type(p) is str and p.startswith("/") for p in paths):
        raise ConfigurationError(
            "`exclude` must be a collection of paths that begin with `/`.",
            'Write `exclude=("/health", "/static/")`.',
        )
    return frozenset(paths)


def _challenge(realm: str) -> str:
    if not (realm.isascii() and realm.isprintable()) or '"' in realm or "\\" in realm:
        raise ConfigurationError(
            "`realm` cannot be quoted in a header.", "Use printable ASCII without quotes."
        )
    return f'Bearer realm="{realm}"'
