"""One connection to the server: requests of several users over it, as a proxy sends them."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import attrs
import h11
import wsproto
from wsproto import events
from wsproto.utilities import RemoteProtocolError

from ...errors import ConfigurationError
from .canaries import Watch
from .requests import Headers, Request, WebSocket

__all__ = ["Connection", "Cut", "Head", "Sent"]

HOST = "127.0.0.1"
MARK = "x-ringfence-torture"  # says to the observer whose request it is; it takes it away
_NO_LINGER = struct.pack("ii", 1, 0)
_PIECE = 65536


class Cut(ConnectionError):
    """The server closed the connection before the answer was complete."""


@attrs.frozen
class Head:
    """How an answer ended. A value."""

    status: int
    headers: Headers
    is_last: bool
    """Whether the server will close the connection."""


class Sent:
    """A request as it goes over the wire, and the parser of its answer."""

    def __init__(self, request: Request, headers: Headers, mark: str, pad: int = 0) -> None:
        content = request.content + b" " * pad
        self._parser = h11.Connection(h11.CLIENT)
        lines = [("host", HOST), *headers, *request.headers, (MARK, mark)]
        if content or request.method not in ("GET", "HEAD", "OPTIONS"):
            lines.append(("content-length", str(len(content))))
        if request.is_json and not any(name.lower() == "content-type" for name, _ in lines):
            lines.append(("content-type", "application/json"))
        try:
            message = h11.Request(method=request.method, target=request.path, headers=lines)
            self.data = b"".join(
                self._parser.send(event) or b""
                for event in (message, h11.Data(data=content), h11.EndOfMessage())
            )
        except h11.LocalProtocolError as error:
            raise ConfigurationError(
                f"`{request.kind}` cannot be sent: {error}.",
                "Leave `host` and `content-length` to the kit.",
            ) from error

    @property
    def parser(self) -> h11.Connection:
        """Reads this request's answer."""
        return self._parser


