"""Two processes on one Valkey: an agent runs in the one, its user listens at the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.testing.valkey import ValkeyServer

pytest.importorskip("uvicorn")
redis = pytest.importorskip("redis")
client = pytest.importorskip("websockets.sync.client")

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PATIENCE = 20


class Process:
    """A server in a process of its own. Lives until it is killed."""

    def __init__(self, url: str, prefix: str) -> None:
        command = [sys.executable, "-m", "tests.integration.event_process", url, prefix]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, user: str, first: int, count: int) -> None:
        """An agent of this user, who emits so many events, besides its own."""
        with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=60)) as wire:
            path = f"/run?first={first}&count={count}"
            wire.request("POST", path, headers={"x-user": user})
            assert wire.getresponse().status == 200

    def connect(self, user: str, last: str | None = None) -> Any:
        query = "" if last is None else f"?last_event_id={last}"
        return client.connect(
            f"ws://{HOST}:{self.port}/socket{query}",
            additional_headers={"x-user": user},
            open_timeout=PATIENCE,
        )


@pytest.fixture
def pair(valkey: ValkeyServer) -> Iterator[tuple[Process, Process]]:
    prefix = f"test:{secrets.token_hex(4)}:"
    with contextlib.ExitStack() as stack:
        here = Process(valkey.url, prefix)
        stack.callback(here.kill)
        there = Process(valkey.url, prefix)
        stack.callback(there.kill)
        yield here, there


def heard(websocket: Any, count: int) -> list[dict[str, Any]]:
    """So many documents of what was emitted."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        document = json.loads(websocket.recv(PATIENCE))
        if document["kind"] not in ("ready", "heartbeat"):
            found.append(document)
    return found


def said(document: dict[str, Any]) -> Any:
    return document["data"].get("n", document["kind"])


def whole_run(first: int, count: int) -> list[Any]:
    numbers = range(first, first + count)
    return ["agent_started", "tool_executing", *numbers, "tool_completed", "agent_completed"]


def test_an_agent_in_one_process_is_heard_in_the_other(pair: tuple[Process, Process]) -> None:
    here, there = pair
    with there.connect("ann") as ann, there.connect("bob") as bob:
        assert {json.loads(each.recv(PATIENCE))["kind"] for each in (ann, bob)} == {"ready"}
        here.run("ann", 0, 20)
        here.run("bob", 1000, 3)
        assert [said(each) for each in heard(ann, 24)] == whole_run(0, 20)
        assert [said(each) for each in heard(bob, 7)] == whole_run(1000, 3)


def test_connections_for_bells_that_are_killed_lose_nothing(
    pair: tuple[Process, Process], valkey: ValkeyServer
) -> None:
    here, there = pair
    stop = threading.Event()
    killed = [0]

    def kill() -> None:
        with redis.Redis.from_url(valkey.url) as server:
            while not stop.wait(0.05):
                killed[0] += server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with there.connect("ann") as ann:
            ann.recv(PATIENCE)
            running = threading.Thread(target=here.run, args=("ann", 0, 1000))
            running.start()
            assert [said(each) for each in heard(ann, 1004)] == whole_run(0, 1000)
            running.join()
            while killed[0] < 2:
                time.sleep(0.05)
            here.run("ann", 1000, 3)
            assert [said(each) for each in heard(ann, 7)] == whole_run(1000, 3)
    finally:
        stop.set()
        killing.join()
    assert killed[0] >= 2


def test_who_was_connected_to_a_process_that_died_resumes_at_another(
    pair: tuple[Process, Process],
) -> None:
    here, there = pair
    with there.connect("ann") as ann:
        ann.recv(PATIENCE)
        here.run("ann", 0, 10)
        last = heard(ann, 14)[-1]["id"]
        there.kill()
        with pytest.raises(Exception, match=r"close|reset"):
            ann.recv(PATIENCE)
    here.run("ann", 10, 150)  # more than a page
    with here.connect("ann", last) as ann:
        assert [said(each) for each in heard(ann, 154)] == whole_run(10, 150)
        here.run("ann", 160, 1)
        assert [said(each) for each in heard(ann, 5)] == whole_run(160, 1)
    with here.connect("bob", last) as bob:  # of another user's log: a gap in one's own
        assert heard(bob, 1)[0]["data"] == {"reason": "epoch"}
