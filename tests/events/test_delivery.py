"""The endpoints for events: WebSocket and server-sent events, which promise the same."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute

from ringfence import (
    ConfigurationError,
    EventLogError,
    Identity,
    InvalidContextError,
    Ringfence,
    Settings,
    child_context,
    counters,
    user_context,
)
from ringfence.events import EventHub, MemoryLog
from ringfence.integrations.starlette import (
    UserContextMiddleware,
    event_socket,
    event_stream,
)

from .clients import Client, connected, listening
from .readers import PATIENCE, emit_numbers

DENIAL = {"websocket.http.response": {}}


@pytest.fixture(params=["websocket", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub() -> EventHub:
    return EventHub()


def application(
    hub: EventHub, fence: Ringfence | None = None, seconds: float | None = None, **options: Any
) -> Any:
    def identify(connection: Any) -> Identity | None:
        user = connection.headers.get("x-user")
        if user is None:
            return None
        now = dt.datetime.now(dt.UTC)
        expires = None if seconds is None else now + dt.timedelta(seconds=seconds)
        return Identity(user, expires_at=expires)

    fence = fence or Ringfence(events=hub)
    return Starlette(
        routes=[
            WebSocketRoute("/socket", event_socket(hub, **options)),
            Route("/stream", event_stream(hub, **options)),
        ],
        middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)],
    )


async def emit_as(hub: EventHub, user: str, *numbers: int, **facts: Any) -> list[str]:
    async with user_context(user, **facts):
        only_origin = "websocket_client_id" in facts
        return await emit_numbers(hub, *numbers, only_origin=only_origin)


async def numbers(client: Client, count: int) -> list[Any]:
    found = [await client.event() for _ in range(count)]
    return [each["data"].get("n", each["data"].get("reason")) for each in found]


async def refusal(client: Client) -> tuple[int, Any]:
    """The status and problem of an answer, or the close code of a socket."""
    start = await client.hear()
    if start["type"] == "websocket.accept":
        return int((await client.hear())["code"]), None
    body = await client.hear()
    return int(start["status"]), json.loads(body["body"])


# --- whose ------------------------------------------------------------------------------------


async def test_a_user_s_connections_get_the_user_s_events(hub: EventHub, transport: str) -> None:
    app = application(hub)
    async with (
        listening(app, transport, user="ann") as ann,
        listening(app, transport, user="ann") as too,
        listening(app, transport, user="bob") as bob,
    ):
        await emit_as(hub, "ann", 1, 2)
        await emit_as(hub, "bob", 3)
        assert await numbers(ann, 2) == await numbers(too, 2) == [1, 2]
        assert await numbers(bob, 1) == [3]


async def test_it_is_the_document_of_the_event(hub: EventHub, transport: str) -> None:
    async with listening(application(hub), transport) as client:
        async with user_context("ann", "t-1", "r-1") as ctx:
            event_id = await hub.emit("order_placed", {"text": "a\nb\r\n\u2028é"})
        message = await client.hear()
        text = message.get("text") or message["body"].decode()
        if transport == "http":
            id_line, data_line, *rest = text.split("\n")
            assert (id_line, rest) == (f"id: {event_id}", ["", ""])
            text = data_line.removeprefix("data: ")
        document = json.loads(text)
    assert (document["id"], document["kind"]) == (event_id, "order_placed")
    assert document["request_id"] == ctx.request_id
    assert document["data"] == {"text": "a\nb\r\n\u2028é"}


@pytest.mark.parametrize(
    "query", ["user_id=ann", "user=ann&tenant_id=acme", "client_id=tab-of-ann", "channel=ann"]
)
async def test_nothing_that_a_client_sends_makes_it_somebody_else(
    hub: EventHub, transport: str, query: str
) -> None:
    async with listening(application(hub), transport, user="bob", query=query) as client:
        await emit_as(hub, "ann", 1)
        await emit_as(hub, "ann", 2, websocket_client_id="tab-of-ann")
        await emit_as(hub, "bob", 3)
        assert await numbers(client, 1) == [3]


async def test_nobody_is_told_to_sign_in(hub: EventHub, transport: str) -> None:
    async with connected(application(hub), transport, user=None, extensions=DENIAL) as client:
        status, problem = await refusal(client)
        assert (status, problem["type"]) == (401, "urn:ringfence:error:RF101")


async def test_only_the_connection_that_a_request_came_from(hub: EventHub, transport: str) -> None:
    app = application(hub)
    async with listening(app, transport) as one, listening(app, transport) as other:
        origin = one.scope["ready"]["data"]["client_id"]
        assert origin != other.scope["ready"]["data"]["client_id"]
        await emit_as(hub, "ann", 1, websocket_client_id=origin)
        await emit_as(hub, "ann", 2)
        assert await numbers(one, 2) == [1, 2]
        assert await numbers(other, 1) == [2]
    async with listening(app, transport, query=f"client_id={origin}") as again:
        assert again.scope["ready"]["data"]["client_id"] == origin
        await emit_as(hub, "ann", 3, websocket_client_id=origin)
        assert await numbers(again, 1) == [3]


async def test_a_request_says_which_of_its_user_s_connections_it_came_from(
    hub: EventHub, transport: str
) -> None:
    """By a child of the boundary's root; somebody else who says so reaches nobody."""
    fence = Ringfence(events=hub)
    app = application(hub, fence)

    async def request(user: str, origin: str | None, number: int) -> None:
        async with fence.user_context(Identity(user)):
            async with child_context("save", websocket_client_id=origin):
                async with child_context("deeper"):
                    await emit_numbers(hub, number, only_origin=True)

    async with listening(app, transport) as one, listening(app, transport) as other:
        origin = one.scope["ready"]["data"]["client_id"]
        await request("ann", origin, 1)
        await request("bob", origin, 2)
        with pytest.raises(InvalidContextError, match="came from no connection"):
            await request("ann", None, 3)
        for forged in ("", "a b", "x" * 300, "placeholder", "\x00", "é\u202e"):
            with pytest.raises(InvalidContextError):
                await request("ann", forged, 4)
        await emit_as(hub, "ann", 5)
        assert await numbers(one, 2) == [1, 5]
        assert await numbers(other, 1) == [5]


