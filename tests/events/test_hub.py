"""EventHub on the memory log: whose events, in what order, from where, and how many."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextLimitError,
    DrainingError,
    InvalidContextError,
    NoContextError,
    OwnershipError,
    Ringfence,
    WrongTypeError,
    child_context,
    counters,
    nobody,
    task_group,
    user_context,
)
from ringfence.events import (
    Event,
    EventHub,
    MemoryLog,
    Position,
    Subscription,
    UserKey,
    emit,
    subscribe,
)

from .readers import PATIENCE, emit_numbers, follow_and_emit, is_silent, plain, take, waiting


@pytest.fixture
def hub() -> EventHub:
    return EventHub()


# --- whose ------------------------------------------------------------------------------------


async def test_events_go_to_the_current_user_and_to_nobody_else(hub: EventHub) -> None:
    got: dict[str, list[Any]] = {}

    async def follow(user: str, tenant: str | None, ready: anyio.Event) -> None:
        async with user_context(user, tenant_id=tenant), hub.subscribe() as events:
            ready.set()
            got[f"{user}/{tenant}"] = [await take(events, 1), await is_silent(events)]

    followers = [("ann", None), ("bob", None), ("ann", "acme"), ("ann", "zeta")]
    async with anyio.create_task_group() as tasks:
        for user, tenant in followers:
            ready = anyio.Event()
            tasks.start_soon(follow, user, tenant, ready)
            await ready.wait()
        for number, (user, tenant) in enumerate(followers):
            async with user_context(user, tenant_id=tenant):
                await emit_numbers(hub, number)
    assert got == {
        f"{user}/{tenant}": [[number], True] for number, (user, tenant) in enumerate(followers)
    }


async def test_nobody_emits_and_nobody_subscribes(hub: EventHub) -> None:
    with pytest.raises(NoContextError):
        await hub.emit("counted")
    with pytest.raises(NoContextError):
        async with hub.subscribe():
            pass
    async with nobody():
        with pytest.raises(NoContextError):
            await hub.emit("counted")
        with pytest.raises(NoContextError):
            async with hub.subscribe():
                pass
    assert counters.value("refused.RF101") == 4


async def test_a_task_that_outlives_its_scope_emits_nothing(hub: EventHub) -> None:
    async with user_context("ann"):
        before = await hub.emit("counted")

    async def late(go: anyio.Event) -> None:
        await go.wait()
        with pytest.raises(ContextClosedError):
            await hub.emit("counted")

    go = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with user_context("ann"):
            tasks.start_soon(late, go)
            await anyio.sleep(0)
        go.set()
    async with user_context("ann"), hub.subscribe() as events:
        assert events.position == before


async def test_only_the_connection_that_the_request_came_from(hub: EventHub) -> None:
    got: dict[str, list[int]] = {}

    async def follow(client: str | None, ready: anyio.Event) -> None:
        async with user_context("ann", websocket_client_id=client), hub.subscribe() as events:
            ready.set()
            got[str(client)] = []
            while 3 not in got[str(client)]:
                got[str(client)] += await take(events, 1)

    async with anyio.create_task_group() as tasks:
        for client in ("tab-1", "tab-2", None):
            ready = anyio.Event()
            tasks.start_soon(follow, client, ready)
            await ready.wait()
        async with user_context("ann", websocket_client_id="tab-1"):
            await emit_numbers(hub, 1)
            async with child_context("tool"):
                await emit_numbers(hub, 2, only_origin=True)
            await emit_numbers(hub, 3)
    assert got == {"tab-1": [1, 2, 3], "tab-2": [1, 3], "None": [1, 3]}


async def test_an_origin_that_is_not_there_does_not_become_everybody(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        with pytest.raises(InvalidContextError, match="came from no connection"):
            await hub.emit("counted", only_origin=True)
        assert await is_silent(events)


async def test_a_client_id_of_somebody_else_shows_nothing_of_theirs(hub: EventHub) -> None:
    async with user_context("bob"), hub.subscribe(client_id="tab-of-ann") as events:
        async with user_context("ann", websocket_client_id="tab-of-ann"):
            await emit_numbers(hub, 1, only_origin=True)
        assert await is_silent(events)


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 200, "nul\0"])
async def test_a_client_id_is_an_id(hub: EventHub, client_id: str) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError):
            async with hub.subscribe(client_id=client_id):
                pass
        assert not hub._subscriptions


async def test_another_request_cannot_read_from_a_subscription(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        await emit_numbers(hub, 1)
        async with user_context("bob"):
            with pytest.raises(OwnershipError):
                await anext(events)
        async with user_context("ann"):
            with pytest.raises(OwnershipError):
                await anext(events)
        assert await take(events, 1) == [1]


async def test_a_child_reads_for_its_parent(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        await emit_numbers(hub, 1)
        async with child_context("tool"):
            assert await take(events, 1) == [1]


async def test_a_reader_that_waits_is_rung_for(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        for number in range(3):
            async with waiting(events) as got:
                await emit_numbers(hub, number)
            assert got == [number]


# --- order, resuming --------------------------------------------------------------------------


async def test_from_now_on(hub: EventHub) -> None:
    async with user_context("ann"):
        await emit_numbers(hub, 1, 2)
        async with hub.subscribe() as events:
            await emit_numbers(hub, 3, 4)
            assert await take(events, 2) == [3, 4]
            assert await is_silent(events)


@pytest.mark.parametrize("missed", [0, 1, 5, 100, 101, 250])
async def test_after_an_id_exactly_what_was_missed(hub: EventHub, missed: int) -> None:
    async with user_context("ann"):
        *_, last = await emit_numbers(hub, 1, 2, 3)
        await emit_numbers(hub, *range(missed))
        async with hub.subscribe(last) as events:
            assert await take(events, missed) == list(range(missed))
            assert await is_silent(events)
            await emit_numbers(hub, 17)
            assert await take(events, 1) == [17]


async def test_its_position_resumes_before_anything_was_emitted(hub: EventHub) -> None:
    async with user_context("ann"):
        async with hub.subscribe() as events:
            position = events.position
        await emit_numbers(hub, 1)
        async with hub.subscribe(position) as events:
            assert await take(events, 1) == [1]
            assert events.position != position


async def test_away_for_too_long() -> None:
    hub = EventHub(MemoryLog(max_events=3))
    async with user_context("ann"):
        first, *_ = await emit_numbers(hub, *range(6))
        async with hub.subscribe(first) as events:
            assert await take(events, 4) == ["trimmed", 3, 4, 5]
            assert await is_silent(events)


async def test_exactly_at_the_edge_nothing_is_missing() -> None:
    hub = EventHub(MemoryLog(max_events=3))
    async with user_context("ann"):
        first, *_ = await emit_numbers(hub, *range(4))
        async with hub.subscribe(first) as events:
            assert await take(events, 3) == [1, 2, 3]


async def test_too_slow_while_it_is_connected() -> None:
    hub = EventHub(MemoryLog(max_events=3))
    async with user_context("ann"), hub.subscribe() as events:
        await emit_numbers(hub, *range(10))
        assert await take(events, 4) == ["trimmed", 7, 8, 9]
        await emit_numbers(hub, 10)
        assert await take(events, 1) == [10]


async def test_another_life_of_the_log(hub: EventHub) -> None:
    async with user_context("ann"):
        await emit_numbers(hub, 1, 2)
        async with hub.subscribe(f"{'0' * 16}-1") as events:
            assert await take(events, 3) == ["epoch", 1, 2]


async def test_further_than_there_is(hub: EventHub) -> None:
    async with user_context("ann"):
        last = Position.parse(await hub.emit("counted", {"n": 0}))
        async with hub.subscribe(f"{last.epoch}-{last.sequence + 5}") as events:
            assert await take(events, 1) == ["ahead"]
            assert events.position == str(last)
            assert await is_silent(events)


async def test_an_id_of_another_user_gives_nothing_of_theirs(hub: EventHub) -> None:
    async with user_context("ann"):
        first, _ = await emit_numbers(hub, 1, 2)
    async with user_context("bob"):
        await emit_numbers(hub, 17)
        async with hub.subscribe(first) as events:
            assert await take(events, 2) == ["epoch", 17]
            assert await is_silent(events)


@pytest.mark.parametrize(
    "last_id",
    [
        "", "0", "$", "*", "00c0ffee00c0ffee", "00c0ffee00c0ffee-", "00c0ffee00c0ffee-01",
        "00c0ffee00c0ffee--1", "00C0FFEE00C0FFEE-1", "00c0ffee00c0ffee-1\n",
        "00c0ffee00c0ffee-" + "9" * 16, "00c0ffee00c0ffee-\u0661", "x" * 100_000, 17, b"1-1",
    ],
    ids=lambda each: repr(each)[:30],
)  # fmt: skip
async def test_what_is_no_id_is_refused_and_not_shown(hub: EventHub, last_id: Any) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError) as refused:
            hub.subscribe(last_id)
    assert refused.value.field == "last_id"
    assert len(str(refused.value)) < 200


async def test_what_comes_while_it_reads_is_not_forgotten() -> None:
    class Log(MemoryLog):
        async def read(self, *args: Any) -> Any:
            page = await super().read(*args)
            if len(looked) < 2 and not page.entries and args[1] is not None:
                looked.append(1)
                await hub.emit("counted", {"n": len(looked)})  # too late for this page
            return page

    looked: list[int] = []
    hub = EventHub(Log())
    async with user_context("ann"), hub.subscribe() as events:
        assert await take(events, 2) == [1, 2]


async def test_giving_up_waiting_loses_nothing(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        got: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit_slowly, hub)
            with anyio.fail_after(PATIENCE):
                while len(got) < 50:
                    with anyio.move_on_after(0.001):
                        got += [plain(await anext(events))]
        assert got == list(range(50))


async def emit_slowly(hub: EventHub) -> None:
    for number in range(50):
        await emit_numbers(hub, number)
        await anyio.sleep(0.0007)


async def test_a_burst_lets_its_readers_run() -> None:
    """Otherwise it would push out what they had no time to read."""
    hub = EventHub(MemoryLog(max_events=10))
    got: list[Any] = []

    async def follow(events: Subscription) -> None:
        got.extend(await take(events, 200))

    async with user_context("ann"), hub.subscribe() as events, task_group() as tasks:
        tasks.start_soon(follow, events)
        await anyio.sleep(0.01)
        await emit_numbers(hub, *range(200))
    assert got == list(range(200))


# --- ends -------------------------------------------------------------------------------------


async def test_it_ends_with_its_scope(hub: EventHub) -> None:
    seen: list[str] = []

    async def reads(events: Subscription, ready: anyio.Event) -> None:
        ready.set()
        try:
            async for _ in events:
                pass
            seen.append("ended")
        except ContextClosedError:
            seen.append("closed")

    async with anyio.create_task_group() as tasks:
        async with user_context("ann"):
            events = await hub.subscribe().__aenter__()
            ready = anyio.Event()
            tasks.start_soon(reads, events, ready)
            await ready.wait()
            await anyio.sleep(0.01)
    assert seen[0] in ("ended", "closed")
    assert not hub._subscriptions
    with pytest.raises(ContextClosedError):
        await anext(events)
    async with user_context("ann"):
        with pytest.raises(ContextClosedError):
            await anext(events)


async def test_after_its_block_it_gives_no_more(hub: EventHub) -> None:
    async with user_context("ann"):
        async with hub.subscribe() as events:
            await emit_numbers(hub, 1)
        assert [event async for event in events] == []
        with pytest.raises(ConfigurationError, match="entered already"):
            await events.__aenter__()


async def test_it_is_not_read_by_two_tasks(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as events, task_group() as tasks:
        tasks.start_soon(take, events, 1)
        await anyio.sleep(0.01)
        with pytest.raises(ConfigurationError, match="Two tasks"):
            await anext(events)
        await emit_numbers(hub, 1)


async def test_unopened_it_gives_nothing(hub: EventHub) -> None:
    async with user_context("ann"):
        events = hub.subscribe()
        with pytest.raises(ConfigurationError, match="not open"):
            await anext(events)
        with pytest.raises(ConfigurationError, match="not open"):
            events.position  # noqa: B018


async def test_shutdown_ends_it_at_once(hub: EventHub) -> None:
    ready, ended = anyio.Event(), anyio.Event()
    fence = Ringfence(events=hub)

    async def follow() -> None:
        async with fence.user_context("ann"), hub.subscribe() as events:
            ready.set()
            async for _ in events:
                pass
            ended.set()

    async def of_another_application(go: anyio.Event) -> None:
        async with Ringfence(events=hub).user_context("bob"), hub.subscribe() as events:
            go.set()
            assert await take(events, 1) == [1]

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(PATIENCE):
            async with fence:
                tasks.start_soon(follow)
                await ready.wait()
                go = anyio.Event()
                tasks.start_soon(of_another_application, go)
                await go.wait()
        assert ended.is_set()
        assert fence.drain_report is not None
        assert (fence.drain_report.drained, fence.drain_report.cancelled) == (1, 0)
        async with user_context("bob"):
            await emit_numbers(hub, 1)


async def test_none_begins_during_shutdown(hub: EventHub) -> None:
    fence = Ringfence(events=hub)
    refused: list[str] = []

    async def late(ready: anyio.Event, go: anyio.Event) -> None:
        async with fence.user_context("ann"):
            ready.set()
            await go.wait()
            with pytest.raises(DrainingError):
                async with hub.subscribe():
                    pass
            refused.append("late")

    ready, go = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with fence:
            tasks.start_soon(late, ready, go)
            await ready.wait()
            tasks.start_soon(_set_when_draining, fence, go)
    assert refused == ["late"]


async def _set_when_draining(fence: Ringfence, go: anyio.Event) -> None:
    while not fence.is_draining:  # noqa: ASYNC110
        await anyio.sleep(0.001)
    go.set()


async def test_the_fence_closes_it() -> None:
    closed: list[bool] = []

    class Log(MemoryLog):
        async def aclose(self) -> None:
            closed.append(fence.is_open)

    fence = Ringfence(events=EventHub(Log()))
    async with fence:
        pass
    assert closed == [False]


# --- limits -----------------------------------------------------------------------------------


async def test_connections_per_user_and_in_all() -> None:
    hub = EventHub(max_connections_per_user=2, max_connections=3)
    async with user_context("ann"), hub.subscribe() as first, hub.subscribe():
        with pytest.raises(ContextLimitError):
            async with hub.subscribe():
                pass
        async with user_context("bob"), hub.subscribe():
            async with user_context("cia"):
                with pytest.raises(ContextLimitError):
                    async with hub.subscribe():
                        pass
        await emit_numbers(hub, 1)
        assert await take(first, 1) == [1]
    async with user_context("ann"), hub.subscribe(), hub.subscribe():
        pass
    assert (hub._subscriptions, hub._per_user) == ({}, {})
    assert counters.value("events.too_many_connections") == 2


async def test_the_log_is_bounded_in_length_and_bytes() -> None:
    log = MemoryLog(max_events=100, max_bytes=20_000)
    hub = EventHub(log)
    async with user_context("ann"):
        for _ in range(300):
            await hub.emit("counted")
        assert len(log._idle[UserKey(None, "ann")].entries) <= 100
        for _ in range(30):
            await hub.emit("counted", {"text": "x" * 2000})
        stream = log._idle[UserKey(None, "ann")]
        assert 5 < len(stream.entries) < 10
        assert stream.bytes == log._bytes <= 20_000
        await hub.emit("counted", {"text": "x" * 50_000})
        assert len(stream.entries) == 1


async def test_users_are_bounded_and_the_least_recently_used_is_forgotten() -> None:
    hub = EventHub(MemoryLog(max_users=3))
    ids = {}
    for name in ("ann", "bob", "cia", "ann", "dan"):
        async with user_context(name):
            ids[name] = await hub.emit("counted", {"n": 0})
            await emit_numbers(hub, 1)
    found = {}
    for name in ("ann", "dan", "cia", "bob"):
        async with user_context(name), hub.subscribe(ids[name]) as events:
            found[name] = await take(events, 1)
    assert found == {"ann": [1], "dan": [1], "cia": [1], "bob": ["epoch"]}


async def test_who_is_forgotten_is_told_so() -> None:
    hub = EventHub(MemoryLog(max_users=1))
    async with user_context("ann"):
        last = await hub.emit("counted")
    async with user_context("bob"):
        await hub.emit("counted")
    async with user_context("ann"), hub.subscribe(last) as events:
        assert await take(events, 1) == ["epoch"]


async def test_who_is_connected_is_not_forgotten() -> None:
    hub = EventHub(MemoryLog(max_users=1, max_total_bytes=4000))
    async with user_context("ann"), hub.subscribe() as events:
        for number in range(50):
            async with user_context(f"user-{number}"):
                await hub.emit("counted")
        await emit_numbers(hub, 17)
        assert await take(events, 1) == [17]


async def test_who_writes_much_costs_others_who_are_connected_nothing_new() -> None:
    log = MemoryLog(max_total_bytes=20_000)
    hub = EventHub(log)
    async with user_context("ann"), hub.subscribe() as anns:
        for number in range(100):
            await hub.emit("counted", {"n": number, "text": "x" * 400})
        async with user_context("bob"), hub.subscribe() as events:
            await emit_numbers(hub, 1, 2, 3)
            assert await take(events, 3) == [1, 2, 3]
            for number in range(100):
                await hub.emit("counted", {"n": number, "text": "x" * 400})
            assert log._bytes <= 20_000
        assert await take(anns, 1) == ["trimmed"]  # it is ann's that went, the older ones
        await emit_numbers(hub, 17)
        assert await take(anns, 1) == [17]


async def test_all_users_together_are_bounded() -> None:
    log = MemoryLog(max_total_bytes=50_000)
    hub = EventHub(log)
    async with user_context("watching"), hub.subscribe():
        await hub.emit("counted", {"text": "x" * 1000})
        for number in range(300):
            async with user_context(f"user-{number}"):
                await hub.emit("counted", {"text": "x" * 1000})
        assert log._bytes <= 50_000
        for _ in range(100):
            await hub.emit("counted", {"text": "x" * 1000})
        assert log._bytes <= 50_000
        assert log._bytes == sum(s.bytes for s in [*log._idle.values(), *log._watched.values()])


async def test_idle_users_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ringfence.events.memory.time.monotonic", lambda: now[0])
    log = MemoryLog(idle_timeout=60)
    hub = EventHub(log)
    async with user_context("ann"):
        last = await hub.emit("counted")
    now[0] = 59
    async with user_context("bob"):
        await hub.emit("counted")
    assert len(log._idle) == 2
    now[0] = 61
    async with user_context("bob"):
        await hub.emit("counted")
    assert list(log._idle) == [UserKey(None, "bob")]
    async with user_context("ann"), hub.subscribe(last) as events:
        assert await take(events, 1) == ["epoch"]


@pytest.mark.parametrize("option", ["max_events", "max_bytes", "max_users", "idle_timeout"])
def test_limits_are_above_nothing(option: str) -> None:
    with pytest.raises(ConfigurationError):
        MemoryLog(**{option: 0})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        EventHub(max_connections=0)


# --- what they say ----------------------------------------------------------------------------


async def test_what_an_event_says(hub: EventHub) -> None:
    async with user_context("ann", "t-1", "r-1") as root, hub.subscribe() as events:
        async with child_context("triage") as ctx:
            data = {"n": 1, "text": 'ü"\n', "list": [1, None, {"x": 1.5}]}
            event_id = await hub.emit("order_placed", data)
            data["n"] = 2
        event = await anext(events)
    assert isinstance(event, Event)
    document = json.loads(event.json())
    assert document.pop("time").endswith("+00:00")
    assert document == {
        "id": event_id,
        "sequence": 1,
        "version": 1,
        "kind": "order_placed",
        "thread_id": "t-1",
        "run_id": "r-1",
        "request_id": ctx.request_id,
        "parent_request_id": root.request_id,
        "depth": 1,
        "operation": "triage",
        "data": {"n": 1, "text": 'ü"\n', "list": [1, None, {"x": 1.5}]},
    }
    assert event.document["data"] == event.data
    assert (event.id, event.sequence, event.kind) == (event_id, 1, "order_placed")
    assert "\n" not in event.json()


async def test_two_connections_share_no_data(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe() as one, hub.subscribe() as two:
        await hub.emit("counted", {"list": []})
        first, second = await anext(one), await anext(two)
    assert isinstance(first, Event)
    assert isinstance(second, Event)
    first.data["list"].append(1)
    assert (first.data, second.data) == ({"list": [1]}, {"list": []})


async def test_a_resync_says_from_where(hub: EventHub) -> None:
    async with user_context("ann"), hub.subscribe(f"{'0' * 16}-1") as events:
        resync = await anext(events)
    document = json.loads(resync.json())
    assert document == {
        "id": resync.id,
        "version": 1,
        "kind": "resync",
        "data": {"reason": "epoch"},
    }


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"a": [{"lock": object()}]}, r"`data\['a'\]\[0\]\['lock'\]` is a `object`"),
        ({"a": {1, 2}}, r"`data\['a'\]` is a `set`"),
        ({("a", "b"): 1}, r"is a `tuple`"),
        ({"x": float("nan")}, r"`data\['x'\]` is not finite"),
        ({"x": float("inf")}, r"`data\['x'\]` is not finite"),
        ({"x": "\ud800"}, "half a surrogate pair"),
        (CYCLE, "contains itself"),
        ([1], "`data` is a `list`"),
        ("text", "`data` is a `str`"),
    ],
    ids=lambda each: str(each)[:24],
)
async def test_data_that_json_has_no_words_for(hub: EventHub, data: Any, said: str) -> None:
    async with user_context("ann"), hub.subscribe() as events:
        with pytest.raises(WrongTypeError, match=said):
            await hub.emit("counted", data)
        assert await is_silent(events)


async def test_data_that_is_nested_too_deep(hub: EventHub) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"x": deep}
    async with user_context("ann"):
        with pytest.raises(InvalidContextError, match="nested too deep"):
            await hub.emit("counted", deep)


async def test_data_that_is_too_large() -> None:
    hub = EventHub(max_event_bytes=1000)
    async with user_context("ann"):
        with pytest.raises(ContextLimitError, match="1000 are allowed"):
            await hub.emit("counted", {"text": "x" * 1000})
        await hub.emit("counted", {"text": "x" * 500})


@pytest.mark.parametrize(
    "kind", ["", "A", "1st", "a b", "a\n", "é", "resync", "ready", "heartbeat", "x" * 65, None, 1]
)
async def test_kinds_that_cannot_be(hub: EventHub, kind: Any) -> None:
    async with user_context("ann"):
        with pytest.raises(InvalidContextError) as refused:
            await hub.emit(kind)
    assert refused.value.field == "kind"


# --- the verbs --------------------------------------------------------------------------------


async def test_the_fence_that_is_open_here_has_the_hub(hub: EventHub) -> None:
    async with Ringfence(events=hub).user_context("ann"), subscribe() as events:
        async with child_context("tool"):
            last = await emit("counted", {"n": 1})
        await emit("counted", {"n": 2})
        assert await take(events, 2) == [1, 2]
        async with subscribe(last) as again:
            assert await take(again, 1) == [2]


async def test_a_sink_of_another_kind_takes_events_and_gives_none() -> None:
    told: list[Any] = []

    class Sink:
        async def emit(self, kind: str, data: Any = None, *, only_origin: bool = False) -> str:
            told.append((kind, data, only_origin))
            return "7"

        def stop(self) -> None:
            told.append("stop")

        async def aclose(self) -> None:
            told.append("aclose")

    async with Ringfence(events=Sink()) as fence, fence.user_context("ann"):
        assert await emit("counted", {"n": 1}) == "7"
        with pytest.raises(ConfigurationError, match="takes events, and gives none"):
            subscribe()
    assert told == [("counted", {"n": 1}, False), "stop", "aclose"]


async def test_without_a_hub_it_says_so() -> None:
    with pytest.raises(NoContextError):
        await emit("counted")
    with pytest.raises(NoContextError):
        subscribe()
    for block in (user_context("ann"), Ringfence().user_context("ann")):
        async with block:
            with pytest.raises(ConfigurationError, match="no hub"):
                await emit("counted")
            with pytest.raises(ConfigurationError, match="no hub"):
                subscribe()


# --- many -------------------------------------------------------------------------------------


async def test_two_users_three_connections_each_and_forced_disconnects(hub: EventHub) -> None:
    """In order, no loss, no duplicate, no event of the other user."""
    await follow_and_emit(hub, users=("ann", "bob"), count=1000, connections=3)
