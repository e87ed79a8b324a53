"""What a scenario asks of the application: `Request` and `WebSocket`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ...errors import ConfigurationError
from .canaries import SHAPE

__all__ = ["Answer", "Request", "WebSocket"]

Headers = tuple[tuple[str, str], ...]
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BREAKS = re.compile(r"[\r\n\0]")
_CANARY = re.compile(SHAPE)


def headers_of(given: Any) -> Headers:
    """Headers as pairs, from a mapping or an iterable of pairs."""
    try:
        pairs = given.items() if isinstance(given, Mapping) else given
        headers = tuple((str(name), str(value)) for name, value in pairs)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"Headers cannot be {given!r:.80}.",
            'Give a mapping, as {"authorization": "Bearer ..."}, or pairs of name and value.',
        ) from None
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _BREAKS.search(value) or not value.isascii():
            raise ConfigurationError(
                f"The header {name!r:.60} cannot be sent.",
                "A name has no spaces, and a value is ASCII on one line.",
            )
    return headers


def _path(given: str) -> str:
    if not given.startswith("/") or not given.isascii() or re.search(r"\s", given):
        raise ConfigurationError(
            f"A path cannot be {given!r:.80}.",
            "It begins with `/`; what is not ASCII, and spaces, are written %XX.",
        )
    return given


def _method(given: str) -> str:
    if not _TOKEN.fullmatch(given):
        raise ConfigurationError(f"A method cannot be {given!r:.60}.", "It is such as `GET`.")
    return given.upper()


def _statuses(given: Any) -> frozenset[int] | None:
    if given is None:
        return None
    return frozenset((given,) if isinstance(given, int) else given)


def _messages(given: Iterable[Any]) -> tuple[str | bytes, ...]:
    if isinstance(given, (str, bytes)):
        given = (given,)
    return tuple(one if isinstance(one, (str, bytes)) else json.dumps(one) for one in given)


def _plain_kind(asked: Any) -> str:
    """Method and path: what the requests of all users have in common."""
    method = getattr(asked, "method", "WebSocket")
    return f"{method} {_CANARY.sub('*', asked.path.partition('?')[0])}"


_KIND: Any = attrs.Factory(_plain_kind, takes_self=True)


@attrs.frozen
class Request:
    """
    One request over HTTP. A value::

        Request("POST", "/notes", body={"text": f"remember {canary}"})

    Args:
        method, path: the path may have a query.
        headers: beside those of the login.
        body: bytes, text, or what becomes JSON.
        kind: its name in the report's table; method and path, if not given.
        expect: the status, or statuses, that are right; if not given, those below 400.
        echoes: whether its answer must contain the user's own canary.
        as_nobody: sent without the headers of the login; no canary may come back.

    Raises:
        ConfigurationError: what cannot be sent.
    """

    method: str = attrs.field(converter=_method)
    path: str = attrs.field(converter=_path)
    headers: Headers = attrs.field(default=(), converter=headers_of)
    body: Any = b""
    kind: str = attrs.field(default=_KIND, kw_only=True)
    expect: frozenset[int] | None = attrs.field(default=None, converter=_statuses, kw_only=True)
    echoes: bool = attrs.field(default=False, kw_only=True)
    as_nobody: bool = attrs.field(default=False, kw_only=True)

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        if isinstance(self.body, (bytes, bytearray)):
            return bytes(self.body)
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    @property
    def is_json(self) -> bool:
        """Whether blanks may be added to the body without changing what it says."""
        return not isinstance(self.body, (bytes, bytearray, str))

    def is_right(self, status: int) -> bool:
        """Whether the scenario expects this status."""
        return status < 400 if self.expect is None else status in self.expect


@attrs.frozen
class WebSocket:
    """
    One conversation over a WebSocket. A value::

        WebSocket("/ws", [{"say": canary}], until="done")

    Args:
        path: it may have a query.
        messages: sent one after the other; text, bytes, or what becomes JSON.
        until: an answer that contains this text ends what a message is answered with; if not
            given, each message is answered by one.
        headers: beside those of the login.
        subprotocols: those that are offered.
        kind, expect, echoes, as_nobody: as in `Request`; `expect` is the status of a refusal.

    Raises:
        ConfigurationError: what cannot be sent.
    """

    path: str = attrs.field(converter=_path)
    messages: tuple[str | bytes, ...] = attrs.field(default=(), converter=_messages)
    until: str | None = None
    headers: Headers = attrs.field(default=(), converter=headers_of)
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    kind: str = attrs.field(default=_KIND, kw_only=True)
    expect: frozenset[int] | None = attrs.field(default=None, converter=_statuses, kw_only=True)
    echoes: bool = attrs.field(default=False, kw_only=True)
    as_nobody: bool = attrs.field(default=False, kw_only=True)

    def is_right(self, status: int) -> bool:
        """Whether the scenario expects this status; 101 is that of a connection that opened."""
        return status == 101 if self.expect is None else status in self.expect


@attrs.frozen
class Answer:
    """What `send` gives to a scenario's `login`. A value."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)
