"""Arguments: how calls in the supervisor vocabulary are put in canonical words."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, TypedDict

from ..errors import InvalidContextError
from ..isolation import UNOWNABLE
from ..settings import Settings, default_settings
from .deprecations import deprecated
from .metadata import split_lineage

__all__ = [
    "ChildKeywords",
    "ContextKeywords",
    "RequestKeywords",
    "canonical_arguments",
    "child_additions",
    "refuse_unknown",
]


class RequestKeywords(TypedDict, total=False):
    """What `from_request` takes besides the three ids, in both vocabularies."""

    request_id: str | None
    db_session: Any
    websocket_client_id: str | None
    agent_context: dict[str, Any] | None
    audit_metadata: dict[str, Any] | None
    metadata: Mapping[str, Any] | None
    session_id: str | None
    websocket_connection_id: str | None


class ContextKeywords(RequestKeywords, total=False):
    """What the constructor takes besides."""

    created_at: dt.datetime | None
    operation_depth: int
    parent_request_id: str | None
    tenant_id: str | None
    expires_at: dt.datetime | None
    client_request_id: str | None


class ChildKeywords(TypedDict, total=False):
    """What `create_child_context` takes in supervisor words."""

    additional_metadata: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


REQUEST_ORDER = tuple(
    "request_id db_session websocket_client_id agent_context audit_metadata".split()
)
CONTEXT_ORDER = tuple(
    "request_id db_session websocket_client_id created_at agent_context audit_metadata "
    "operation_depth parent_request_id".split()
)
SUPERVISOR_ORDER = tuple(
    "db_session request_id session_id websocket_client_id created_at metadata".split()
)
"""After the three ids; told by a session that comes fourth."""

_NO_SESSIONS = (*UNOWNABLE, uuid.UUID, dict, list, tuple, set, frozenset)


def canonical_arguments(
    positional: tuple[Any, ...], given: Mapping[str, Any], order: tuple[str, ...]
) -> dict[str, Any]:
    """
    The canonical constructor's keywords for what a legacy call gave after the three ids.

    Warnings name the line that called the caller of this.

    Raises:
        TypeError: too many arguments, or one of them twice.
        InvalidContextError: two values for one thing, or metadata that no context may have.
    """
    arguments = _named(positional, given, order)
    if "websocket_connection_id" in arguments:
        deprecated("websocket_connection_id=", 3)
        connection = arguments.pop("websocket_connection_id")
        _set_once(arguments, "websocket_client_id", connection)
    if "session_id" in arguments:
        deprecated("session_id=", 3)
        session_id = arguments.pop("session_id")
        if session_id is not None:
            _add_data(arguments, {"session_id": session_id}, "session_id")
    if "metadata" in arguments:
        deprecated("metadata=", 3)
        metadata = arguments.pop("metadata")
        if metadata is not None:
            _take_metadata(arguments, metadata)
    return arguments


def _take_metadata(arguments: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    lineage, rest = split_lineage(metadata, default_settings())
    for key, value in lineage.items():
        _set_once(arguments, key, value)
    _add_data(arguments, rest, "metadata")


def _named(
    positional: tuple[Any, ...], given: Mapping[str, Any], order: tuple[str, ...]
) -> dict[str, Any]:
    if _is_of_supervisor(positional):
        deprecated("a session as fourth argument", 4)
        order = SUPERVISOR_ORDER
    if len(positional) > len(order):
        raise TypeError(
            f"{3 + len(order)} positional arguments are taken, {3 + len(positional)} were given"
        )
    named = dict(zip(order, positional, strict=False))
    twice = named.keys() & given.keys()
    if twice:
        raise TypeError(f"multiple values for argument {min(twice)!r}")
    return {**named, **given}


def _is_of_supervisor(positional: tuple[Any, ...]) -> bool:
    """By a session in front, or none and then text: a session is never text, a request id is."""
    if not positional:
        return False
    if positional[0] is None:
        return len(positional) > 1 and isinstance(positional[1], str)
    return not isinstance(positional[0], _NO_SESSIONS)


def _set_once(arguments: dict[str, Any], name: str, value: object) -> None:
    """Set an argument that may have been given by its canonical name, too."""
    known = arguments.get(name)
    if known is None:
        arguments[name] = value
    elif value is not None and known != value:
        raise _twice(name)


def _add_data(arguments: dict[str, Any], additions: dict[str, Any], field: str) -> None:
    agent, audit = arguments.get("agent_context"), arguments.get("audit_metadata")
    if agent is not None and not isinstance(agent, dict):
        return  # the constructor refuses it
    _refuse_doubles(additions, agent, audit, field)
    arguments["agent_context"] = {**(agent or {}), **additions}


def child_additions(
    inherited_audit: dict[str, Any],
    agent: dict[str, Any] | None,
    audit: dict[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    settings: Settings,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """
    A child's additions to `agent_context` and `audit_metadata`, with `metadata` among them.

    Each key goes to the dictionary that has it: one that is in the parent's `audit_metadata`
    would be hidden by it otherwise. What the metadata say of lineage is dropped.

    Raises:
        InvalidContextError: a key that stands twice, or metadata that no context may have.
    """
    if metadata is None:
        return agent, audit
    _, rest = split_lineage(metadata, settings)
    _refuse_doubles(rest, agent, audit, "metadata")
    to_audit = {key: value for key, value in rest.items() if key in inherited_audit}
    to_agent = {key: value for key, value in rest.items() if key not in inherited_audit}
    return {**(agent or {}), **to_agent}, {**(audit or {}), **to_audit}


def refuse_unknown(given: Mapping[str, Any], known: type) -> None:
    """Raise `TypeError` for a keyword that nobody knows, as Python does for others."""
    unknown = given.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")


def _refuse_doubles(additions: dict[str, Any], agent: Any, audit: Any, field: str) -> None:
    for held in (agent, audit):
        doubles = additions.keys() & held.keys() if isinstance(held, dict) else ()
        for key in doubles:
            if held[key] is not additions[key] and held[key] != additions[key]:
                raise _twice(field if key == field else f"{field}[{key!r}]")


def _twice(field: str) -> InvalidContextError:
    return InvalidContextError(
        f"`{field}` is given twice, in the old words and in the new.",
        "Give it once, in the new words.",
        field=field,
        rule="twice",
    )
