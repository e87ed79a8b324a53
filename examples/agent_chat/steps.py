"""Steps (a) to (e) of the demo: two users, and five ways to mix them up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from ringfence import counters

from . import screen
from .mistakes import Mistakes
from .stage import PATIENCE, USERS, Stage, require
from .wire import Answer, exchange, request

REQUESTS_EACH = 4


class Steps:
    def __init__(self, stage: Stage) -> None:
        self.tokens = stage.tokens
        self.rows = stage.rows
        self.mistakes = Mistakes()
        self.server_leaks = False  # whether this uvicorn does what step (a) is about

    async def a_naive(self, port: int) -> None:
        version = uvicorn.__version__
        screen.title("a", f"the middleware that everybody writes, on uvicorn {version} as it is")
        (alone,) = await exchange(port, request("GET", "/notes"))
        require(alone.status == 401, f"sent alone, the anonymous request got {alone.status}")
        first, second = await self._pipelined(port)
        screen.line("one connection, two requests in one write; only the first has a token")
        screen.line(f"GET /notes  ann's token  ->  {first.status} {first.body}")
        screen.line(f"GET /notes  no token     ->  {second.status} {second.body}")
        require(first.body == {"user": "ann"}, "ann herself was not answered as ann")
        self.server_leaks = second.body == {"user": "ann"}
        if self.server_leaks:
            screen.leak("nobody was answered as ann (sent alone, the same request gets its 401)")
        else:
            require(second.status == 401, f"the anonymous request got {second.status}")
            screen.good("this uvicorn has mended its default: there is no leak to show")

    async def b_fenced(self, port: int) -> None:
        screen.title("b", "the same two requests behind ringfence")
        before = _inherited()
        first, second = await self._pipelined(port)
        faults = _inherited() - before
        kind = second.headers["content-type"]
        screen.line(f"GET /notes  ann's token  ->  {first.status} {first.body}")
        screen.line(f"GET /notes  no token     ->  {second.status} {kind}")
        require(first.status == 200, f"ann's request got {first.status}")
        require(second.status == 401, f"the anonymous request got {second.status}, not 401")
        require(kind == "application/problem+json", f"the 401 came as {kind}")
        require(faults > 0 or not self.server_leaks, "the server's fault was not counted")
        screen.good(f"refused; requests begun in the context of another, counted: {faults}")

    async def c_two_users(self, port: int) -> None:
        screen.title("c", f"ann and bob at once: {REQUESTS_EACH} requests each, of 3 tools each")
        whose = {f"{user}-run-{n}": user for n in range(1, REQUESTS_EACH + 1) for user in USERS}
        began = time.perf_counter()
        answers = await asyncio.gather(*(self._chat(port, run, whose[run]) for run in whose))
        took = time.perf_counter() - began

        whose_operation: dict[str, str] = {}  # by request id
        for (run, user), answer in zip(whose.items(), answers, strict=True):
            _check_answer(answer, run, user)
            for node in _nodes(answer.body["operations"]):
                require(node["request_id"] not in whose_operation, "one request id, used twice")
                whose_operation[node["request_id"]] = user
        for user, answer in zip(USERS, answers, strict=False):
            screen.line(f"{user}'s first request:")
            for node in _nodes(answer.body["operations"]):
                name = "  " * node["depth"] + node["operation"]
                screen.line(f"  {name:<18} depth {node['depth']}  {node['request_id']}")

        rows = self.rows("SELECT user_id, run_id, request_id, text FROM notes")
        require(len(rows) == 3 * len(whose), f"there are {len(rows)} notes in the database")
        for user, run, request_id, text in rows:
            require(whose[run] == user, f"a note of {run} was kept as {user}'s")
            require(whose_operation[request_id] == user, f"another's tool wrote {user}'s note")
            mixed = [other for other in USERS if other != user and f"{other}-secret" in text]
            require(not mixed, f"a note of {user}'s holds what {mixed} said")
        for user in USERS:
            (own,) = await exchange(port, request("GET", "/notes", self.tokens[user]))
            owners = {whose[note["run_id"]] for note in own.body}
            require(owners == {user}, f"GET /notes gave {user} the notes of {sorted(owners)}")
            require(len(own.body) == 3 * REQUESTS_EACH, f"{user} was given {len(own.body)} notes")
        screen.good(f"{len(rows)} notes in {took:.2f} s, every one its own user's; nothing mixed")

    async def d_captured_session(self, port: int) -> None:
        screen.title("d", "an agent made once per process keeps ann's session; then bob asks it")
        path = "/mistakes/agent"
        ann = asyncio.create_task(exchange(port, request("GET", path, self.tokens["ann"])))
        await asyncio.wait_for(self.mistakes.is_kept.wait(), PATIENCE)
        (bobs,) = await exchange(port, request("GET", path, self.tokens["bob"]))
        (anns,) = await ann
        require(anns.status == 200, f"ann's own use of it got {anns.status}")
        require(bobs.status != 200, f"bob got 200 and ann's notes: {bobs.body}")
        require(bobs.body["error"] == "SessionIsolationError", f"bob got {bobs.body}")
        message = bobs.body["message"]
        for user, answer in (("ann", anns), ("bob", bobs)):
            named = answer.headers["x-request-id"] in message
            require(named, f"the message does not name {user}'s request: {message}")
        require("opened at" in message, f"the message does not say where it was opened: {message}")
        screen.line("SessionIsolationError:")
        screen.paragraph(message)
        screen.good("refused, and ann's own request went on undisturbed")

    async def e_late_work(self, port: int) -> None:
        screen.title("e", "work that outlives its request: a plain task, and fence.detach")
        for path in ("/mistakes/task", "/mistakes/detach"):
            (answer,) = await exchange(port, request("POST", path, self.tokens["ann"]))
            require(answer.status == 202, f"POST {path} got {answer.status}")
        ended = asyncio.gather(*self.mistakes.late_work, return_exceptions=True)
        task, detached = await asyncio.wait_for(ended, PATIENCE)
        rows = self.rows("SELECT tool, user_id FROM notes WHERE text = 'written late'")
        kind = type(task).__name__
        require(kind == "ContextClosedError", f"the plain task ended with {kind}, rows {rows}")
        require(detached is None, f"the detached work ended with {detached!r}")
        require(rows == [("detach", "ann")], f"the rows are {rows}")
        screen.line(f"create_task(...)   ->  {kind}, no row")
        screen.line("fence.detach(...)  ->  done, 1 row, ann's")
        screen.good("the one is refused; the other has a scope and a session of its own")

    # --- what they share ----------------------------------------------------------------------

    async def _pipelined(self, port: int) -> list[Answer]:
        """Two requests in one write, as some proxies send them. Only the first has a token."""
        anns = request("GET", "/notes", self.tokens["ann"])
        return await exchange(port, anns, request("GET", "/notes"))

    async def _chat(self, port: int, run: str, user: str) -> Answer:
        body = {"message": f"{user}-secret of {run}", "thread_id": f"{user}-chat", "run_id": run}
        (answer,) = await exchange(port, request("POST", "/agent/chat", self.tokens[user], body))
        return answer


def _check_answer(answer: Answer, run: str, user: str) -> None:
    body = answer.body
    require(answer.status == 200, f"{run} got {answer.status}: {body}")
    facts = (body["user_id"], body["thread_id"], body["run_id"])
    require(facts == (user, f"{user}-chat", run), f"{run} was answered as {facts}")
    root = body["operations"]
    require(root["request_id"] == answer.headers["x-request-id"], "the tree is another request's")
    depths = [node["depth"] for node in _nodes(root)]
    require(depths == [0, 1, 2, 2, 2, 3], f"the tree of {run} has the depths {depths}")
    require(len(body["notes"]) == 3, f"{run} was answered with {len(body['notes'])} notes")


def _nodes(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield operation
    for child in operation["children"]:
        yield from _nodes(child)


def _inherited() -> int:
    return counters.value("inherited_scope.open") + counters.value("inherited_scope.closed")