# --- resuming ---------------------------------------------------------------------------------


async def test_who_comes_back_gets_what_was_missed(hub: EventHub, transport: str) -> None:
    app = application(hub)
    async with listening(app, transport) as client:
        last = client.scope["ready"]["id"]
    await emit_as(hub, "ann", *range(250))
    async with listening(app, transport, query=f"last_event_id={last}") as client:
        assert await numbers(client, 250) == list(range(250))
        await emit_as(hub, "ann", 17)
        assert await numbers(client, 1) == [17]


async def test_the_header_wins(hub: EventHub) -> None:
    app = application(hub)
    first, second, _ = await emit_as(hub, "ann", 1, 2, 3)
    async with listening(
        app, "http", query=f"last_event_id={first}", headers=[("last-event-id", second)]
    ) as client:
        assert await numbers(client, 1) == [3]


async def test_a_gap_is_said(transport: str) -> None:
    hub = EventHub(MemoryLog(max_events=2))
    first, *_ = await emit_as(hub, "ann", *range(5))
    async with listening(application(hub), transport, query=f"last_event_id={first}") as client:
        assert await numbers(client, 3) == ["trimmed", 3, 4]


async def test_an_empty_id_is_none(hub: EventHub, transport: str) -> None:
    await emit_as(hub, "ann", 1)
    async with listening(application(hub), transport, query="last_event_id=&client_id=") as client:
        await emit_as(hub, "ann", 2)
        assert await numbers(client, 1) == [2]


