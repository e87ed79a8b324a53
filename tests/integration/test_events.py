"""The endpoints for events on a real server: uvicorn with each of its WebSocket implementations."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from ringfence import Identity, Ringfence
from ringfence.events import EventHub, MemoryLog
from ringfence.integrations.starlette import (
    UserContextMiddleware,
    event_socket,
    event_stream,
)

uvicorn = pytest.importorskip("uvicorn")
client = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

pytestmark = pytest.mark.filterwarnings(  # uvicorn's own affair
    "ignore:websockets:DeprecationWarning",
    "ignore:remove second argument:DeprecationWarning",
    "ignore:The `websockets` implementation is deprecated",
)

HOST = "127.0.0.1"
PATIENCE = 10


class Served:
    """An application that runs in a thread. Lives as long as the block of `serve`."""

    def __init__(self) -> None:
        self.hub = EventHub(MemoryLog(max_bytes=64 * 1024 * 1024))
        self.fence = Ringfence(events=self.hub)
        self.port = 0

    def app(self) -> Starlette:
        async def emit(request: Request) -> JSONResponse:
            text = "x" * int(request.query_params.get("size", "0"))
            first = int(request.query_params["first"])
            for number in range(first, first + int(request.query_params["count"])):
                await self.hub.emit("counted", {"n": number, "text": text})
            return JSONResponse({})

        return Starlette(
            routes=[
                WebSocketRoute("/socket", event_socket(self.hub, send_timeout=0.5)),
                Route("/stream", event_stream(self.hub, send_timeout=0.5)),
                Route("/emit", emit, methods=["POST"]),
            ],
            middleware=[
                Middleware(
                    UserContextMiddleware,
                    fence=self.fence,
                    identify=lambda connection: Identity(connection.headers["x-user"]),
                )
            ],
            lifespan=self.fence.lifespan,
        )

    def emit(self, user: str, first: int, count: int, size: int = 0) -> None:
        with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=20)) as wire:
            path = f"/emit?first={first}&count={count}&size={size}"
            wire.request("POST", path, headers={"x-user": user})
            assert wire.getresponse().status == 200

    def connect(self, user: str, query: str = "") -> Any:
        return client.connect(
            f"ws://{HOST}:{self.port}/socket?{query}",
            additional_headers={"x-user": user},
            max_size=None,
        )

    def open_raw(self, user: str, path: str, *more: str) -> socket.socket:
        """A connection whose server's words nobody reads."""
        wire = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = [f"GET {path} HTTP/1.1", f"host: {HOST}:{self.port}", f"x-user: {user}", *more]
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        return wire


