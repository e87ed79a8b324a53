"""Events: what a client is told, how it is written down, and what may not be in it."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import attrs

from ..errors import ContextLimitError, InvalidContextError, WrongTypeError
from .position import Position

if TYPE_CHECKING:
    from ..context import UserExecutionContext

__all__ = ["Event", "EventDocument", "Resync", "checked_kind", "record_of"]

VERSION = 1
"""Of the documents. Fields may be added under one version; none is changed or taken away."""

KINDS = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
    "agent_failed",
)
"""The kinds that ringfence itself knows; an application adds its own by emitting them."""

RESERVED = frozenset({"heartbeat", "ready", "resync"})
"""What a connection says of itself, and nobody emits."""

_is_kind = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII).fullmatch
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class EventDocument(TypedDict):
    """An event as clients get it, in JSON."""

    id: str
    sequence: int
    version: Literal[1]
    kind: str
    time: str
    thread_id: str
    run_id: str
    request_id: str
    parent_request_id: str | None
    depth: int
    operation: str | None
    data: dict[str, Any]


@attrs.frozen
class Event:
    """
    One event of the current user. An immutable value, but for `data`, which is a copy of your own.

    Lives as long as you keep it. Its fields are those of `EventDocument`.

    Args:
        position: its place in the user's log; the text of it is the `id`.
        record: the rest, in JSON.
    """

    position: Position
    record: bytes = attrs.field(repr=False)

    @property
    def id(self) -> str:
        """`epoch-sequence`: what a client sends back to get what comes after."""
        return str(self.position)

    @property
    def sequence(self) -> int:
        """The number in the user's log; one is missing where another connection alone got it."""
        return self.position.sequence

    @property
    def kind(self) -> str:
        """What happened."""
        return self.document["kind"]

    @property
    def data(self) -> dict[str, Any]:
        """What the application says about it."""
        return self.document["data"]

    @cached_property
    def document(self) -> EventDocument:
        """All of it, as clients get it; parsed when it is first asked for."""
        found: EventDocument = json.loads(self.json())
        return found

    def json(self) -> str:
        """The document as text of one line."""
        head = f'{{"id":"{self.position}","sequence":{self.position.sequence},'
        return head + self.record[1:].decode()


@attrs.frozen
class Resync:
    """
    Events were missed and cannot be had any more: reload the state, and go on from here.

    An immutable value. What comes after it in a subscription is complete again.

    Args:
        position: what to resume from.
        reason: `trimmed`: away for too long; `epoch`: the log was lost or forgotten; `ahead`:
            the log does not reach that far.
    """

    position: Position
    reason: str

    @property
    def id(self) -> str:
        """What a client sends back to get what comes after."""
        return str(self.position)

    @property
    def kind(self) -> str:
        """`resync`."""
        return "resync"

    def json(self) -> str:
        """The document as text of one line."""
        return notice(self.kind, self.id, reason=self.reason)


def notice(kind: str, event_id: str, **data: object) -> str:
    """What a connection says of itself."""
    text: str = _encode({"id": event_id, "version": VERSION, "kind": kind, "data": data})
    return text


def checked_kind(kind: object) -> str:
    """
    `kind` if events may be of it: `[a-z][a-z0-9_.]*`, 64 characters at most, not reserved.

    Raises:
        InvalidContextError: it may not.
    """
    if type(kind) is str and _is_kind(kind) and kind not in RESERVED:
        return kind
    raise InvalidContextError(
        f"There can be no event of the kind {kind!r:.80}.",
        "Name it like `order_placed`: lower-case letters, digits, `_` and `.`, a letter first, "
        f"64 at most; none of {', '.join(sorted(RESERVED))}.",
        field="kind",
        rule="characters",
    )


def record_of(
    context: UserExecutionContext, kind: str, data: Mapping[str, Any] | None, limit: int
) -> bytes:
    """
    An event of this context as its log keeps it.

    Raises:
        InvalidContextError: data that JSON has no words for (`WrongTypeError`), or too much of
            it (`ContextLimitError`).
    """
    operation = context._operation
    fields = {
        "version": VERSION,
        "kind": checked_kind(kind),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "thread_id": context.thread_id,
        "run_id": context.run_id,
        "request_id": context.request_id,
        "parent_request_id": context.parent_request_id,
        "depth": context.operation_depth,
        "operation": None if operation is None else operation[0],
        "data": {} if data is None else _dict(data),
    }
    try:
        record = _encode(fields).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(f"`data` cannot be written as JSON{_reason(data, error)}.") from None
    if len(record) > limit:
        raise ContextLimitError(
            f"An event of {len(record)} bytes is too large; {limit} are allowed.",
            "Send an id by which the client gets the rest, or raise `EventHub(max_event_bytes=)`.",
            field="data",
            rule="length",
        )
    return record


def _dict(data: object) -> dict[Any, Any]:
    if not isinstance(data, Mapping):
        raise _not_json(f"`data` is a `{type(data).__name__}`, not a `dict`.")
    return data if isinstance(data, dict) else dict(data)


def _not_json(fact: str) -> WrongTypeError:
    return WrongTypeError(
        fact, "Pass a dict of plain values: text, numbers, lists, dicts.", field="data", rule="json"
    )


def _reason(data: object, error: Exception) -> str:
    """The place and the type, never the value."""
    if isinstance(error, RecursionError) or "Circular" in str(error):
        return ": it is nested too deep, or contains itself"
    if isinstance(error, UnicodeEncodeError):
        return ": it holds half a surrogate pair"
    place, value = _culprit(data, "data")
    if isinstance(value, float):
        return f": `{place}` is not finite"
    return f": `{place}` is a `{type(value).__name__}`"


def _culprit(value: Any, place: str) -> tuple[str, Any]:
    """The first value, going down, that JSON has no words for."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        inner = f"{place}[{key!r:.40}]"
        if not isinstance(key, (str, int, float)) and key is not None:
            return inner, key
        try:
            _encode(item)
        except Exception:
            return _culprit(item, inner)
    return place, value