@pytest.mark.parametrize("query", ["last_event_id=%24", "last_event_id=0-0", "client_id=a%20b"])
async def test_what_is_no_id_is_refused(hub: EventHub, transport: str, query: str) -> None:
    app = application(hub)
    async with connected(app, transport, query=query, extensions=DENIAL) as client:
        status, problem = await refusal(client)
        assert (status, problem["type"]) == (400, "urn:ringfence:error:RF701")
    async with connected(app, "websocket", query=query) as client:
        assert await refusal(client) == (1008, None)
    assert not hub._subscriptions


# --- limits and origins -----------------------------------------------------------------------


async def test_too_many_connections(transport: str) -> None:
    hub = EventHub(max_connections_per_user=1)
    app = application(hub)
    async with listening(app, transport):
        async with connected(app, transport, extensions=DENIAL) as second:
            status, problem = await refusal(second)
            assert (status, problem["type"]) == (429, "urn:ringfence:error:RF703")
        async with connected(app, "websocket") as third:
            assert await refusal(third) == (4429, None)
        async with listening(app, transport, user="bob"):
            pass
    async with listening(app, transport):
        pass


ORIGINS = [
    # scheme, host, the page's origin, whether it may
    ("http", "app.example", None, True),
    ("http", "app.example", "http://app.example", True),
    ("http", "app.example", "https://app.example", True),  # a proxy speaks TLS
    ("https", "app.example", "https://app.example", True),
    ("https", "app.example", "http://app.example", False),
    ("https", "app.example:443", "https://app.example", True),
    ("http", "app.example:8000", "http://app.example:8000", True),
    ("http", "app.example:8000", "http://app.example", False),
    ("http", "APP.example", "http://App.Example", True),
    ("http", "app.example", "http://evil.example", False),
    ("http", "app.example", "http://app.example.evil.example", False),
    ("http", "app.example", "http://app.example@evil.example", False),
    ("http", "app.example", "http://app.example/", False),
    ("http", "app.example", "null", False),
    ("http", "app.example", "", False),
    ("http", "app.example", "http://", False),
    ("http", "", "http://", False),
    ("http", "app.example", "http://app.example:x", False),
    ("http", "app.example", "http://[::1", False),
    ("http", "app.example", "https://friend.example", True),
    ("http", "app.example", "http://friend.example", False),
]


@pytest.mark.parametrize(("scheme", "host", "origin", "may"), ORIGINS)
async def test_origins(
    hub: EventHub, transport: str, scheme: str, host: str, origin: str | None, may: bool
) -> None:
    app = application(hub, origins=["https://friend.example"])
    if transport == "websocket":
        scheme = scheme.replace("http", "ws")
    headers = [("host", host)] + ([] if origin is None else [("origin", origin)])
    options = {"scheme": scheme, "headers": headers, "extensions": DENIAL}
    if may:
        async with listening(app, transport, **options):
            pass
    else:
        async with connected(app, transport, **options) as client:
            status, problem = await refusal(client)
            assert (status, problem["type"]) == (403, "urn:ringfence:error:RF104")
        assert counters.value("events.foreign_origin") == 1


async def test_two_origins_are_none(hub: EventHub, transport: str) -> None:
    headers = [("host", "a.example"), ("origin", "http://a.example"), ("origin", "http://b")]
    app = application(hub)
    async with connected(app, transport, headers=headers, extensions=DENIAL) as client:
        assert (await refusal(client))[0] == 403


@pytest.mark.parametrize(
    ("site", "may"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)],
)
async def test_a_page_that_could_not_read_the_answer_takes_no_connection(
    hub: EventHub, transport: str, site: str, may: bool
) -> None:
    """Browsers send no origin then, but say that it is another's."""
    headers = [("host", "app.example"), ("sec-fetch-site", site)]
    app = application(hub)
    async with connected(app, transport, headers=headers, extensions=DENIAL) as client:
        if may:
            await client.hear()
            assert (await client.event())["kind"] == "ready"
        else:
            assert (await refusal(client))[0] == 403


