"""HTTP/1.1 by hand over one socket: two requests in one write, and a reset in mid-stream."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Any  # parsed, if it is JSON


def request(method: str, path: str, token: str | None = None, body: Any = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(content)}"]
    if body is not None:
        lines.append("content-type: application/json")
    if token is not None:
        lines.append(f"authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode() + content


async def exchange(port: int, *requests: bytes) -> list[Answer]:
    """Send all requests at once on one connection, and read their answers in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(requests))
        await writer.drain()
        return [await _read(reader) for _ in requests]
    finally:
        writer.close()


class Stream:
    """Server-sent events, read as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, asked: bytes) -> Stream:
        """Send a request, and wait until its answer has begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        status, headers = await _read_head(reader)
        if (status, headers.get("transfer-encoding")) != (200, "chunked"):
            writer.close()
            raise ConnectionError(f"the stream began with {status}")
        return cls(reader, writer)

    async def event(self) -> tuple[str, Any] | None:
        """The next event's name and data; `None` at the end, `ConnectionError` if it is cut."""
        try:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            content = (await self._reader.readexactly(size + 2)).decode()
        except asyncio.IncompleteReadError:
            self._writer.close()
            raise ConnectionError("the stream was cut") from None
        if size == 0:
            self._writer.close()
            return None
        fields = dict(line.split(": ", 1) for line in content.strip().splitlines())
        return fields["event"], json.loads(fields["data"])

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        while (event := await self.event()) is not None:
            yield event

    def reset(self) -> None:
        """Vanish, as a client that crashes: the server gets a TCP reset, and no goodbye."""
        if self._writer.is_closing():
            return
        plain: socket.socket = self._writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Answer:
    status, headers = await _read_head(reader)
    content = await reader.readexactly(int(headers["content-length"]))
    is_json = headers["content-type"].endswith("json")
    return Answer(status, headers, json.loads(content) if is_json else content.decode())


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.rstrip().split("\r\n")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(first.split()[1]), headers
