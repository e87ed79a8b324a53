"""A client that speaks byte by byte: several requests in one packet, half a stream, a reset."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

HOST = "127.0.0.1"
GRACE = 10  # seconds, for what must happen at once

UPGRADE = (
    "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def request(
    path: str, user: str | None = None, body: int = 0, extra: str = "", name: str | None = None
) -> bytes:
    """A request with a body of that many bytes; in the journal it is called `name`."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: {HOST}\r\n{extra}"
    for header, value in {"x-user": user, "x-name": name}.items():
        if value is not None:
            head += f"{header}: {value}\r\n"
    if body:
        head += f"content-length: {body}\r\n"
    return head.encode() + b"\r\n" + b"x" * body


def text_frame(text: str) -> bytes:
    """A short WebSocket message of a client, masked with zeros."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


class Wire:
    """One connection, kept alive; requests may be sent before answers are read."""

    def __init__(self, port: int) -> None:
        self._socket = _connect(port)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, *requests: bytes) -> None:
        """All in as few packets as the system makes of it."""
        self._socket.sendall(b"".join(requests))

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer; status 0 if the connection ended instead."""
        line = self._file.readline()
        if not line:
            return 0, {}
        headers = {}
        while field := self._file.readline().strip():
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    def answer(self) -> tuple[int, Any]:
        """The next answer: status, and its JSON document."""
        status, headers = self.head()
        return status, json.loads(self._file.read(int(headers["content-length"])))

    def users(self) -> set[str]:
        """Who the application saw in the next request, at its beginning and end."""
        status, seen = self.answer()
        assert status == 200, seen
        return set(seen)

    def upgrade(self, path: str, user: str | None, name: str | None = None) -> dict[str, str]:
        """Make a WebSocket of this connection."""
        self.send(request(path, user, extra=UPGRADE, name=name))
        status, headers = self.head()
        assert status == 101, status
        return headers

    def message(self) -> str:
        """The next WebSocket message, a short text."""
        length = self.read(2)[1]
        return self.read(length).decode()

    def read(self, size: int) -> bytes:
        """Bytes of the body."""
        return self._file.read(size)

    def read_chunks(self) -> None:
        """The rest of a chunked body."""
        while (line := self._file.readline()) and line.strip() != b"0":
            pass
        self._file.readline()

    def reset(self) -> None:
        """When it is closed, it is reset, as when a cable is pulled."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _connect(port: int) -> socket.socket:
    """Try until the server listens: some say that they have started before they do."""
    deadline = time.monotonic() + GRACE
    while True:
        try:
            return socket.create_connection((HOST, port), timeout=20)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
