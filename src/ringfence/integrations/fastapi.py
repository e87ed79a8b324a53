"""FastAPI: context, session and provided objects as parameters; `requires` for a route's rules."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

try:
    from fastapi import Depends
except ImportError as missing:
    raise ImportError(
        'This needs FastAPI. Install it with `pip install "ringfence[fastapi]"`.'
    ) from missing
from starlette.requests import HTTPConnection

from ..context import UserExecutionContext
from ..current import current_context, current_scope
from ..errors import ConfigurationError, ForbiddenError
from ..injection.keys import key_of
from ..starting import before_serving
from .starlette import (
    AuthenticatedUser,
    UserContextMiddleware,
    each_message,
    event_socket,
    event_stream,
    exception_handlers,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from typing_extensions import TypeForm
else:
    AsyncSession = Any  # FastAPI does not look at the type of what `Depends` gives

__all__ = [
    "AuthenticatedUser",
    "CurrentContext",
    "OptionalContext",
    "ScopedSession",
    "UserContextMiddleware",
    "each_message",
    "event_socket",
    "event_stream",
    "exception_handlers",
    "from_container",
    "requires",
    "scoped_session",
]

Rule = str | Callable[[Mapping[str, Any]], Any]


# Async all of them: FastAPI runs sync ones in a thread.


async def _context() -> UserExecutionContext:
    return current_context()


async def _context_or_none() -> UserExecutionContext | None:
    scope = current_scope()  # that there is no middleware is no reason to say "nobody"
    return scope.context if scope.has_user else None


async def scoped_session(connection: HTTPConnection) -> Any:
    """
    The session of the current scope, as a dependency: `Annotated[MySession, Depends(this)]`.

    Raises:
        ConfigurationError: there is no database, or the route is sync: it would use the session
            in a thread.
        NoContextError: there is no middleware.
    """
    _refuse_session_in_thread(connection.scope.get("route"))
    session = current_scope().db_session
    if session is None:
        raise ConfigurationError(
            "There is no database to open a session from.",
            "Give the fence one: `Ringfence(database=Database(...))`.",
        )
    return session


CurrentContext = Annotated[UserExecutionContext, Depends(_context)]
"""The context of this request; nobody is answered with 401."""

OptionalContext = Annotated[UserExecutionContext | None, Depends(_context_or_none)]
"""The context of this request, `None` if it belongs to nobody."""

ScopedSession = Annotated[AsyncSession, Depends(scoped_session)]
"""This request's own database session; nobody has one too. For async routes."""


def from_container(wanted: TypeForm[Any]) -> Any:
    """
    A dependency that gives the object of this type that the fence's container provides here.

    For what FastAPI calls itself, as dependencies of other dependencies; sync routes get also what
    needs an `await`. It lives as its provider says, whatever FastAPI would keep::

        @app.get("/orders")
        def orders(orders: Annotated[Orders, from_container(Orders)]) -> list[str]: ...

    A session is for async routes: a sync one is refused when the fence's lifespan begins, or else
    by its first request.
    """

    async def give() -> Any:
        return await current_scope().get(wanted)

    async def give_session(connection: HTTPConnection) -> Any:
        _refuse_session_in_thread(connection.scope.get("route"))
        return await current_scope().get(wanted)

    if not _is_session(wanted):
        return Depends(give, use_cache=False)
    give_session.__ringfence_session__ = True  # type: ignore[attr-defined]
    return Depends(give_session, use_cache=False)


def requires(*rules: Rule, claim: str = "roles") -> Any:
    """
    A dependency that lets a request pass if *all* rules are met, else answers 403.

    Works on a route, a router or the application, and in WebSocket routes; nobody is answered
    with 401. A rule is a role, to be found in the claim, or a function of the claims, sync or
    async; only `True` passes::

        @app.delete("/orders/{id}", dependencies=[requires("admin")])
        async def delete(id: int) -> None: ...

        paying = requires(lambda claims: claims.get("plan") in ("team", "pro"))

    Args:
        rules: one at least.
        claim: where roles are: a list, a set, or text in which they are parted by spaces, as
            OAuth's `scope` is. Any other value holds no role.

    Raises:
        ConfigurationError: no rules, or something that is none.
    """
    if not rules or not all(callable(rule) or (type(rule) is str and rule) for rule in rules):
        raise ConfigurationError(
            f"`requires` cannot check {rules!r}.",
            'Name roles, or give functions of the claims: `requires("admin")`.',
        )

    async def check() -> None:
        current_context()  # nobody has no roles to ask about
        claims = current_scope().claims
        for rule in rules:
            if isinstance(rule, str):
                answer: Any = rule in _roles(claims.get(claim))
            else:
                answer = rule(claims)
                if inspect.isawaitable(answer):
                    answer = await answer
            if answer is not True:
                raise ForbiddenError("The user may not do this.", "Ask for the role that may.")

    return Depends(check)


def _roles(value: object) -> tuple[object, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(value) if isinstance(value, (tuple, frozenset)) else ()


def _is_session(wanted: Any) -> bool:
    """Whether it is a class of sessions; SQLAlchemy may not be there to ask."""
    return any(
        cls.__name__ == "AsyncSession" and cls.__module__.startswith("sqlalchemy.")
        for cls in getattr(key_of(wanted), "__mro__", ())
    )


def _refuse_session_in_thread(route: Any) -> None:
    dependant = getattr(route, "dependant", None)
    if dependant is not None and _hands_session_to_thread(dependant):
        raise ConfigurationError(
            f"`{getattr(dependant.call, '__qualname__', dependant.call)}` asks for a session and "
            "is not async: FastAPI runs it in a thread, where the session cannot be used.",
            "Write it as `async def`, or let an async dependency fetch what it needs.",
        )


def _refuse_sessions_in_threads(app: object) -> None:
    """The same of a whole application, with the routers it includes and what is mounted."""
    for route in getattr(app, "routes", None) or ():
        _refuse_session_in_thread(route)
        _refuse_sessions_in_threads(getattr(route, "original_router", route))


before_serving(_refuse_sessions_in_threads)


def _hands_session_to_thread(dependant: Any) -> bool:
    """Whether a sync route gets the session, itself or in something that sync code made of it."""
    return not _is_async(dependant.call) and any(
        part.name is not None and (_gives_session(part.call) or _hands_session_to_thread(part))
        for part in dependant.dependencies
    )


def _gives_session(call: Any) -> bool:
    return call is scoped_session or hasattr(call, "__ringfence_session__")


def _is_async(call: Any) -> bool:
    """Whether FastAPI runs it on the event loop."""
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.isclass(call):
        return False
    candidates = (call, inspect.unwrap(call), getattr(type(call), "__call__", None))  # noqa: B004
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates
    )
