"""Checks of what a context is made of: data, depth, times, names of operations."""

from __future__ import annotations

import datetime as dt
from typing import Any

from . import isolation
from .copies import isolated_copy, unreadable
from .errors import ContextLimitError, InvalidContextError, WrongTypeError
from .settings import Settings

__all__ = ["checked_data", "checked_depth", "checked_operation", "checked_time"]

RESERVED_KEYS = frozenset(
    "user_id thread_id run_id request_id created_at db_session websocket_client_id".split()
)


def checked_data(
    data: dict[str, Any] | None, field: str, settings: Settings
) -> dict[str, Any] | None:
    """An isolated copy of a context's data, or `None` if there is none."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise WrongTypeError(
            f"`{field}` must be a `dict`, not `{type(data).__name__}`.",
            "Pass a dict, or leave it out.",
            field=field,
            rule="type",
        )
    try:
        if type(data) is not dict:
            data = dict(data)  # a subclass may hide a key, and give it away when it is copied
        reserved = RESERVED_KEYS.intersection(data)
    except Exception as error:
        raise unreadable(field, error) from error
    if reserved:
        names = ", ".join(f"`{name}`" for name in sorted(reserved))
        raise InvalidContextError(
            f"`{field}` holds the reserved key {names}.",
            "Facts have fields of their own; name your data differently.",
            field=field,
            rule="reserved",
        )
    isolation.refuse_shared(data, field)
    return isolated_copy(data, field, settings.max_data_depth, settings.max_data_items)


def checked_depth(depth: int, settings: Settings) -> int:
    """`depth` if it may be an operation depth."""
    if type(depth) is not int:
        raise WrongTypeError(
            f"`operation_depth` must be an `int`, not `{type(depth).__name__}`.",
            "Leave it out for a root; use `child_context` for children.",
            field="operation_depth",
            rule="type",
        )
    if not 0 <= depth <= settings.max_depth:
        raise ContextLimitError(
            f"`operation_depth` is {depth}; 0 to {settings.max_depth} are allowed.",
            "Leave it out for a root; use `child_context` for children.",
            field="operation_depth",
            rule="depth",
        )
    return depth


def checked_time(field: str, value: dt.datetime | None) -> dt.datetime | None:
    """`value` in UTC if it is an aware time, `None` if there is none."""
    if value is None:
        return None
    if not isinstance(value, dt.datetime) or value.utcoffset() is None:
        raise WrongTypeError(
            f"`{field}` must be a `datetime` with a time zone.",
            "Use `datetime.now(timezone.utc)` and the like.",
            field=field,
            rule="type",
        )
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        raise InvalidContextError(
            f"`{field}` is out of range in UTC.",
            "Leave it out for no time, instead of the first or last there is.",
            field=field,
            rule="range",
        ) from None


def checked_operation(name: str) -> str:
    """`name` if it says what a child does."""
    if type(name) is str and name.strip():
        return name
    kind = InvalidContextError if isinstance(name, str) else WrongTypeError
    raise kind(
        "`operation_name` is blank." if isinstance(name, str) else "`operation_name` is no `str`.",
        "Say what the child does, for example `data_analysis`.",
        field="operation_name",
        rule="blank" if isinstance(name, str) else "type",
    )
