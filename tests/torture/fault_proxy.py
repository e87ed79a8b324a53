"""A bad network between a driver and PostgreSQL: slow, dribbling, cut off, half closed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator

import attrs

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: what is left is dropped, an RST is sent


@attrs.define
class Faults:
    """How often, for each piece of the stream, once `is_calm` is over; and how often it was."""

    seed: str
    is_calm: bool = True
    delay: float = 0.004
    reset: float = 0.0
    half_close: float = 0.0
    dribble: float = 0.0
    stale: float = 0.0
    resets: int = 0
    half_closes: int = 0
    dribbles: int = 0
    stales: int = 0
    connections: int = 0


class Stale:
    """
    Now and then gives the answer to the statement before, for the one that was asked.

    What a client does by itself that reuses a connection without reading what was left on it:
    the fault that judges of answers must see.
    """

    def __init__(self, faults: Faults, rng: random.Random, columns: int) -> None:
        self._faults = faults
        self._rng = rng
        self._columns = columns
        self._rest = b""
        self._before: bytes | None = None

    def passed(self, chunk: bytes) -> bytes:
        """A chunk of what the server sends: messages of a letter, a length and a body."""
        self._rest += chunk
        out = b""
        while len(self._rest) >= 5:
            size = 1 + int.from_bytes(self._rest[1:5], "big")
            if len(self._rest) < size:
                break
            message, self._rest = self._rest[:size], self._rest[size:]
            out += self._answer(message)
        return out

    def _answer(self, message: bytes) -> bytes:
        if message[:1] != b"D" or int.from_bytes(message[5:7], "big") != self._columns:
            return message
        before, self._before = self._before, message
        if self._faults.is_calm or before is None or self._rng.random() >= self._faults.stale:
            return message
        self._faults.stales += 1
        return before


class _Link:
    """One connection of a client's, and the one to the server that goes with it."""

    def __init__(self, faults: Faults, client: asyncio.StreamWriter, columns: int) -> None:
        self._faults = faults
        self._client = client
        faults.connections += 1
        self._rng = random.Random(f"{faults.seed}/{faults.connections}")
        self._stale = Stale(faults, self._rng, columns) if faults.stale else None

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            if self._stale is not None and sink is self._client:
                chunk = self._stale.passed(chunk)
            if self._faults.is_calm:
                sink.write(chunk)
                continue
            if self._rng.random() < 0.5:
                await asyncio.sleep(self._rng.uniform(0, self._faults.delay))
            drawn = self._rng.random()
            if (drawn := drawn - self._faults.reset) < 0:
                self._faults.resets += 1
                self._cut()
            if (drawn := drawn - self._faults.half_close) < 0:
                self._faults.half_closes += 1
                break
            if drawn < self._faults.dribble:
                self._faults.dribbles += 1
                await _dribble(chunk, sink)
            else:
                sink.write(chunk)
                await sink.drain()
        sink.write_eof()

    def _cut(self) -> None:
        """By an RST, as a firewall or a machine that died."""
        peer = self._client.get_extra_info("socket")
        if peer is not None and peer.fileno() >= 0:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._client.transport.abort()
        raise ConnectionResetError


async def _dribble(chunk: bytes, sink: asyncio.StreamWriter) -> None:
    """Byte by byte, each a packet of its own."""
    for at in range(min(len(chunk), 60)):
        sink.write(chunk[at : at + 1])
        await sink.drain()
        await asyncio.sleep(0)
    sink.write(chunk[60:])
    await sink.drain()


@contextlib.asynccontextmanager
async def fault_proxy(
    host: str, port: int, faults: Faults, *, columns: int = 0
) -> AsyncIterator[int]:
    """
    A proxy on a port of its own, for a block.

    `columns`: how wide the rows are whose answers may be stale.
    """

    async def serve(reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        client.transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        upstream, server = await asyncio.open_connection(host, port)
        link = _Link(faults, client, columns)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(link.pump(reader, server))
                both.create_task(link.pump(upstream, client))
        except* OSError:
            pass  # cut off, here or by either end
        finally:
            server.transport.abort()
            client.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
