"""Records: plain, bounded and redacted copies of data, ready for JSON and logs."""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["json_ready", "request_facts"]

_SECRET = re.compile(
    r"(?:^|[_-])(?:password|passwd|secret|api[_-]?key|private[_-]?key|authorization|cookie|"
    r"credentials?|(?:access|refresh|id|auth|bearer|session)[_-]token)$|^token$",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TRACING_HEADERS = ("x-request-id", "x-correlation-id", "x-trace-id", "traceparent")
_LONGEST_FACT = 512
_MOST_VALUES = 100_000
_DEEPEST = 200
_MOST_BITS = 2000


def json_ready(value: object) -> Any:
    """
    `value` as `json.dumps` takes it, whatever it holds.

    Values under keys such as `password`, `api_key`, `access_token` or `cookie` become
    `"[redacted]"`, objects that JSON does not know `"<TypeName>"`, cycles `"<cycle>"`, what
    is nested more than 200 deep or beyond 100,000 values `"<cut>"`, infinities and NaN text.

    >>> json_ready({"at": (1, 2), "api_key": "k", "lock": object()})
    {'at': [1, 2], 'api_key': '[redacted]', 'lock': '<object>'}
    """
    return _ready(value, set(), [_MOST_VALUES])


def _ready(value: Any, path: set[int], left: list[int]) -> Any:
    left[0] -= 1
    if value is None or isinstance(value, (bool, str, int)):
        return _scalar(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return _ready(value.value, path, left)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return _container(value, path, left)
    return f"<{type(value).__name__}>"


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may say what it likes
    if value is None or isinstance(value, bool):
        return value
    plain = int.__int__(value)
    if plain.bit_length() > _MOST_BITS:
        return f"<int of {plain.bit_length()} bits>"  # Python refuses to write it out
    return plain


def _key(key: Any) -> str:
    if isinstance(key, (str, int)):
        return str(_scalar(key))
    try:
        return str(key)
    except Exception:
        return f"<{type(key).__name__}>"


def _container(value: Any, path: set[int], left: list[int]) -> Any:
    if id(value) in path:
        return "<cycle>"
    if left[0] <= 0 or len(path) >= _DEEPEST:
        return "<cut>"
    path.add(id(value))
    try:
        if isinstance(value, Mapping):
            return {
                _key(key): "[redacted]" if _is_secret(key, item) else _ready(item, path, left)
                for key, item in value.items()
            }
        return [_ready(item, path, left) for item in value]
    except RecursionError:  # called from deep down
        return "<cut>"
    except Exception:  # a container of its own kind, or changed by another thread meanwhile
        return f"<{type(value).__name__}>"
    finally:
        path.discard(id(value))


def _is_secret(key: object, value: object) -> bool:
    if not isinstance(key, str) or value is None or isinstance(value, bool):
        return False
    return bool(_SECRET.search(key if key.islower() else _HUMP.sub("_", key)))


def _plain_url(text: str) -> str | None:
    try:
        url = urlsplit(text)
    except ValueError:  # a Host header such as `[::1`
        return None
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def request_facts(request: Any) -> dict[str, Any]:
    """
    Where a Starlette request came from, as facts for `audit_metadata`.

    `client_ip`, `user_agent`, `method`, `url` (without its query, which may hold secrets),
    `content_type`, and the tracing headers that were sent. Absent ones read `"unknown"`; each
    is cut at 512 characters.
    """
    headers = request.headers
    client = request.client
    facts = {
        "client_ip": client.host if client else None,
        "user_agent": headers.get("user-agent"),
        "method": getattr(request, "method", None),
        "url": _plain_url(str(request.url)),
        "content_type": headers.get("content-type"),
    }
    facts = {name: (value or "unknown")[:_LONGEST_FACT] for name, value in facts.items()}
    for name in _TRACING_HEADERS:
        if name in headers:
            facts[name.replace("-", "_")] = headers[name][:_LONGEST_FACT]
    return facts