@pytest.mark.parametrize(
    "options",
    [
        {"origins": "https://a.example"}, {"origins": ["*"]}, {"origins": ["a.example"]},
        {"origins": ["https://a.example/"]}, {"heartbeat": 0}, {"send_timeout": -1},
        {"heartbeat": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_it_cannot_be_told(hub: EventHub, options: Any) -> None:
    for endpoint in (event_socket, event_stream):
        with pytest.raises(ConfigurationError):
            endpoint(hub, **options)


# --- how it goes on and ends ------------------------------------------------------------------


async def test_silence_is_filled_with_heartbeats(hub: EventHub, transport: str) -> None:
    async with listening(application(hub, heartbeat=0.02), transport) as client:
        for _ in range(3):
            message = await client.hear()
            if transport == "http":
                assert message["body"] == b": heartbeat\n\n"
            else:
                document = json.loads(message["text"])
                assert (document["kind"], document["id"]) == (
                    "heartbeat", client.scope["ready"]["id"]
                )  # fmt: skip
        await emit_as(hub, "ann", 1)
        assert await numbers(client, 1) == [1]


async def test_an_identity_that_expires_ends_it(hub: EventHub, transport: str) -> None:
    async with listening(application(hub, seconds=0.1), transport) as client:
        last = await client.hear()
        if transport == "http":
            assert last == {"type": "http.response.body", "body": b""}
        else:
            assert (last["type"], last["code"]) == ("websocket.close", 4401)
        assert await client.ended() is None


async def test_clocks_that_differ_send_no_heartbeat(
    hub: EventHub, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the event loop's clock is a little ahead of the wall clock."""
    left = iter([0.01, 0.001, 0.001, 0.0])
    monkeypatch.setattr(
        "ringfence.integrations._event_delivery._seconds_until", lambda time: next(left)
    )
    async with listening(application(hub, seconds=100), transport) as client:
        last = await client.hear()
        assert last["type"] in ("websocket.close", "http.response.body")
        assert not last.get("body")


async def test_no_event_is_sent_once_it_has_expired(
    hub: EventHub, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(application(hub, seconds=100), transport) as client:
        monkeypatch.setattr(
            "ringfence.integrations._event_delivery._seconds_until", lambda time: 0.0
        )
        await emit_as(hub, "ann", 1)
        last = await client.hear()
        assert last.get("code", 4401) == 4401
        assert not last.get("body")
        assert "text" not in last


async def test_a_client_that_has_gone_is_no_fault(hub: EventHub, transport: str) -> None:
    """As servers say it by `send`, from ASGI 2.4 on."""
    asgi = {"version": "3.0", "spec_version": "2.4"}
    async with listening(application(hub), transport, asgi=asgi) as client:
        client.error = OSError("gone")
        await emit_as(hub, "ann", 1)
        assert await client.ended() is None
        assert client.scope["ringfence.outcome"] == "client_disconnect"


@pytest.mark.parametrize("code", [1000, 1006])
async def test_a_client_that_leaves_leaves_nothing(
    hub: EventHub, transport: str, code: int
) -> None:
    async with listening(application(hub), transport) as client:
        assert len(hub._subscriptions) == 1
        client.leave(code)
        assert await client.ended() is None
        assert not hub._subscriptions


async def test_a_client_that_never_reads_is_cut_off_and_slows_nobody(
    hub: EventHub, transport: str
) -> None:
    app = application(hub, send_timeout=0.1)
    async with listening(app, transport) as stuck, listening(app, transport) as client:
        stuck.is_reading = False
        began = anyio.current_time()
        await emit_as(hub, "ann", *range(500))
        assert await numbers(client, 500) == list(range(500))
        await stuck.ended()
        assert anyio.current_time() - began < PATIENCE
        assert len(hub._subscriptions) == 1
        assert counters.value("events.unread") == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"bytes": b"x"}, 1003),
        ({"bytes": b"x" * 1_000_000}, 1003),
        ({"text": "x" * 1_000_000}, 1009),
        ({"text": "hello"}, 1008),
        ({"text": "", "bytes": None}, 1008),
    ],
    ids=["binary", "large binary", "large", "text", "empty"],
)
async def test_a_client_has_nothing_to_say(hub: EventHub, message: Any, code: int) -> None:
    app = application(hub)
    async with listening(app, "websocket") as client, listening(app, "websocket") as other:
        client.say({"type": "websocket.receive", **message})
        last = await client.hear()
        assert (last["type"], last["code"]) == ("websocket.close", code)
        await client.ended()
        await emit_as(hub, "ann", 1)
        assert await numbers(other, 1) == [1]


async def test_shutdown_ends_it_at_once(hub: EventHub, transport: str) -> None:
    fence = Ringfence(events=hub, settings=Settings(drain_timeout=4))
    app = application(hub, fence)
    async with contextlib.AsyncExitStack() as stack:
        began = anyio.current_time()
        async with fence:
            client = await stack.enter_async_context(listening(app, transport))
        last = await client.hear()
        assert last.get("code", 1013) == 1013
        assert last["type"] in ("websocket.close", "http.response.body")
        assert await client.ended() is None
        assert anyio.current_time() - began < 2
    assert fence.drain_report is not None
    assert (fence.drain_report.drained, fence.drain_report.cancelled) == (1, 0)


class BrokenLog(MemoryLog):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.is_broken = False

    async def read(self, *args: Any) -> Any:
        if self.is_broken:
            raise self.error
        return await super().read(*args)


@pytest.mark.parametrize("error", [EventLogError("The log is away.", "Wait.")])
async def test_a_log_that_is_away_ends_it_for_now(transport: str, error: Exception) -> None:
    log = BrokenLog(error)
    hub = EventHub(log)
    async with listening(application(hub), transport) as client:
        log.is_broken = True
        await emit_as(hub, "ann", 1)
        while (last := await client.hear()).get("text") or last.get("more_body"):
            pass  # what it had read already
        if transport == "http":
            assert last == {"type": "http.response.body", "body": b""}
        else:
            assert (last["type"], last["code"]) == ("websocket.close", 1013)
        assert await client.ended() is None
        assert not hub._subscriptions
    async with connected(application(hub), transport, extensions=DENIAL) as client:
        status, problem = await refusal(client)
        assert (status, problem["type"]) == (503, "urn:ringfence:error:RF403")
    async with connected(application(hub), "websocket") as client:
        assert await refusal(client) == (1013, None)
    assert not hub._subscriptions


async def test_a_log_with_a_fault_ends_it_loudly(transport: str) -> None:
    log = BrokenLog(ConnectionResetError("a fault of the log"))
    hub = EventHub(log)
    async with listening(application(hub), transport) as client:
        log.is_broken = True
        await emit_as(hub, "ann", 1)
        assert isinstance(await client.ended(), ConnectionResetError)
        assert not hub._subscriptions


async def test_a_request_for_the_headers_alone_ends(hub: EventHub) -> None:
    async with connected(application(hub), "http", method="HEAD") as client:
        start, body = await client.hear(), await client.hear()
        assert (start["status"], body["body"]) == (200, b"")
        assert await client.ended() is None


# --- FastAPI ----------------------------------------------------------------------------------


async def test_fastapi_serves_them_too(hub: EventHub, transport: str) -> None:
    fastapi = pytest.importorskip("fastapi")
    from ringfence.integrations import fastapi as ours

    app = fastapi.FastAPI()
    app.add_api_websocket_route("/socket", ours.event_socket(hub))
    app.get("/stream")(ours.event_stream(hub))
    app.add_middleware(
        ours.UserContextMiddleware,
        fence=Ringfence(events=hub),
        identify=lambda connection: Identity(connection.headers["x-user"]),
    )
    async with listening(app, transport) as client:
        await emit_as(hub, "ann", 1)
        assert await numbers(client, 1) == [1]
