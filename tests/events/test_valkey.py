"""RedisLog on a real Valkey: the same promises, also when connections are killed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import redis.asyncio
import redis.exceptions

from ringfence import (
    ConfigurationError,
    EventLogError,
    Ringfence,
    Settings,
    counters,
    user_context,
)
from ringfence.events import EventHub, Position, UserKey, started
from ringfence.integrations._redis_scripts import APPEND
from ringfence.integrations.redis import RedisLog
from ringfence.testing.valkey import ValkeyServer

from .outages import own_server
from .readers import PATIENCE, emit_numbers, follow_and_emit, is_silent, take, waiting

Make = Callable[..., EventHub]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def make(valkey: ValkeyServer) -> AsyncIterator[Make]:
    """Makes hubs that share a log, as those of several processes do."""
    prefix, hubs = f"test:{secrets.token_hex(4)}:", list[EventHub]()

    def make(hub: dict[str, Any] | None = None, **options: Any) -> EventHub:
        log = RedisLog(valkey.url, **{"prefix": prefix, **options})
        hubs.append(EventHub(log, **(hub or {})))
        return hubs[-1]

    yield make
    for hub in hubs:
        await hub.aclose()


@pytest.fixture
async def server(valkey: ValkeyServer) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(valkey.url) as client:
        yield client


def link_of(hub: EventHub) -> Any:
    log: Any = hub.log
    return log._connected()


def prefix_of(hub: EventHub) -> str:
    log: Any = hub.log
    prefix: str = log._prefix
    return prefix


# --- the same as in memory --------------------------------------------------------------------


async def test_one_process_emits_and_another_hears(make: Make) -> None:
    here, there = make(), make()
    async with user_context("ann"), there.subscribe() as events:
        for number, hub in enumerate((here, there, here)):
            async with waiting(events) as got:
                await emit_numbers(hub, number)
            assert got == [number]
        async with user_context("bob"):
            await emit_numbers(here, 4)
        async with user_context("ann", tenant_id="acme"):
            await emit_numbers(here, 5)
        assert await is_silent(events)


@pytest.mark.parametrize("missed", [0, 1, 99, 100, 101, 250])
async def test_after_an_id_exactly_what_was_missed(make: Make, missed: int) -> None:
    hub = make()
    async with user_context("ann"):
        *_, last = await emit_numbers(hub, 1, 2, 3)
        await emit_numbers(hub, *range(missed))
        async with make().subscribe(last) as events:
            assert await take(events, missed) == list(range(missed))
            assert await is_silent(events)
            await emit_numbers(hub, 17)
            assert await take(events, 1) == [17]


async def test_its_position_resumes_before_anything_was_emitted(make: Make) -> None:
    hub = make()
    async with user_context("ann"):
        async with hub.subscribe() as events:
            position = events.position
        await emit_numbers(hub, 1)
        async with hub.subscribe(position) as events:
            assert await take(events, 1) == [1]


async def test_gaps_are_said(make: Make) -> None:
    hub = make(max_events=3)
    async with user_context("ann"):
        first, second, third, *_ = await emit_numbers(hub, *range(6))
        async with hub.subscribe(first) as events:
            assert await take(events, 4) == ["trimmed", 3, 4, 5]
        async with hub.subscribe(third) as events:
            assert await take(events, 3) == [3, 4, 5]
        async with hub.subscribe(f"{'0' * 16}-1") as events:
            assert await take(events, 4) == ["epoch", 3, 4, 5]
        epoch = Position.parse(second).epoch
        async with hub.subscribe(f"{epoch}-17") as events:
            assert await take(events, 1) == ["ahead"]
            assert events.position == f"{epoch}-6"
            assert await is_silent(events)


async def test_the_log_is_bounded_in_length_and_bytes(make: Make, server: Any) -> None:
    hub = make(max_events=100, max_bytes=50_000)
    async with user_context("ann"):
        for _ in range(150):
            await hub.emit("counted")
        (name,) = [key async for key in server.scan_iter(f"{prefix_of(hub)}*:log")]
        assert await server.xlen(name) == 100
        for _ in range(60):
            await hub.emit("counted", {"text": "x" * 2000})
        assert 15 < await server.xlen(name) < 25
        await hub.emit("counted", {"text": "x" * 60_000})
        assert await server.xlen(name) == 1
        state = name.replace(b":log", b":state")
        assert 60_000 < int(await server.hget(state, "bytes")) < 61_000
        assert 3_500_000 < await server.pttl(name) <= 3_600_000
        assert 3_500_000 < await server.pttl(state) <= 3_600_000


async def test_only_the_connection_that_the_request_came_from(make: Make) -> None:
    hub = make()
    async with user_context("ann", websocket_client_id="tab-1"), hub.subscribe() as mine:
        async with user_context("ann", websocket_client_id="tab-2"):
            async with hub.subscribe() as other:
                await emit_numbers(hub, 1, only_origin=True)
                assert await take(other, 1) == [1]
        assert await is_silent(mine)


async def test_two_users_three_connections_each_and_forced_disconnects(make: Make) -> None:
    """In order, no loss, no duplicate, no event of the other user."""
    await follow_and_emit(make(), users=("ann", "bob"), count=1000, connections=3)


async def test_names_of_users_cannot_be_confused() -> None:
    log = RedisLog("redis://nowhere")
    users = [
        UserKey(None, "a:b"), UserKey("a", "b"), UserKey("a:b", "c"), UserKey("a", "b:c"),
        UserKey(None, "1:a:b"), UserKey("1", "a:b"),
    ]  # fmt: skip
    assert len({log._names(user) for user in users}) == len(users)


# --- what goes wrong --------------------------------------------------------------------------


async def test_killed_connections_lose_nothing(make: Make, server: Any) -> None:
    """
    Every 40 ms or so the server cuts off pub/sub; every 400 ms everybody.

    No call is cut off four times, that is, as often as it is tried.
    """
    kills = [0]

    async def kill() -> None:
        while True:
            await anyio.sleep(0.04)
            kind = "normal" if kills[0] % 10 == 2 else "pubsub"
            kills[0] += 1
            await server.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    hub = make(poll_interval=3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        await follow_and_emit(hub, users=("ann", "bob"), count=1000, connections=3)
        tasks.cancel_scope.cancel()
    assert kills[0] >= 3
    assert counters.value("events.bell_lost") >= 1


async def test_a_lost_bell_connection_comes_back(make: Make, server: Any) -> None:
    hub = make(poll_interval=1000)
    async with user_context("ann"), hub.subscribe() as events:
        for number in range(5):
            async with waiting(events) as got:
                await server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await emit_numbers(hub, number)
            assert got == [number]
        async with waiting(events) as got:  # by a bell that rings again, not by looking
            await anyio.sleep(0.3)
            await emit_numbers(hub, 17)
        assert got == [17]


async def test_a_bell_that_never_rings_costs_time_only(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = make(poll_interval=0.2)
    async with user_context("ann"), hub.subscribe() as events:
        monkeypatch.setattr(
            "ringfence.integrations._doorbell.Doorbell._ring", _unless_polling, raising=True
        )
        async with waiting(events) as got:
            await emit_numbers(hub, 1)
        assert got == [1]


async def test_not_everybody_looks_at_once(make: Make) -> None:
    """Each looks once within an interval, and few of them at a time."""
    doorbell = link_of(make(poll_interval=1)).doorbell
    rung: dict[int, list[float]] = {number: [] for number in range(200)}

    def ring(number: int) -> Callable[[], None]:
        return lambda: rung[number].append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        for number in rung:
            tasks.start_soon(doorbell.add, f"test:{number}", ring(number))
    await anyio.sleep(0.2)
    for times in rung.values():
        times.clear()
    await anyio.sleep(2.5)
    assert all(1 <= len(times) <= 3 for times in rung.values())
    together = Counter(round(time, 2) for times in rung.values() for time in times)
    assert max(together.values()) <= 40


@pytest.mark.parametrize("error", [RuntimeError, redis.exceptions.NoPermissionError])
async def test_without_pub_sub_it_costs_time_only(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As where an ACL forbids the channels."""
    hub = make(poll_interval=0.2)

    async def refuse(*args: object) -> None:
        raise error("no channels")

    monkeypatch.setattr("redis.asyncio.client.PubSub.subscribe", refuse)
    monkeypatch.setattr("ringfence.integrations._doorbell._PATIENCE", 0.05)
    async with user_context("ann"), hub.subscribe() as events:
        for number in range(3):
            async with waiting(events) as got:
                await emit_numbers(hub, number)
            assert got == [number]