class Connection:
    """
    One TCP connection. Lives until one side closes it.

    Attributes:
        number: of the run.
        past: who asked what over it, and how, oldest first.
        used: when it was last used, by the monotonic clock.
    """

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.past: list[tuple[str, str]] = []
        self.used = time.monotonic()
        self._reader = reader
        self._writer = writer
        self._rest = b""

    @classmethod
    async def open(cls, port: int, number: int) -> Connection:
        """Connect to the server."""
        reader, writer = await asyncio.open_connection(HOST, port)
        return cls(number, reader, writer)

    async def write(self, data: bytes) -> None:
        """Send bytes; what the server does not take any more is lost, as on any network."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            pass  # its answer may stand in the buffer all the same

    async def answer(
        self,
        sent: Sent,
        take: Callable[[bytes], None],
        *,
        pace: Callable[[], Awaitable[int]] | None = None,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> Head:
        """
        Read one answer; `take` gets its headers and its body as they come.

        Args:
            pace: awaited before each read; says how much of it.
            is_enough: asked after each piece; true ends reading, as if the answer were complete.

        Raises:
            ConnectionError: `Cut`; the connection ended before the answer did.
        """
        parser, head = sent.parser, 0
        headers: Headers = ()
        if self._rest:  # without any, h11 would take the connection for closed
            parser.receive_data(self._rest)
        self._rest = b""
        while True:
            event = self._next(parser)
            if event is h11.NEED_DATA:
                size = _PIECE if pace is None else await pace()
                parser.receive_data(await self._read(size))
            elif isinstance(event, h11.Response):
                head = event.status_code
                headers = _text(event.headers)
                take(b"\n".join(name + b": " + value for name, value in event.headers) + b"\n")
            elif isinstance(event, h11.Data):
                take(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._rest = parser.trailing_data[0]
                return Head(head, headers, parser.their_state is not h11.DONE)
            elif not isinstance(event, h11.InformationalResponse):
                raise Cut
            if head and is_enough():
                return Head(head, headers, True)

    def _next(self, parser: h11.Connection) -> object:
        try:
            return parser.next_event()
        except h11.RemoteProtocolError as error:
            raise Cut(str(error)) from error

    async def _read(self, piece: int) -> bytes:
        try:
            return await self._reader.read(piece)
        except OSError as error:
            raise Cut(str(error)) from error

    async def talk(self, asked: WebSocket, headers: Headers, mark: str, watch: Watch) -> int:
        """
        A whole conversation over a WebSocket; the status of the handshake is returned.

        Raises:
            ConnectionError: `Cut`; the connection ended without a close frame.
        """
        socket_ = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        lines = [*headers, *asked.headers, (MARK, mark)]
        await self.write(
            socket_.send(
                events.Request(
                    host=HOST,
                    target=asked.path,
                    extra_headers=[(name.encode(), value.encode()) for name, value in lines],
                    subprotocols=list(asked.subprotocols),
                )
            )
        )
        conversation = _Conversation(self, socket_, watch)
        status = await conversation.opened()
        if status == 101:
            for message in asked.messages:
                await conversation.say(message, asked.until)
            await conversation.close()
        return status

    def reset(self) -> None:
        """Vanish, as a client that crashes: the server gets a TCP reset."""
        plain: socket.socket | None = self._writer.get_extra_info("socket")
        if plain is not None and plain.fileno() >= 0:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()

    @property
    def is_closing(self) -> bool:
        """Whether this side has closed it."""
        return self._writer.is_closing()

    def close(self) -> None:
        """Say goodbye."""
        self._writer.close()


def _text(headers: object) -> Headers:
    pairs = [(name, value) for name, value in headers]  # type: ignore[attr-defined]
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)


def _said(event: events.Event) -> bytes:
    """All that the server says by it, whether or not it was asked for."""
    if isinstance(event, (events.Message, events.RejectData)):
        data = event.data
        return data.encode() if isinstance(data, str) else bytes(data)
    if isinstance(event, events.CloseConnection):
        return f"\n{event.reason or ''}".encode()
    name_of_it = "extra_headers" if isinstance(event, events.AcceptConnection) else "headers"
    headers = getattr(event, name_of_it, ())
    return b"".join(name + b": " + value + b"\n" for name, value in headers)


class _Conversation:
    """A WebSocket that is being talked over. Lives as long as `Connection.talk`."""

    def __init__(self, wire: Connection, socket_: wsproto.WSConnection, watch: Watch) -> None:
        self._wire = wire
        self._socket = socket_
        self._watch = watch
        self._waiting: list[events.Event] = []

    async def opened(self) -> int:
        event = await self._next()
        if isinstance(event, events.AcceptConnection):
            return 101
        if not isinstance(event, events.RejectConnection):
            raise Cut("neither accepted nor refused")
        await self._refused()
        return event.status_code

    async def _refused(self) -> None:
        """Read what a refusal says."""
        try:
            while not getattr(await self._next(), "body_finished", False):
                pass
        except Cut:
            pass  # its status has come

    async def say(self, message: str | bytes, until: str | None) -> None:
        """Send a message, and read what answers it."""
        event: events.Event = (
            events.TextMessage(data=message)
            if isinstance(message, str)
            else events.BytesMessage(data=message)
        )
        await self._wire.write(self._socket.send(event))
        while True:
            text = await self._message()
            if until is None or until in text:
                return

    async def _message(self) -> str:
        """The next whole message."""
        text = ""
        while True:
            event = await self._next()
            if isinstance(event, events.CloseConnection):
                raise Cut(f"closed with {event.code}")
            if isinstance(event, events.Message):
                data = event.data
                text += data if isinstance(data, str) else bytes(data).decode("latin-1")
                if event.message_finished:
                    return text

    async def close(self) -> None:
        await self._wire.write(self._socket.send(events.CloseConnection(code=1000)))
        try:
            while not isinstance(await self._next(), events.CloseConnection):
                pass
        except Cut:
            pass  # some servers close without a word

    async def _next(self) -> events.Event:
        while not self._waiting:
            data = await self._wire._read(_PIECE)
            if not data:
                raise Cut
            try:
                self._socket.receive_data(data)
                self._waiting += self._socket.events()
            except RemoteProtocolError as error:
                raise Cut(str(error)) from error
            for event in self._waiting:
                self._watch.feed(_said(event))
                if isinstance(event, events.Ping):
                    await self._wire.write(self._socket.send(event.response()))
        return self._waiting.pop(0)
