"""HTTP/1.1 by hand over one socket: the only way to send two requests in one write."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


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


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.rstrip().split("\r\n")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    content = await reader.readexactly(int(headers["content-length"]))
    is_json = headers["content-type"].endswith("json")
    body = json.loads(content) if is_json else content.decode()
    return Answer(int(first.split()[1]), headers, body)