async def test_a_channel_that_cannot_be_had_just_now_fails_in_silence(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where redis-py connects again by itself, while the listener reads."""
    hub = make(poll_interval=0.2)
    monkeypatch.setattr("ringfence.integrations._doorbell._PATIENCE", 0.05)

    async def refuse(*args: object) -> None:
        raise RuntimeError("readuntil() called while another coroutine is already waiting")

    async with user_context("bob"), hub.subscribe():
        monkeypatch.setattr("redis.asyncio.client.PubSub.subscribe", refuse)
        async with user_context("ann"), hub.subscribe() as events:
            async with waiting(events) as got:
                await emit_numbers(hub, 1)
            assert got == [1]
            doorbell = link_of(hub).doorbell
            await doorbell._say("subscribe", next(iter(doorbell._rings)))  # in a task nobody awaits


def _unless_polling(doorbell: Any, name: bytes) -> None:
    import sys

    if sys._getframe(1).f_code.co_name in ("_ring_all", "_look"):
        for ring in doorbell._rings.get(name, ()):
            ring()


async def test_a_call_that_is_repeated_appends_once(make: Make, server: Any) -> None:
    hub = make()
    log: Any = hub.log
    async with user_context("ann"), hub.subscribe() as events:
        run = log._connected().scripts[APPEND]
        lost = 0

        async def answer_is_lost(**options: Any) -> Any:
            nonlocal lost
            found = await run(**options)
            lost += 1
            if lost < 3:
                raise redis.exceptions.ConnectionError("the answer was lost")
            return found

        log._connected().scripts[APPEND] = answer_is_lost
        (event_id,) = await emit_numbers(hub, 1)
        await emit_numbers(hub, 2)
        assert await take(events, 2) == [1, 2]
        assert await is_silent(events)
        assert Position.parse(event_id).sequence == 1


async def test_a_server_that_is_away_is_said_to_be(make: Make) -> None:
    hub = EventHub(RedisLog("redis://127.0.0.1:1/0"))
    async with user_context("ann"):
        with pytest.raises(EventLogError, match="has stored nothing") as caught:
            await hub.emit("counted")
        assert caught.value.may_be_stored is False
        assert isinstance(caught.value.__cause__, redis.exceptions.ConnectionError)
        with pytest.raises(EventLogError):
            async with hub.subscribe():
                pass
        assert not hub._subscriptions
    await hub.aclose()


@pytest.mark.parametrize("lost", [1, 4])
async def test_what_was_sent_and_not_answered_may_be_stored(make: Make, lost: int) -> None:
    """However the attempts after it fail."""
    hub = make()
    async with user_context("ann"), hub.subscribe() as events:
        scripts = link_of(hub).scripts
        run, left = scripts[APPEND], [lost]

        async def answer_is_lost(**options: Any) -> Any:
            if left[0]:
                left[0] -= 1
                await run(**options)
                raise redis.exceptions.TimeoutError("the answer was lost")
            raise redis.exceptions.ReadOnlyError("a replica now")

        scripts[APPEND] = answer_is_lost
        with pytest.raises(EventLogError, match="may have stored") as caught:
            await hub.emit("counted", {"n": 1})
        assert caught.value.may_be_stored is True
        assert await take(events, 1) == [1]


async def test_what_the_server_refuses_is_not_stored(make: Make, server: Any) -> None:
    hub = make()
    async with user_context("ann"):
        await emit_numbers(hub, 1)
        async for key in server.scan_iter(f"{prefix_of(hub)}*:log"):
            await server.set(key, "no stream")
        with pytest.raises(EventLogError, match="refused a call; it has stored nothing") as caught:
            await hub.emit("counted")
        assert caught.value.may_be_stored is False


async def test_an_event_is_stored_where_its_bell_is_forbidden(make: Make, server: Any) -> None:
    await server.acl_setuser("mute", enabled=True, nopass=True, keys="*", commands=["+@all"])
    try:
        hub = make(username="mute", password="x", poll_interval=0.2)
        async with user_context("ann"):
            (first,) = await emit_numbers(hub, 1)
            assert Position.parse(first).sequence == 1
            async with make().subscribe(f"{Position.parse(first).epoch}-0") as events:
                assert await take(events, 1) == [1]
    finally:
        await server.acl_deluser("mute")


async def test_a_server_that_stops_answering_is_waited_for_within_bounds() -> None:
    with own_server() as server:
        hub = EventHub(RedisLog(server.url, call_timeout=1))
        async with user_context("ann"):
            await emit_numbers(hub, 1)
            server.hold()
            began = anyio.current_time()
            with pytest.raises(EventLogError, match="did not answer") as caught:
                await hub.emit("counted")
            assert anyio.current_time() - began < 4
            assert caught.value.may_be_stored is True
            server.let_go()
            await emit_numbers(hub, 2)
        await hub.aclose()


@pytest.mark.parametrize("outage", ["hold", "kill"])
async def test_a_run_goes_on_while_the_log_is_away(outage: str) -> None:
    """And has its result, whatever could not be told of it."""

    async def run() -> int:
        async with started("agent", "triage"):
            async with started("tool", "search"):
                getattr(server, outage)()
            async with started("tool", "again"):
                return 17

    with own_server() as server:
        hub = EventHub(RedisLog(server.url))
        fence = Ringfence(events=hub, settings=Settings(finaliser_timeout=1))
        async with fence, fence.user_context("ann"):
            await emit_numbers(hub, 0)
            assert await run() == 17
        told = counters.value("events.untold")
        assert told == (4 if outage == "hold" else 3), told


async def test_a_log_that_was_lost_is_said_to_be(make: Make, server: Any) -> None:
    hub = make(poll_interval=0.1)
    async with user_context("ann"), hub.subscribe() as events:
        await emit_numbers(hub, 1, 2)
        assert await take(events, 2) == [1, 2]
        async for key in server.scan_iter(f"{prefix_of(hub)}*"):
            await server.delete(key)
        await emit_numbers(hub, 3)
        assert await take(events, 2) == ["epoch", 3]


@pytest.mark.parametrize("part", ["state", "log"])
async def test_half_a_log_is_no_log(make: Make, server: Any, part: str) -> None:
    hub = make()
    async with user_context("ann"):
        first, _ = await emit_numbers(hub, 1, 2)
        async for key in server.scan_iter(f"{prefix_of(hub)}*:{part}"):
            await server.delete(key)
        await emit_numbers(hub, 3)
        async with hub.subscribe(first) as events:
            assert await take(events, 2) == ["epoch" if part == "state" else "trimmed", 3]


async def test_no_cancellation_is_lost(make: Make) -> None:
    """Not even where redis-py sends: until Python 3.12 `asyncio.wait_for` swallows some."""
    hub = make()

    async def work(user: str) -> None:
        async with user_context(user):
            while True:
                await hub.emit("counted")
                async with hub.subscribe():
                    pass

    for number in range(40):
        task = asyncio.create_task(work(f"user-{number}"))
        await asyncio.sleep(0.003 + 0.0007 * (number % 13))
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled(), f"the cancellation of number {number} was lost"


async def test_calls_that_are_cancelled_give_nobody_anothers_answer(make: Make) -> None:
    hub = make(max_connections=4)

    async def use(user: str, number: int) -> None:
        async with user_context(user):
            with anyio.move_on_after(0.0004 * (number % 11)):
                await hub.emit("counted", {"user": user, "n": number})

    async def look(user: str) -> None:
        async with user_context(user), hub.subscribe() as events:
            start = Position.parse(events.position)
        async with user_context(user), hub.subscribe(f"{start.epoch}-0") as events:
            for _ in range(start.sequence):
                with anyio.fail_after(PATIENCE):
                    event: Any = await anext(events)
                assert event.data["user"] == user

    users = ["ann", "bob", "cia"]
    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(use, users[number % 3], number)
    for user in users:
        await look(user)


# --- its connections --------------------------------------------------------------------------


async def test_channels_are_given_up_with_their_last_connection(make: Make, server: Any) -> None:
    hub = make()
    pattern = f"{prefix_of(hub)}*"
    async with user_context("ann"):
        async with hub.subscribe():
            async with hub.subscribe():
                assert len(await server.pubsub_channels(pattern)) == 1
            assert len(await server.pubsub_channels(pattern)) == 1
        with anyio.fail_after(PATIENCE):
            while await server.pubsub_channels(pattern):  # noqa: ASYNC110
                await anyio.sleep(0.005)
        async with hub.subscribe() as events:  # and had again
            await emit_numbers(hub, 1)
            assert await take(events, 1) == [1]


async def test_a_user_who_comes_and_goes_at_once_is_rung_for(make: Make) -> None:
    hub = make(poll_interval=1000)
    for number in range(50):
        async with user_context("ann"), hub.subscribe() as events:
            async with waiting(events) as got:
                await emit_numbers(hub, number)
            assert got == [number]


async def test_who_leaves_while_the_bell_is_hung_leaves_it_to_the_others(make: Make) -> None:
    """Two connections of one user come at once, and the first one goes before it is heard."""
    hub = make(poll_interval=1000)
    heard: list[int] = []

    async def first() -> None:
        async with user_context("ann"), hub.subscribe():
            raise AssertionError("cancelled before")

    async def second() -> None:
        async with user_context("ann"), hub.subscribe() as events:
            ready.set()
            heard.extend(await take(events, 1))

    async with user_context("bob"), hub.subscribe():  # there is a connection for bells
        doorbell = link_of(hub).doorbell
        ready = asyncio.Event()
        async with doorbell._lock:
            leaving = asyncio.create_task(first())
            await asyncio.sleep(0.05)
            staying = asyncio.create_task(second())
            await asyncio.sleep(0.05)
            leaving.cancel()
            await asyncio.wait([leaving])
        await ready.wait()
        await asyncio.sleep(0.1)
        async with user_context("ann"):
            await emit_numbers(hub, 17)
        await staying
    assert heard == [17]


async def test_closed_it_leaves_no_connection_and_may_be_used_again(
    make: Make, server: Any
) -> None:
    before = len(await server.client_list())
    hub = make()
    for _ in range(2):
        async with user_context("ann"), hub.subscribe() as events:
            await emit_numbers(hub, 1)
            assert await take(events, 1) == [1]
        assert len(await server.client_list()) > before
        await hub.aclose()
        with anyio.fail_after(PATIENCE):
            while len(await server.client_list()) > before:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        await anyio.sleep(0.3)  # nor does one come back
        assert len(await server.client_list()) <= before


def test_it_serves_one_event_loop_after_another(valkey: ValkeyServer) -> None:
    hub = EventHub(RedisLog(valkey.url, prefix=f"test:{secrets.token_hex(4)}:"))

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(hub.aclose)
            async with user_context("ann"), hub.subscribe() as events:
                await emit_numbers(hub, 1)
                assert await take(events, 1) == [1]

    asyncio.run(main())
    asyncio.run(main())


def test_trio_is_refused(valkey: ValkeyServer) -> None:
    async def main() -> None:
        async with user_context("ann"):
            with pytest.raises(ConfigurationError, match="asyncio only"):
                await EventHub(RedisLog(valkey.url)).emit("counted")

    anyio.run(main, backend="trio")


@pytest.mark.parametrize(
    "option", ["max_events", "max_bytes", "idle_timeout", "poll_interval", "call_timeout"]
)
def test_limits_are_above_nothing(option: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisLog("redis://nowhere", **{option: 0})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://nowhere", {"idle_timeout": 80}),  # with the usual 30 seconds between two looks
        ("redis://nowhere", {"poll_interval": 1201}),
        ("redis://nowhere", {"decode_responses": True}),
        ("redis://nowhere/0?decode_responses=true", {}),
    ],
)
def test_what_would_go_wrong_later_is_refused_at_once(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RedisLog(url, **options)
