"""The benchmarks run, find whoever does not do the work, and fail above a gate."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from ringfence import child_context, current_context, user_context
from ringfence.testing.valkey import ValkeyServer

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_quick_runs_everything_and_judges_nothing() -> None:
    done = run("--quick", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["name"]: row for row in result["rows"]}
    assert {"floor", "get", "three-ids", "generated-ids", "child", "reader"} < rows.keys()
    assert {"three-ids-crowd", "generated-ids-crowd", "reader-crowd", "copy", "own"} < rows.keys()
    assert any(name.startswith("events") for name in rows)
    # What the middlewares add is a difference, which noise can make negative in so few rounds.
    plain = [row for name, row in rows.items() if not name.startswith("asgi")]
    assert all(row["ns"] > 0 for row in plain)
    assert all(row["verdict"].startswith(("info", "skipped: ")) for row in rows.values()), rows
    assert [kind["name"] for kind in result["bytes"]] == [
        "floor",
        "root",
        "child",
        "request",
        "request-read",
    ]
    assert len(result["honesty"]) >= 9
    assert "round 1 of" in done.stderr


def test_what_is_asked_for_is_measured_with_what_it_is_divided_by() -> None:
    done = run("--quick", "reader-crowd")
    assert done.returncode == 0, done.stderr
    titles = [line.split("  ")[0] for line in done.stdout.splitlines()[1:5]]
    assert titles == [
        "the floor: class, ContextVar set and reset",
        "ContextVar.get",
        "current_context()",
        "current_context(), in a crowd",
    ]


def test_help_teaches_and_a_wrong_name_is_refused() -> None:
    told = run("--help").stdout
    assert all(word in told for word in ("three-ids", "exit status", "--quick", "ContextVar"))
    wrong = run("nonsense")
    assert wrong.returncode == 2
    assert "--help lists the names" in wrong.stderr


# --- it would notice --------------------------------------------------------------------------


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.__main__ import main

    return main


@pytest.fixture
def cases(main: object) -> dict[str, Any]:
    from benchmarks.cases import core_cases

    return {case.name: case for case in core_cases()}


def careless(user_id: str, **ids: Any) -> Any:
    return user_context(
        "usr_5f0c2a7be91d4c3a8b61", **dict.fromkeys(ids, "thr_0b9e4d71c2f84a6f9d35")
    )


def one_field_unchecked(user_id: str, *, thread_id: str, run_id: str) -> Any:
    return user_context(user_id, thread_id=thread_id, run_id="run_c81fe2a9065b47d3be70")


def unguarded(*arguments: Any, **options: Any) -> Any:
    return user_context(*arguments, in_generator=True, **options)


def unguarded_child(name: str) -> Any:
    return child_context(name, in_generator=True)


def same_ids(user_id: str) -> Any:
    return user_context(user_id, thread_id="t-1", run_id="r-1")


class Remembering:
    """A reader that answers from memory when it is refused."""

    last: Any = None

    def __call__(self) -> Any:
        try:
            self.last = current_context()
        except RuntimeError:
            return self.last
        return self.last


class Endless:
    """Children without a limit: each is a root."""

    def __init__(self, name: str) -> None:
        self.block = user_context("usr_5f0c2a7be91d4c3a8b61")

    async def __aenter__(self) -> Any:
        return await self.block.__aenter__()

    async def __aexit__(self, *details: Any) -> Any:
        return await self.block.__aexit__(*details)


LIES = [
    ("three-ids", "user_context", careless, "invalid ids are refused"),
    ("three-ids", "user_context", one_field_unchecked, "invalid ids are refused"),
    ("generated-ids", "user_context", careless, "invalid ids are refused"),
    ("generated-ids", "user_context", same_ids, "what was given is what is read"),
    ("child", "child_context", Endless, "children have a limit"),
    ("three-ids", "user_context", unguarded, "standing in an async generator is refused"),
    ("child", "child_context", unguarded_child, "standing in an async generator is refused"),
    ("reader", "read", Remembering(), "a captured handle is refused"),
    ("reader", "read", lambda: None, "without a scope the reader raises"),
    ("copy", "duplicate", copy.copy, "the copy shares nothing"),
]


@pytest.mark.parametrize(("name", "word", "lie", "claim"), LIES)
def test_a_lie_is_found_and_nothing_is_timed(
    main: Callable[..., int],
    cases: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    name: str,
    word: str,
    lie: object,
    claim: str,
) -> None:
    case = cases[name]
    cases[name] = attrs.evolve(case, names={**case.names, word: lie})
    assert main(["--quick"], list(cases.values())) == 2
    told = capsys.readouterr()
    assert any(line.startswith("NOT SO") and claim in line for line in told.err.splitlines())
    assert told.out == ""


@pytest.mark.parametrize(("gate", "status"), [(0.1, 1), (1000.0, 0)])
def test_a_ratio_above_its_gate_fails_the_run(
    main: Callable[..., int],
    cases: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    gate: float,
    status: int,
) -> None:
    cases["reader"] = attrs.evolve(cases["reader"], gate=gate)
    assert main(["--rounds", "3", "reader"], list(cases.values())) == status
    assert ("FAIL" in capsys.readouterr().out) is (status == 1)


# --- injection --------------------------------------------------------------------------------


@pytest.fixture
def injection(main: object) -> Callable[..., list[Any]]:
    """Its checks with a lie: the faults that are found."""
    from benchmarks.injection import injection_cases, injection_checks

    def faults(group: str, library: str, **lies: Any) -> list[str]:
        cases, _ = injection_cases([group])
        (case,) = [case for case in cases if case.name == f"{group}-{library}"]
        told = {word: lie(case.names[word]) for word, lie in lies.items()}
        case = attrs.evolve(case, names={**case.names, **told})
        return [check.claim for check in injection_checks([case]) if check.fault]

    return faults


class Kept:
    """A scope that answers with the first object that it gave to anybody."""

    first: Any = None

    def __init__(self, current: Callable[[], Any]) -> None:
        self.current = current

    def __call__(self) -> Kept:
        return self

    async def get(self, wanted: Any) -> Any:
        if self.first is None:
            self.first = await self.current().get(wanted)
        return self.first


class Making(Kept):
    """A scope that makes objects which nobody owns."""

    async def get(self, wanted: Any) -> Any:
        await self.current().get(wanted)
        return wanted(
            *[part() for part in vars(wanted)["__init__"].__annotations__.values() if part]
        )


def anybody(enter: Callable[..., Any]) -> Callable[..., Any]:
    return lambda user_id: enter("usr_5f0c2a7be91d4c3a8b61")


def remembered(handle: Callable[..., Any]) -> Callable[..., Any]:
    """An injected function that is given once what it is given."""
    known: list[Any] = []

    async def call() -> Any:
        if not known:
            known.append(await handle())
        return known[0]

    return call


def silent(app: Any) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"Wanted"'})

    return answer


INJECTION_LIES = [
    ("inject-one", "ringfence", {"current_scope": Kept}, "each scope's own"),
    ("inject-one", "ringfence", {"current_scope": Making}, "the request owns"),
    ("inject-one", "ringfence", {"user_context": anybody}, "invalid ids"),
    ("inject-generator", "ringfence", {"current_scope": Kept}, "every second half"),
    ("inject-call", "ringfence", {"handle": remembered}, "ended scopes"),
    (
        "inject-one",
        "dishka",
        {"wanted": lambda wanted: wanted.__init__.__annotations__["part0"]},
        "is whole",
    ),
    ("inject-route", "dishka", {"app": silent}, "the route answers"),
]


@pytest.mark.parametrize(("group", "library", "lies", "claim"), INJECTION_LIES)
def test_whoever_does_not_inject_is_found(
    injection: Callable[..., list[str]],
    group: str,
    library: str,
    lies: dict[str, Any],
    claim: str,
) -> None:
    assert injection(group, library) == []
    found = injection(group, library, **lies)
    assert any(claim in each for each in found), found


def test_a_goal_that_is_not_met_is_said_beside_the_gate(main: object) -> None:
    from benchmarks.report import Row, table

    rows = [
        Row(name="a", title="a", ratio=1.5, gate=2, goal=1, verdict="ok"),
        Row(name="b", title="b", ratio=0.5, gate=2, goal=1, verdict="ok"),
    ]
    _, far, near = table(rows).splitlines()
    assert far.endswith("ok, goal 1, not met")
    assert near.endswith("ok, goal 1")


# --- events -----------------------------------------------------------------------------------


def misdirected(ends: Any) -> Any:
    """What is for bob goes to ann."""
    return attrs.evolve(ends, send=lambda user, number: ends.send("ann", number))


def backwards(ends: Any) -> Any:
    """The numbers come, in another order."""
    numbers = iter([1, 0, 2, 3, 4])

    async def receive(user: str) -> Any:
        number = await ends.receive(user)
        return next(numbers) if user == "ann" else number

    return attrs.evolve(ends, receive=receive)


@pytest.mark.parametrize("lie", [None, misdirected, backwards])
def test_a_layer_that_does_not_deliver_is_found(
    main: object, valkey: ValkeyServer, lie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import events
    from benchmarks.layers import LAYERS, OURS

    title, opened = LAYERS[OURS]

    @contextlib.asynccontextmanager
    async def lying(url: str, prefix: str) -> AsyncIterator[Any]:
        async with opened(url, prefix) as ends:
            yield ends if lie is None else lie(ends)

    monkeypatch.setattr(events, "PATIENCE", 2)
    (check,) = events.event_checks(valkey, {OURS: (title, lying)})
    assert (check.fault is None) is (lie is None), check


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_that_was_not_sent_is_not_timed(main: object) -> None:
    from benchmarks.events import delivered
    from benchmarks.layers import Ends

    async def send(user: str, number: int) -> None:
        pass

    async def receive(user: str) -> int:
        await asyncio.sleep(0.001)
        return 5

    with pytest.raises(RuntimeError, match="0 was sent, and 5 was delivered"):
        await delivered(Ends(send, receive), 1)
