"""Connection: what `identify` is shown of a request before anybody is bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, overload
from urllib.parse import parse_qsl

__all__ = ["Connection", "Headers", "route_path"]

D = TypeVar("D")
RawHeaders = Sequence[tuple[bytes, bytes]]


class Headers(Mapping[str, str]):
    """
    The headers of one request: read-only, names in any case, values as latin-1 text.

    Lives as long as the `Connection`. Of a name that was sent twice, `[]` and `get` give the
    first value and `getlist` gives all.
    """

    __slots__ = ("_first", "_raw")

    def __init__(self, first: Mapping[bytes, bytes], raw: RawHeaders) -> None:
        self._first = first
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str) -> str: ...
    @overload
    def get(self, name: str, /, default: D) -> str | D: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """The first value of a header, else `default`."""
        value = self._first.get(name.lower().encode("latin-1", "replace"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, name: str) -> list[str]:
        """Every value of a header, in the order they were sent."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for key, value in self._raw if key.lower() == wanted]

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"<Headers {sorted(self)}>"  # names only: values may be secrets


class Connection:
    """
    What `identify` is shown of a request. Lives until `identify` has answered.

    Everything is parsed when it is asked for. Take an identity from a signed token or a session
    that the server keeps, never from a plain header, the query string or an id that the client
    chose::

        def identify(connection: Connection) -> Identity | None:
            session = sessions.get(connection.cookies.get("session"))
            return None if session is None else Identity(session.user_id)

    Attributes:
        scope: the ASGI dict.
    """

    __slots__ = ("_first", "scope")

    def __init__(self, scope: MutableMapping[str, Any], first: Mapping[bytes, bytes]) -> None:
        self.scope = scope
        self._first = first

    @property
    def headers(self) -> Headers:
        """The headers, names in any case."""
        return Headers(self._first, self.scope.get("headers", ()))

    @property
    def query_params(self) -> Mapping[str, str]:
        """The query string, read-only; the last value of a name that came twice."""
        text = self.scope.get("query_string", b"").decode("latin-1")
        return MappingProxyType(dict(parse_qsl(text, keep_blank_values=True)))

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies, read-only; the last value of a name that came twice."""
        parts = ";".join(self.headers.getlist("cookie")).split(";")
        pairs = [part.partition("=") for part in parts if "=" in part]
        return MappingProxyType({name.strip(): text.strip().strip('"') for name, _, text in pairs})

    @property
    def path(self) -> str:
        """The decoded path without the prefix that the application is mounted at."""
        return route_path(self.scope)

    @property
    def client(self) -> tuple[str, int] | None:
        """Host and port of the peer, which may be a proxy; `None` if the server cannot tell."""
        client = self.scope.get("client")
        return None if client is None else (client[0], client[1])

    def __repr__(self) -> str:
        return f"<Connection {self.scope['type']} {self.path!r}>"


def route_path(scope: Mapping[str, Any]) -> str:
    """The decoded path that routes are matched on: without `root_path`, if it begins with it."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path
