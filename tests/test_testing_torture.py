"""The torture kit: canaries, scenarios, the plan, and small applications that are attacked."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.handlers
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from ringfence import ConfigurationError, state, user_context
from ringfence.testing import torture as kit
from ringfence.testing.torture import Report, Request, WebSocket, server, torture
from ringfence.testing.torture.canaries import Canaries, Watch
from ringfence.testing.torture.report import KEPT, Fault, Leak
from ringfence.testing.torture.scenario import Scenario, load_scenario
from ringfence.testing.torture.workload import ATTACKS, BIG, Workload

CANARIES = Canaries(seed=7, users=30)

# --- canaries ---------------------------------------------------------------------------------


def test_a_canary_is_its_users_and_of_this_run() -> None:
    assert CANARIES.found(f"<{CANARIES.of(3)}>{CANARIES.of(29).upper()}") == {3, 29}
    assert CANARIES.found(Canaries(seed=8, users=30).of(3)) == set()
    assert CANARIES.found("canary000003x0123456789") == set()
    assert len({CANARIES.of(n) for n in range(30)}) == 30


@pytest.mark.parametrize("size", [1, 2, 7, 22, 23, 100])
def test_a_canary_is_found_across_the_borders_of_pieces(size: int) -> None:
    data = f"head {CANARIES.of(1)} middle {CANARIES.of(2)}".encode()
    watch = Watch(CANARIES)
    for begin in range(0, len(data), size):
        watch.feed(data[begin : begin + size])
    assert set(watch.excerpts) == {1, 2}


def test_an_excerpt_is_of_the_canarys_own_line() -> None:
    watch = Watch(CANARIES)
    watch.feed(f"x-request-id: 1\nnote of {CANARIES.of(1)}".encode())
    assert watch.excerpts == {1: f"note of {CANARIES.of(1)}"}


# --- requests ---------------------------------------------------------------------------------


def test_what_a_request_is() -> None:
    request = Request("post", f"/notes/{CANARIES.of(1)}?q=1", body={"text": "x"})
    assert (request.method, request.kind, request.content) == (
        "POST",
        "POST /notes/*",
        b'{"text": "x"}',
    )
    assert request.is_right(201)
    assert not request.is_right(404)
    assert Request("GET", "/", expect=404).is_right(404)
    assert not Request("GET", "/", expect=(404, 200)).is_right(201)
    socket = WebSocket("/ws", [{"say": 1}, "two", b"three"])
    assert (socket.messages, socket.kind) == (('{"say": 1}', "two", b"three"), "WebSocket /ws")
    assert WebSocket("/ws", "one").messages == ("one",)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Request("GET", "notes"), "A path cannot be 'notes'"),
        (lambda: Request("GET", "/a b"), "A path cannot be '/a b'"),
        (lambda: Request("GET /", "/"), "A method cannot be"),
        (lambda: Request("GET", "/", headers="authorization"), "Headers cannot be"),
        (lambda: Request("GET", "/", headers={"a": "b\r\nc: d"}), "The header 'a' cannot be sent"),
        (lambda: WebSocket("ws"), "A path cannot be 'ws'"),
    ],
)
def test_what_cannot_be_sent_is_refused(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make()


# --- scenarios --------------------------------------------------------------------------------


class Right:
    async def login(self, n: int) -> dict[str, str]:
        return {"authorization": f"user-{n}"}

    def requests(self, n: int, canary: str) -> Iterator[Request | WebSocket]:
        yield Request("POST", "/notes", body={"text": canary})
        yield Request("GET", "/notes", headers={"cookie": "a=b", "accept": "text/plain"})


async def _send(request: Request) -> Any:
    return None


def _scenario(**changes: Any) -> Any:
    return type("Changed", (Right,), changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"login": None}, "has no `login`"),
        ({"requests": 3}, "has no `requests`"),
        ({"login": lambda self: {}}, "not even the user's number"),
        ({"login": lambda self, n, client: {}}, "takes `client`"),
    ],
)
def test_what_a_scenario_lacks_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Scenario(_scenario(**changes))


@pytest.mark.parametrize(
    ("requests", "named"),
    [
        (lambda self, n, canary: [], "no request"),
        (lambda self, n, canary: iter(lambda: Request("GET", "/"), None), "more than 1000"),
        (lambda self, n, canary: ["/notes"], "yielded '/notes'"),
        (lambda self, n, canary: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_requests_is_named(requests: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Scenario(_scenario(requests=requests)).requests(1, "c")


async def test_a_login_gets_what_it_asks_for() -> None:
    async def login(self: Any, n: int, send: Any, canary: str) -> list[tuple[str, str]]:
        return [("x-user", f"{n} {canary} {await send(Request('GET', '/'))}")]

    headers = await Scenario(_scenario(login=login)).login(3, "c", _send)
    assert headers == (("x-user", "3 c None"),)


async def test_a_login_need_not_be_async_but_must_give_headers() -> None:
    plain = Scenario(_scenario(login=lambda self, n: {"x": n}))
    assert await plain.login(3, "c", _send) == (("x", "3"),)
    with pytest.raises(ConfigurationError, match="Headers cannot be None"):
        await Scenario(_scenario(login=lambda self, n: None)).login(3, "c", _send)
    with pytest.raises(ConfigurationError, match=r"`login\(3\)` raised ZeroDivisionError"):
        await Scenario(_scenario(login=lambda self, n: 1 / 0)).login(3, "c", _send)


def test_scenarios_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "of_file.py").write_text("scenario = 1\nother = 2\n")
    assert load_scenario(f"{tmp_path}/of_file.py") == 1
    assert load_scenario(f"{tmp_path}/of_file.py:other") == 2
    assert load_scenario("json") is json
    for missing in (f"{tmp_path}/none.py", "json:nothing", "no_such_module_at_all"):
        with pytest.raises(ConfigurationError):
            load_scenario(missing)


# --- the plan ---------------------------------------------------------------------------------


def _workload(**changes: Any) -> Workload:
    return Workload(Scenario(_scenario(**changes)), CANARIES)


def test_the_same_seed_plans_the_same() -> None:
    first, again = (list(_workload().turns(2, 200)) for _ in range(2))
    assert first == again
    assert first != list(_workload().turns(3, 200))
    other = Workload(Scenario(Right), Canaries(seed=8, users=30))
    assert [turn.attack for turn in first] != [turn.attack for turn in other.turns(2, 200)]


def test_only_takes_out_of_the_same_plan() -> None:
    whole = [turn for turn in _workload().turns(0, 300) if turn.attack == "pipelined"]
    assert whole
    assert list(_workload().turns(0, 300, ["pipelined"])) == whole


def test_every_attack_is_planned_and_there_are_as_many_requests_as_asked_for() -> None:
    def requests(self: Any, n: int, canary: str) -> Iterator[Any]:
        yield from Right().requests(n, canary)
        yield WebSocket("/ws", [canary])

    turns = list(_workload(requests=requests).turns(0, 600))
    assert {turn.attack for turn in turns} == set(ATTACKS)
    assert 600 <= sum(len(turn.steps) for turn in turns) <= 605


def test_without_json_and_websockets_there_are_none() -> None:
    turns = _workload(requests=lambda self, n, canary: [Request("GET", "/")]).turns(0, 300)
    assert not {turn.attack for turn in turns} & {"websocket", "big_body"}


def test_with_nothing_but_websockets_there_is_nothing_else() -> None:
    turns = _workload(requests=lambda self, n, canary: [WebSocket("/ws")]).turns(0, 50)
    assert {turn.attack for turn in turns} == {"websocket"}


def test_nobody_reads_and_has_no_credentials() -> None:
    steps = [step for turn in _workload().turns(0, 300) for step in turn.steps]
    nobodys = [step for step in steps if step.is_nobody]
    assert nobodys
    assert {step.request.kind for step in nobodys} == {"GET /notes"}
    assert {step.request.headers for step in nobodys} == {(("accept", "text/plain"),)}
    asked = [s for turn in _workload(anonymous=False).turns(0, 300) for s in turn.steps]
    assert not any(step.is_nobody for step in asked)


# --- the report -------------------------------------------------------------------------------


def _report(**changes: Any) -> Report:
    return Report(
        **{"app": "a:b", "scenario": "c", "users": 2, "requests": 9, "seed": 7, **changes}
    )


LEAK = Leak("response", 1, None, "GET /", "pipelined", "s", 3, "user 1's GET /", "...", "again")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda report: report.add_leak(LEAK),
        lambda report: report.add_fault(Fault("no answer", "GET /", "s", "again")),
        lambda report: report.left.append("3 scopes"),
    ],
    ids=["leak", "fault", "left"],
)
def test_a_report_with_a_finding_is_not_clean(spoil: Callable[[Report], None]) -> None:
    report = _report()
    report.assert_clean()
    spoil(report)
    with pytest.raises(AssertionError, match="found: 1 "):
        report.assert_clean()
    assert json.loads(json.dumps(report.to_dict()))["is_clean"] is False


def test_a_report_keeps_the_first_and_counts_the_rest() -> None:
    report = _report()
    for _ in range(KEPT + 50):
        report.add_leak(LEAK)
    assert (len(report.leaks), report.leak_count) == (KEPT, KEPT + 50)
    assert report.findings()[:3] == [
        "nobody's answer to GET / [pipelined] has user 1's canary "
        "(s, connection 3, after user 1's GET /): ...",
        "  replay: again",
        f"... and {KEPT + 49} more of these",
    ]


def test_a_replay_names_what_it_repeats() -> None:
    report = _report(options=("--server-option", "factory=true"))
    assert report.replay("asyncio-h11", ["slow", "pipelined", "slow"]) == (
        "ringfence torture a:b --scenario c --users 2 --requests 9 --seed 7 "
        "--server-option factory=true --server asyncio-h11 --only pipelined --only slow"
    )


# --- whole runs, in a thread of this process ----------------------------------------------------


class Notes:
    """A small ASGI application, right as it is; what a test spoils, it overrides."""

    def __init__(self) -> None:
        self.notes: defaultdict[str, list[str]] = defaultdict(list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.user = user = headers.get("authorization")
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["method"] == "POST" and message["type"] == "http.request":
            self.notes[user or ""].append(json.loads(body)["text"])
        status, said = await self.answer(user)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    async def live(self, receive: Any, send: Any) -> None:
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})

    async def answer(self, user: str | None) -> tuple[int, Any]:
        return (401, None) if user is None else (200, self.notes[user][-3:])


def _attack(app: Any, scenario: Any = Right, **changes: Any) -> Report:
    given = {"users": 4, "requests": 80, "seed": 3, "servers": ["asyncio-h11"], "grace": 0.3}
    return torture(app, scenario, **{**given, **changes})


def _spoiled(answer: Any) -> Notes:
    return type("Spoiled", (Notes,), {"answer": answer})()


def test_what_is_right_passes_and_what_was_not_seen_is_said() -> None:
    report = _attack(Notes())
    report.assert_clean()
    assert report.sum("answers") > 60
    assert report.sum("own canaries") > 60
    said = " ".join(report.not_observed)
    for what in ("scopes", "registered objects", "connections", "rows", "websocket", "log records"):
        assert f"{what}: " in said, what
    assert report.observed == []


def test_logging_and_printing_are_left_as_they_were() -> None:
    before = (logging.Logger.callHandlers, sys.stdout, sys.stderr)
    _attack(Notes(), requests=4)
    assert (logging.Logger.callHandlers, sys.stdout, sys.stderr) == before


def test_the_application_does_not_see_the_kits_own_header() -> None:
    seen: set[bytes] = set()

    class Looking(Notes):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.update(name for name, _ in scope.get("headers", ()))
            await super().__call__(scope, receive, send)

    _attack(Looking(), requests=10).assert_clean()
    assert b"authorization" in seen
    assert not any(b"ringfence" in name for name in seen)


@pytest.mark.parametrize("is_leaky", [False, True])
def test_a_login_may_ask_the_application_and_is_judged(is_leaky: bool) -> None:
    async def login(self: Any, n: int, canary: str, send: Any) -> dict[str, str]:
        answer = await send(Request("POST", "/login", body={"text": canary}))
        return {"authorization": answer.json()["token"]}

    class LoggingIn(Notes):
        last = ""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") != "/login":
                await super().__call__(scope, receive, send)
                return
            name = json.loads((await receive())["body"])["text"]
            logging.getLogger("app").warning("%s logs in", name)
            said = {"token": name, "before": self.last if is_leaky else name}
            self.last = name
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    report = _attack(LoggingIn(), _scenario(login=login))
    assert report.done["login"]["requests"] == 4
    assert {(leak.where, leak.attack) for leak in report.leaks} == (
        {("response", "login")} if is_leaky else set()
    )
    assert report.fault_count == 0


def test_an_answer_of_another_is_a_leak() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        await asyncio.sleep(0.001)
        return (401, None) if user is None else (200, self.notes[self.user or user][-3:])

    report = _attack(_spoiled(answer))
    assert report.leak_count
    leak = report.leaks[0]
    assert (leak.where, leak.server) == ("response", "asyncio-h11")
    assert leak.whose != leak.seen_by
    assert "--seed 3" in leak.replay


def test_nobody_must_see_not_even_what_belongs_to_who_asked_otherwise() -> None:
    def requests(self: Any, n: int, canary: str) -> Iterator[Request]:
        yield Request("POST", "/notes", body={"text": canary})
        yield Request("GET", f"/notes?of=user-{n}")

    class Trusting(Notes):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if named := scope.get("query_string"):
                scope["headers"] = [(b"authorization", named.removeprefix(b"of="))]
            await super().__call__(scope, receive, send)

    report = _attack(Trusting(), _scenario(requests=requests))
    assert {leak.seen_by for leak in report.leaks} == {None}
    assert {leak.whose for leak in report.leaks} == {0, 1, 2, 3}


def test_pipelined_requests_are_in_one_write() -> None:
    acting: ContextVar[str | None] = ContextVar("acting", default=None)

    class SetAndReset(Notes):
        async def answer(self, user: str | None) -> tuple[int, Any]:
            token = acting.set(user) if user else None
            return await Notes.answer(self, acting.get() if token is None else user)

    report = _attack(SetAndReset(), only=["pipelined"], requests=150)
    assert {(leak.attack, leak.seen_by) for leak in report.leaks} == {("pipelined", None)}
    assert "--only pipelined" in report.leaks[0].replay


def test_nobody_may_be_told_what_the_request_itself_said() -> None:
    def requests(self: Any, n: int, canary: str) -> Iterator[Request]:
        yield Request("GET", f"/echo?{canary}", expect=(200, 404))

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": scope["query_string"]})

    _attack(echo, _scenario(requests=requests)).assert_clean()


def test_what_is_logged_and_printed_is_heard() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        logging.getLogger("app").warning("asked", extra={"before": getattr(self, "last", "")})
        print("before", getattr(self, "last", ""))
        if user:
            self.last = " ".join(self.notes[user][-1:])
            logging.getLogger("app").warning("asked by %s", self.last)
        return await Notes.answer(self, user)

    report = _attack(_spoiled(answer))
    assert {leak.where for leak in report.leaks} == {"log", "output"}
    assert report.observed[0].startswith("log records and printed lines: ")
    assert ", with 0 " not in report.observed[0]


def test_what_handlers_add_to_a_log_record_is_heard() -> None:
    seen: list[str] = []

    class Handler(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:
            record.before = seen[-2] if seen[1:] else ""
            return True

        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)

    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        if user:
            seen.append(" ".join(self.notes[user][-1:]))
            try:
                raise ValueError(seen[-2] if how == "cause" and seen[1:] else "")
            except ValueError as error:
                logger.error("asked", exc_info=_caused_by(error))
        return await Notes.answer(self, user)

    logger = logging.getLogger("app.of.handlers")
    formatted = logging.Handler()
    formatted.emit = formatted.format  # type: ignore[assignment, method-assign]
    for how, handler in (("filter", Handler()), ("cause", formatted)):
        seen.clear()
        logger.handlers = [handler]
        leaks = _attack(_spoiled(answer)).leaks
        assert {leak.where for leak in leaks} == {"log"}, how
    logger.handlers = []


def _caused_by(cause: Exception) -> Exception:
    error = RuntimeError("of another")
    error.__cause__ = cause
    return error


def test_a_buffer_that_gives_away_what_others_logged_is_no_leak() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        if user:
            logger.warning("asked by %s", " ".join(self.notes[user][-1:]))
        return await Notes.answer(self, user)

    logger = logging.getLogger("app.of.buffers")
    target = logging.StreamHandler(io.StringIO())
    logger.handlers = [logging.handlers.MemoryHandler(5, target=target)]
    report = _attack(_spoiled(answer))
    logger.handlers = []
    report.assert_clean()
    assert ", with 0 " not in report.observed[0]


def test_rows_are_judged() -> None:
    rows = [(1, "nothing"), (2, CANARIES.of(2)), (3, CANARIES.of(1))]
    report = _attack(Notes(), _scenario(rows=lambda self: rows), seed=7)
    assert [(leak.where, leak.seen_by, leak.whose) for leak in report.leaks] == [("row", 3, 1)]
    assert report.leak_count == 1

    async def none(self: Any) -> list[Any]:
        return []

    async def without_canaries(self: Any) -> list[Any]:
        return [(1, "nothing")]

    for how, count in ((none, 0), (without_canaries, 1)):
        said = f"rows: {count} read, with 0 canaries of their own user (asyncio-h11)"
        assert said in _attack(Notes(), _scenario(rows=how)).not_observed


def test_an_open_scope_and_a_task_are_left() -> None:
    kept: list[Any] = []

    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        if user and not kept:
            kept.append(user_context(user))
            await kept[0].__aenter__()
            kept.append(asyncio.create_task(asyncio.sleep(3600)))
        return await Notes.answer(self, user)

    report = _attack(_spoiled(answer))
    assert report.left == ["1 scopes (asyncio-h11)", "1 tasks still running: sleep (asyncio-h11)"]
    assert any(what.startswith("scopes: at most 1 ") for what in report.observed)
    state.roots.pop(kept[0])


def test_an_error_is_a_fault_and_says_what_was_raised() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        if user == "user-1":
            raise ZeroDivisionError("of mine")
        return await Notes.answer(self, user)

    report = _attack(_spoiled(answer))
    assert "unexpected 500" in {fault.what for fault in report.faults}
    assert any(what.endswith(": ZeroDivisionError: of mine") for what in report.raised)
    assert "in GET /notes: ZeroDivisionError: of mine" in str(report)


def test_an_echo_that_does_not_come_is_a_fault() -> None:
    def requests(self: Any, n: int, canary: str) -> Iterator[Request]:
        yield Request("POST", "/notes", body={"text": canary}, echoes=True)

    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        return 200, [] if user == "user-2" else self.notes[user or ""]

    report = _attack(_spoiled(answer), _scenario(requests=requests))
    assert {fault.what for fault in report.faults} == {"the answer lacks its own user's canary"}


def test_an_application_that_hangs_is_not_waited_for_without_end() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        if len(self.notes) > 3:
            await asyncio.sleep(3600)
        return await Notes.answer(self, user)

    report = _attack(_spoiled(answer), timeout=0.1, requests=4000)
    said = {fault.what for fault in report.faults}
    assert "no answer within 0.1 s" in said
    assert "stopped after 20 requests without an answer" in said
    assert report.sum("requests") < 200


def test_a_run_has_a_time_limit() -> None:
    async def answer(self: Notes, user: str | None) -> tuple[int, Any]:
        await asyncio.sleep(0.05)
        return await Notes.answer(self, user)

    report = _attack(_spoiled(answer), time_limit=1, requests=10_000, connections=2)
    assert {fault.what for fault in report.faults} == {"not finished within 1 s"}


def test_a_big_body_is_one_and_may_be_refused() -> None:
    sizes: list[int] = []

    class Strict(Notes):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = dict(scope.get("headers", ()))
            sizes.append(int(headers.get(b"content-length", b"0")))
            if sizes[-1] > 1000:
                await send({"type": "http.response.start", "status": 413, "headers": []})
                await send({"type": "http.response.body"})
                return
            await super().__call__(scope, receive, send)

    report = _attack(Strict(), requests=200)
    report.assert_clean()
    assert max(sizes) > BIG
    assert report.done["big_body"]["refused"] > 0


@pytest.mark.parametrize("where", ["accept", "refusal", "unasked", "goodbye"])
def test_all_that_a_websocket_says_is_judged(where: str) -> None:
    last = [""]

    class Talking(Notes):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "websocket":
                await super().__call__(scope, receive, send)
                return
            before, last[0] = last[0], dict(scope["headers"])[b"authorization"].decode()
            await receive()
            if where == "refusal":
                status = {"type": "websocket.http.response.start", "status": 403, "headers": []}
                await send(status)
                await send({"type": "websocket.http.response.body", "body": before.encode()})
                return
            headers = [(b"x-before", before.encode())] * (where == "accept")
            await send({"type": "websocket.accept", "headers": headers})
            await receive()
            await send({"type": "websocket.send", "text": "yours"})
            if where == "unasked":
                await send({"type": "websocket.send", "text": before})
            reason = before if where == "goodbye" else ""
            await send({"type": "websocket.close", "code": 1000, "reason": reason})

    async def login(self: Any, n: int, canary: str) -> dict[str, str]:
        return {"authorization": canary}

    def requests(self: Any, n: int, canary: str) -> Iterator[Request | WebSocket]:
        yield Request("POST", "/notes", body={"text": canary})
        yield WebSocket("/ws", ["hi"], expect=403 if where == "refusal" else None)

    report = _attack(Talking(), _scenario(login=login, requests=requests))
    assert {leak.where for leak in report.leaks} == {"websocket"}
    assert report.fault_count == 0


def test_big_bodies_whose_answers_are_cut_off_are_said() -> None:
    class Cutting(Notes):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if int(dict(scope.get("headers", ())).get(b"content-length", b"0")) > BIG:
                headers = [(b"content-length", b"10")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                return
            await super().__call__(scope, receive, send)

    report = _attack(Cutting(), requests=200)
    cut = report.done["big_body"]["cut"]
    assert cut > 0
    assert any(what.startswith(f"big_body: {cut} answers") for what in report.not_observed)


# --- what cannot run --------------------------------------------------------------------------


def test_a_scenario_that_can_find_nothing_is_an_error() -> None:
    silent = _scenario(requests=lambda self, n, canary: [Request("GET", "/notes")])
    with pytest.raises(ConfigurationError, match="never carry their own user's canary"):
        _attack(Notes(), silent)


def test_a_login_that_says_who_logs_in_is_no_answer_that_could_be_mixed_up() -> None:
    async def login(self: Any, n: int, canary: str, send: Any) -> dict[str, str]:
        await send(Request("GET", f"/login?{canary}"))
        return {}

    async def public(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["query_string"]})

    silent = _scenario(login=login, requests=lambda self, n, canary: [Request("GET", "/")])
    with pytest.raises(ConfigurationError, match="never carry their own user's canary"):
        _attack(public, silent)


def test_an_application_that_hangs_while_it_is_imported_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging_app.py").write_text(
        "print('wait', flush=True)\nimport time\ntime.sleep(60)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(server, "START", 2.0)
    with pytest.raises(ConfigurationError, match="did not start within 2 s") as caught:
        _attack("hanging_app:app")
    assert "wait" in caught.value.remedy


def test_a_login_that_fails_or_hangs_is_an_error() -> None:
    async def hang(self: Any, n: int) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(ConfigurationError, match=r"`login\(\d\)` raised ZeroDivisionError"):
        _attack(Notes(), _scenario(login=lambda self, n: 1 / 0))
    with pytest.raises(ConfigurationError, match=r"`login\(\d\)` took more than 0.2 s"):
        _attack(Notes(), _scenario(login=hang), timeout=0.2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"only": ["pipelining"]}, "There is no attack `pipelining`"),
        ({"servers": ["gunicorn"]}, "There is no server `gunicorn`"),
        ({"users": 1}, "1 users and 80 requests cannot be mixed up"),
        ({"requests": 0}, "4 users and 0 requests"),
        ({"connections": 0}, "Nothing can be asked over 0 connections"),
        ({"timeout": 0}, "within 0 s for an answer"),
        ({"grace": -1}, "-1 s of grace"),
        ({"time_limit": 0}, "0 s for each server"),
    ],
)
def test_what_is_asked_wrongly_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        _attack(Notes(), **changes)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_a_running_loop_it_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="cannot run in another"):
        _attack(Notes())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ringfence.testing.torture.run", raising=False)
    monkeypatch.delattr(kit, "run", raising=False)
    monkeypatch.setitem(sys.modules, "h11", None)
    for name in ("wire", "observer", "driver", "server"):
        monkeypatch.delitem(sys.modules, f"ringfence.testing.torture.{name}", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'ringfence\[torture\]'"):
        kit.torture  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        kit.nothing  # noqa: B018
