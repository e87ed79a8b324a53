"""The boundary: every request in a root scope of its own, in any ASGI application."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import anyio

from .. import counters
from ..current import nobody, root_of
from ..errors import (
    CarrierError,
    ConfigurationError,
    ContextLimitError,
    InvalidContextError,
    NoContextError,
    ProviderError,
    RingfenceError,
)
from ..identifiers import generate_id
from ..identity import Identity
from ..refusals import draining
from ..scope import RequestScope
from ..state import CLOSED, OPEN, _get, roots
from ._connection import Connection, Headers, route_path
from ._exchange import REQUEST_ID, Exchange, Receive, Scope, Send, answer, is_silent
from .problems import problem_of, problem_within, refusal_in

if TYPE_CHECKING:
    from ..protocols import Recipes

__all__ = ["Connection", "Headers", "UserContextMiddleware"]

logger = logging.getLogger("ringfence.asgi")

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "ringfence"
OUTCOME = "ringfence.outcome"
ONLY_ONCE = (b"authorization", b"host")
"""Headers of which two readers may take two different ones."""

_REFUSING = (InvalidContextError, CarrierError)
_is_client_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
_join = b"".join  # of a list: the least that adding up lengths costs
_counted = {
    outcome: counters.ticker(f"request.{outcome}")
    for outcome in ("completed", "client_disconnect", "cancelled", "error")
}
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
    `invalid_token`. Other errors of ringfence are answered too; what else it raises passes to
    the server untouched.

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
        ConfigurationError: an `exclude`, a `realm`, a `fence` or an `identify` that cannot work.
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
        if isinstance(fence, type) or not callable(identify):
            raise ConfigurationError(
                "`fence` must be a `Ringfence()`, and `identify` a function.",
                "Write `UserContextMiddleware(app, fence=fence, identify=identify)`.",
            )
        self.app = app
        self.fence = fence
        self.identify = identify
        self.required = required
        self.exclude = _checked_paths(exclude)
        self._prefixes = tuple(path for path in self.exclude if path.endswith("/") and path != "/")
        self._challenge = _challenge(realm)
        # A fence's settings do not change, and asking for them costs at each request.
        self._max_headers = fence.settings.max_headers
        self._max_header_bytes = fence.settings.max_header_bytes
        self._connect: Callable[[Scope, dict[bytes, bytes]], Any] = Connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await self.app(scope, receive, send)
            return
        fence, ambient = self.fence, _get()
        try:
            root: Any
            root = self._admit(scope) if ambient is None else self._admit_within(ambient, scope)
            if type(root) is not RequestScope:
                root = await root
            if root is not None:
                root._open_unread(_CODE)
        except _Refusal as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        except RingfenceError as error:
            await self._refuse(_Refusal(error, _status_of(error)), scope, receive, send)
            return
        if root is None:  # the request has a scope already
            await self.app(scope, receive, send)
            return
        scope[KEY] = root
        exchange = Exchange(root, scope, receive, send)
        if fence.database is None and kind == "http" and is_silent(scope):
            send = exchange.pass_on
        else:
            send = exchange.send
            if fence.database is not None and kind == "http":
                fence.database.serve(root)
        if fence.services is not None:
            root._more().connection = Conversation(scope, exchange, send)
        try:
            try:
                if fence.is_on_trio:
                    await self._serve_stoppable(root, scope, exchange.receive, send)
                else:
                    await self.app(scope, exchange.receive, send)
                if exchange.failure is not None:
                    raise exchange.failure  # so that the scope has not ended well
                if exchange.is_gone:
                    root._more().is_cut_short = True  # nor when nobody heard the end of it
            except BaseException as error:
                await root._close(error, _CODE)
                raise
            if root._extras is None:
                root._end(_CODE, 0)  # nothing was registered: all that `close` would do
            else:
                await root._close(None, _CODE)
        except BaseException as error:
            outcome = scope[OUTCOME] = exchange.outcome(error)
            _counted[outcome]()
            if exchange.is_stopped_by(error):
                await exchange.answer(problem_of(draining()))
            elif not await self._is_answered(error, exchange):
                raise
        else:
            outcome = scope[OUTCOME] = "client_disconnect" if exchange.is_gone else "completed"
            _counted[outcome]()

    async def _serve_stoppable(
        self, root: RequestScope, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """On trio shutdown finds no task to cancel: it is given a cancel scope."""
        with anyio.CancelScope() as stop:
            roots[root] = stop
            await self.app(scope, receive, send)
        if stop.cancelled_caught:
            raise draining()

    # --- who it is ----------------------------------------------------------------------------

    def _admit(self, scope: Scope) -> RequestScope | Awaitable[RequestScope]:
        """The root scope for a request; to be awaited if `identify` is."""
        headers = _checked_headers(scope, self._max_headers, self._max_header_bytes)
        if (self.exclude or scope.get("method") == "OPTIONS") and self._is_exempt(scope):
            return self._nobody()
        try:
            identity: Any = self.identify(self._connect(scope, headers))
            if type(identity) is Identity and identity.expires_at is None:
                if REQUEST_ID not in headers:  # most often; written out from `_root`
                    return root_of(identity, self.fence, None)
            elif type(identity) is not Identity and identity is not None:
                return self._admit_later(identity, headers)
            return self._root(identity, headers)
        except _REFUSING as error:
            return self._root_despite(error)

    async def _admit_later(self, identity: Any, headers: dict[bytes, bytes]) -> RequestScope:
        was_open = self.fence.is_open
        try:
            if inspect.isawaitable(identity):
                identity = await identity
            if was_open and not self.fence.is_open:  # left meanwhile: nobody would wait for it
                raise draining()
            return self._root(_checked_identity(identity), headers)
        except _REFUSING as error:
            return self._root_despite(error)

    async def _admit_within(self, ambient: RequestScope, scope: Scope) -> RequestScope | None:
        """
        The same where a scope is current; `None` if it is this request's own and will do.

        One that leaked into the request is hidden from `identify`. Once the request has ended it
        is back: it may be the caller's own, who calls this application in process.
        """
        is_own = _is_beneath(ambient, scope.get(KEY))
        if is_own and scope[KEY]._recipes is not self.fence:
            raise ConfigurationError(
                "This request was opened by a middleware with another `Ringfence`.",
                "Give both the same `fence`; what only some may reach is for `requires(...)`.",
            )
        if is_own and (ambient.has_user or not self.required or self._is_exempt(scope)):
            return None
        if not is_own:
            _count_inherited(ambient)
            if self.fence.is_draining:
                raise draining()
        async with self._hiding(ambient):
            root: Any = self._admit(scope)
            if type(root) is not RequestScope:
                root = await root
        admitted: RequestScope = root
        return admitted

    def _hiding(
        self, ambient: RequestScope | None
    ) -> AbstractAsyncContextManager[RequestScope | None]:
        """A block in which nobody is current, whoever was."""
        if ambient is None:
            return nullcontext()
        block = self._nobody()
        block._more().is_admitted = True  # while draining, too
        return block

    def _root(self, identity: Identity | None, headers: dict[bytes, bytes]) -> RequestScope:
        """The root scope of this user; nobody's, if that will do."""
        if identity is None or (identity.expires_at is not None and identity.is_expired()):
            if not self.required:
                return self._nobody()
            raise _Refusal(_unidentified(), 401, has_credentials=identity is not None)
        client = self._client_request_id(headers[REQUEST_ID]) if REQUEST_ID in headers else None
        return root_of(identity, self.fence, client)

    def _nobody(self) -> RequestScope:
        return cast("RequestScope", nobody(fence=self.fence))

    def _root_despite(self, error: RingfenceError) -> RequestScope:
        """Credentials that were refused identify nobody."""
        if isinstance(error, InvalidContextError):  # not the client's doing
            logger.warning("`identify` gave what no context may hold. %s", error)
        if self.required:
            raise _Refusal(error, 401, has_credentials=True)
        return self._nobody()

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
        async with self._hiding(_get()) as hiding:  # from the log, too
            request_id = generate_id() if hiding is None else hiding.request_id
            await self._say_no(refusal, request_id, scope, receive, send)

    async def _say_no(
        self, refusal: _Refusal, request_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        error = refusal.error
        is_fault = refusal.status == 500
        logger.log(
            logging.ERROR if is_fault else logging.INFO,
            "Request `%s` was refused: %d, %s, %s.",
            request_id,
            refusal.status,
            error.code,
            getattr(error, "reason", None) or getattr(error, "rule", None) or "-",
            exc_info=error if is_fault else None,
        )
        challenge = self._challenge
        if refusal.has_credentials:
            challenge += ', error="invalid_token"'
        if scope["type"] == "websocket":
            await receive()  # the client's wish to connect
        problem = problem_of(error, refusal.status, challenge=challenge)
        await answer(problem, request_id, scope, send)

    async def _is_answered(self, error: BaseException, exchange: Exchange) -> bool:
        """Whether what came out of the application needs no more than what the client was told."""
        if exchange.failure is not None:
            return error is exchange.failure or (exchange.is_cut and isinstance(error, Exception))
        error = refusal_in(error)
        if exchange.is_started or not isinstance(error, RingfenceError):
            return False
        root = exchange.root
        has_user = hasattr(root, "_facts")  # it has ended, and cannot tell any more
        problem = problem_within(
            error, root.request_id, has_user=has_user, challenge=self._challenge
        )
        await exchange.answer(problem)
        return True


_CODE = UserContextMiddleware.__call__.__code__


class Conversation:
    """
    What a root of the boundary answers. Lives as long as it, where there is a container to ask it.

    Attributes:
        objects: what a framework calls it, made when a container is first asked for it.
    """

    __slots__ = ("exchange", "objects", "scope", "send")

    def __init__(self, scope: Scope, exchange: Exchange, send: Send) -> None:
        self.scope = scope
        self.exchange = exchange
        self.send = send
        self.objects: dict[Any, Any] = {}


def conversation_of(scope: RequestScope, kind: str) -> Conversation:
    """
    What the root of `scope` answers, of this kind of ASGI connection.

    Raises:
        ProviderError: nothing, or something of another kind.
    """
    found = _conversation_of(scope)
    if found is None or found.scope["type"] not in kind.split():
        raise ProviderError(
            f"Request `{scope.request_id}` answers no `{kind}` connection.",
            "Ask for it only in what is served under `UserContextMiddleware`.",
        )
    return found


def answers(scope: RequestScope, kind: str) -> bool:
    """Whether the root of `scope` answers anything of this kind of ASGI connection."""
    found = _conversation_of(scope)
    return found is not None and found.scope["type"] in kind.split()


def _conversation_of(scope: RequestScope) -> Conversation | None:
    extras = scope.root._extras
    return None if extras is None else extras.connection


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


# --- headers and paths ------------------------------------------------------------------------


def _checked_headers(scope: Scope, most: int, largest: int) -> dict[bytes, bytes]:
    """The first value of each header, if they are within bounds."""
    raw = scope.get("headers", ())
    if type(raw) is not list:
        raw = scope["headers"] = list(raw)
    headers = dict(raw)
    if len(headers) != len(raw):
        headers = _first_values(raw, most, largest)
    elif len(raw) > most or len(_join([*headers.values()])) > largest:
        raise _too_large(most, largest)
    return headers


def _first_values(
    raw: Sequence[tuple[bytes, bytes]], most: int, largest: int
) -> dict[bytes, bytes]:
    """The same, where a name came more than once."""
    if len(raw) > most or sum(len(value) for _, value in raw) > largest:
        raise _too_large(most, largest)
    names = [name for name, _ in raw]
    for name in ONLY_ONCE:
        if names.count(name) > 1:
            raise _Refusal(_repeated(name.decode()), 400)
    first = dict(reversed(raw))
    if names.count(REQUEST_ID) > 1:
        del first[REQUEST_ID]
    return first


def _repeated(name: str) -> InvalidContextError:
    return InvalidContextError(
        f"There is more than one `{name}` header.", "Send one.", field=name, rule="repeated"
    )


def _too_large(most: int, largest: int) -> _Refusal:
    error = ContextLimitError(
        f"There are more than {most} headers, or {largest} bytes of their values.",
        "Send fewer, or raise `Settings.max_headers` or `Settings.max_header_bytes`.",
        field="headers",
        rule="length",
    )
    return _Refusal(error, 431)


def _status_of(error: RingfenceError) -> int:
    """Of an error that came out of `identify`, or of opening the scope."""
    return 500 if isinstance(error, NoContextError) else problem_of(error).status


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
