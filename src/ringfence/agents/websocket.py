"""
`await registry.set_websocket_manager(manager, context)`, as legacy agent registries offer it.

Thin on purpose: it remembers which manager serves which open request. Logs, replay and many
connections per user are an event hub's work.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import attrs

from .. import counters
from ..context import UserExecutionContext
from ..current import current_scope
from ..errors import ContextMismatchError, NoContextError, OwnershipError, WrongTypeError
from ..identifiers import generate_id
from ..protocols import WebSocketManager
from ..records import json_ready
from ..refusals import check_owner
from ..scope import RequestScope

__all__ = ["WebSocketRegistry"]

_User = tuple[str | None, str]  # tenant and user
_SAID_OF_A_USER = ("tenant_id", "user_id")
_made_for: dict[int, tuple[weakref.ref[Any], _User]] = {}
# By identity, as equality may lie. An entry is dropped before its id can pass to another.


@attrs.frozen(eq=False)
class _Connected:
    manager: WebSocketManager
    context: UserExecutionContext
    scope: RequestScope
    """Open at least as long as this is kept."""


class WebSocketRegistry:
    """
    Which WebSocket manager serves which open request. Lives as long as you keep it.

    An event sink (`ringfence.protocols.EventSink`) for code that has managers of its own; a base
    class for a registry of agents, or a part of one::

        registry = WebSocketRegistry()
        async with user_context(context):
            await registry.set_websocket_manager(manager, context)
            await registry.emit("agent_started", {"agent": "triage"})

    A manager serves one user for as long as it lives: the one of its `user_context`, or `user_id`
    and `tenant_id`, if it has these, else the first that it is given to.
    """

    def __init__(self) -> None:
        self._connected: dict[str, _Connected] = {}

    async def set_websocket_manager(
        self, manager: WebSocketManager, context: UserExecutionContext
    ) -> None:
        """
        Send the events of a request through `manager`, until its scope ends.

        Raises:
            NoContextError: no scope is open here, or it belongs to nobody.
            WrongTypeError: no manager, or no context.
            ContextMismatchError: a context of another user than the one whose scope is open.
            OwnershipError: another user's manager, or a context of another open request.
            ContextClosedError: the context's own scope has ended.
        """
        here = current_scope()
        _check_types(manager, context)
        if _user_of(context) != _user_of(here.context):
            raise ContextMismatchError(
                "This context is not of the user whose scope is open here.",
                "Pass `current_context()`, or the context that this scope was opened with.",
                request_id=here.request_id,
            )
        scope = context._scope if isinstance(context._scope, RequestScope) else here
        ids = {context.request_id, scope.request_id}
        for kept in filter(None, map(self._connected.get, ids)):
            check_owner(kept.context, kept.scope.root, here)  # ids can be chosen
        _reserve(manager, context)
        self._keep(_Connected(manager, context, scope), ids)

    def context_of(self, request_id: str) -> UserExecutionContext:
        """
        The context that is kept for a request of the tree that is open here.

        Raises:
            NoContextError: there is none.
            OwnershipError: it is of another tree.
        """
        connected = self._connected.get(request_id)
        if connected is None:
            raise NoContextError(
                f"No context is kept for request `{request_id}`.",
                "Call `set_websocket_manager` while its scope is open.",
            )
        check_owner(connected.context, connected.scope.root, current_scope())
        return connected.context

    async def emit(
        self, kind: str, data: Mapping[str, Any] | None = None, *, only_origin: bool = False
    ) -> str:
        """
        Send one event to the current user, by the manager that is nearest above; returns its id.

        The message is a dictionary of `id`, `type`, `request_id`, `thread_id`, `run_id` and `data`,
        ready for JSON, without secrets. Without a manager nothing is sent, and
        `legacy.event_undelivered` is counted. What the manager raises is raised. A manager chooses
        among its user's connections by itself: `only_origin` is for an event hub.

        Raises:
            NoContextError, ContextClosedError: nobody is current here.
        """
        scope, event_id = current_scope(), generate_id()
        context, connected = scope.context, self._nearest(scope)
        if connected is None:
            counters.count("legacy.event_undelivered")
            return event_id
        message = _message(context, event_id, kind, data)
        await connected.manager.send_to_user(context.user_id, message)
        return event_id

    def stop(self) -> None:
        """Nothing waits here for events."""

    async def aclose(self) -> None:
        """Managers are their makers' to close."""

    def _nearest(self, scope: RequestScope) -> _Connected | None:
        above: RequestScope | None = scope
        while above is not None:
            connected = self._connected.get(above.request_id)
            if connected is not None and connected.scope.root is scope.root:
                return connected
            above = above.parent
        return None

    def _keep(self, connected: _Connected, ids: set[str]) -> None:
        connected.scope.callback(self._forget, connected, ids)
        for request_id in ids:
            self._connected[request_id] = connected

    def _forget(self, connected: _Connected, ids: set[str]) -> None:
        for request_id in ids:
            if self._connected.get(request_id) is connected:  # else replaced meanwhile
                del self._connected[request_id]


def _message(
    context: UserExecutionContext, event_id: str, kind: str, data: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": kind,
        "request_id": context.request_id,
        "thread_id": context.thread_id,
        "run_id": context.run_id,
        "data": json_ready({} if data is None else dict(data)),
    }


def _user_of(context: UserExecutionContext) -> _User:
    return context.tenant_id, context.user_id


def _check_types(manager: object, context: object) -> None:
    if not isinstance(manager, WebSocketManager):
        raise WrongTypeError(
            f"A `{type(manager).__name__}` is no WebSocket manager.",
            "It has `async def send_to_user(user_id, message)`.",
            rule="type",
        )
    if not isinstance(context, UserExecutionContext):
        raise WrongTypeError(
            f"Expected a `UserExecutionContext`, not a `{type(context).__name__}`.",
            "Pass the context itself, for example `current_context()`.",
            rule="type",
        )


def _reserve(manager: Any, context: UserExecutionContext) -> None:
    """Note whose a manager is; raise if it is another's."""
    user = _user_of(context)
    if _is_said_to_be_anothers(manager, context) or _reserved(manager, user) != user:
        raise OwnershipError(
            f"This `{type(manager).__name__}` serves another user.",
            "Make a manager of its own for each user.",
            request_id=context.request_id,
        )


def _is_said_to_be_anothers(manager: Any, context: UserExecutionContext) -> bool:
    made_for = getattr(manager, "user_context", None)
    if isinstance(made_for, UserExecutionContext) and _user_of(made_for) != _user_of(context):
        return True
    said = ((getattr(manager, name, None), getattr(context, name)) for name in _SAID_OF_A_USER)
    return any(isinstance(one, str) and one != other for one, other in said)


def _reserved(manager: Any, user: _User) -> _User:
    key = id(manager)
    known = _made_for.get(key)
    if known is None:
        try:
            ref = weakref.ref(manager, lambda gone: _drop(key, gone))
        except TypeError:
            raise WrongTypeError(
                f"Instances of `{type(manager).__name__}` cannot be told apart in time.",
                'Add `"__weakref__"` to its `__slots__`.',
                rule="type",
            ) from None
        known = _made_for[key] = (ref, user)
    return known[1]


def _drop(key: int, gone: weakref.ref[Any]) -> None:
    known = _made_for.get(key)
    if known is not None and known[0] is gone:
        del _made_for[key]