@contextlib.contextmanager
def serve(ws: str, send_buffer: int | None = None) -> Iterator[tuple[Served, Any]]:
    served = Served()
    config = uvicorn.Config(served.app(), ws=ws, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    listener = socket.create_server((HOST, 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert until(lambda: server.started)
        served.port = listener.getsockname()[1]
        yield served, server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        listener.close()


def until(is_so: Callable[[], bool], patience: float = PATIENCE) -> bool:
    end = time.monotonic() + patience
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def open_sockets() -> int:
    """Of this process, in which server and clients are."""
    return sum(1 for each in Path("/proc/self/fd").iterdir() if _is_socket(each))


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except FileNotFoundError:  # that of the listing itself
        return False


MASKED_TEXT = b"\x81\x82\x00\x00\x00\x00hi"
WS = ["websockets", "websockets-sansio", "wsproto"]
UPGRADE = (
    "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


@pytest.fixture(params=WS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serve(request.param) as (served, _):
        yield served


def events(websocket: Any, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        document = json.loads(websocket.recv(PATIENCE))
        if document["kind"] == "counted":
            found.append(document)
    return found


def test_who_is_cut_off_comes_back_and_misses_nothing(served: Served) -> None:
    got: list[int] = []
    with served.connect("bob") as bob:
        last = json.loads(bob.recv(PATIENCE))["id"]
        for turn in range(5):
            with served.connect("ann") as ann:
                json.loads(ann.recv(PATIENCE))
                served.emit("ann", turn * 20, 10)
                served.emit("bob", 1000 + turn, 1)
                page = events(ann, 10)
                got += [each["data"]["n"] for each in page]
                ann.socket.shutdown(socket.SHUT_RDWR)  # without a goodbye
            served.emit("ann", turn * 20 + 10, 10)
            with served.connect("ann", f"last_event_id={page[-1]['id']}") as ann:
                got += [each["data"]["n"] for each in events(ann, 10)]
        assert [each["data"]["n"] for each in events(bob, 5)] == [1000, 1001, 1002, 1003, 1004]
        assert last
    assert got == list(range(100))


@pytest.mark.parametrize("transport", ["socket", "stream"])
def test_a_client_that_never_reads_is_cut_off_and_slows_nobody(
    served: Served, transport: str
) -> None:
    more = UPGRADE if transport == "socket" else ()
    sockets = open_sockets()
    with served.connect("ann") as ann, served.open_raw("ann", f"/{transport}", *more):
        ann.recv(PATIENCE)
        assert until(lambda: len(served.hub._subscriptions) == 2)
        sending = threading.Thread(target=functools.partial(served.emit, "ann", 0, 300, 50_000))
        began = time.monotonic()
        sending.start()
        assert [each["data"]["n"] for each in events(ann, 300)] == list(range(300))
        sending.join(PATIENCE)
        assert until(lambda: len(served.hub._subscriptions) == 1)
        assert time.monotonic() - began < 2 * PATIENCE
        # Both ends of ann's, and the stuck client's own: the server has given up its end.
        assert until(lambda: open_sockets() == sockets + 3), open_sockets() - sockets


@pytest.mark.parametrize("ws", WS)
def test_who_is_closed_and_does_not_read_is_cut_off_too(ws: str) -> None:
    """It says what it must not, and leaves unread what it was sent."""
    with serve(ws, send_buffer=4096) as (served, _):
        sockets = open_sockets()
        with served.open_raw("ann", "/socket", *UPGRADE) as stuck:
            assert until(lambda: len(served.hub._subscriptions) == 1)
            served.emit("ann", 0, 1, 40_000)  # more than the kernel takes, less than the server
            time.sleep(0.1)
            stuck.sendall(MASKED_TEXT)
            assert until(lambda: not served.hub._subscriptions)
            assert until(lambda: open_sockets() == sockets + 1), open_sockets() - sockets


def test_server_sent_events_over_http(served: Served) -> None:
    with served.open_raw("ann", "/stream") as wire:
        reader = wire.makefile("rb")
        lines = _data_lines(reader)
        ready = next(lines)
        assert ready["kind"] == "ready"
        served.emit("ann", 0, 3)
        page = [next(lines) for _ in range(3)]
    served.emit("ann", 3, 3)
    with served.open_raw("ann", "/stream", f"last-event-id: {page[-1]['id']}") as wire:
        lines = _data_lines(wire.makefile("rb"))
        assert [next(lines)["data"].get("n") for _ in range(4)] == [None, 3, 4, 5]


def _data_lines(reader: Any) -> Iterator[dict[str, Any]]:
    for line in reader:
        if line.startswith(b"data: "):
            yield json.loads(line[len(b"data: ") :])


@pytest.mark.parametrize("ws", WS)
def test_shutdown_tells_clients_to_come_back(ws: str) -> None:
    with contextlib.ExitStack() as stack:
        with serve(ws) as (served, server):
            ann = stack.enter_context(served.connect("ann"))
            ann.recv(PATIENCE)
            began = time.monotonic()
            server.should_exit = True
            with pytest.raises(exceptions.ConnectionClosed) as closed:
                ann.recv(PATIENCE)
            assert closed.value.rcvd.code in (1012, 1013)
        assert time.monotonic() - began < 5
