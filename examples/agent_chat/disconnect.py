"""Step (f) of the demo: clients that vanish in the middle of a stream."""

from __future__ import annotations

from sqlalchemy import Pool

from ringfence import counters

from . import screen
from .language_model import model
from .stage import Stage, left, left_soon, require
from .wire import Stream, request

LEAVING = {"bob-run-f1": 0, "bob-run-f2": 1, "bob-run-f3": 3}  # after so many words
WHOLE = "ann-run-f"


async def f_disconnect(stage: Stage, port: int, pool: Pool) -> None:
    screen.title("f", "clients that reset their sockets in the middle of a stream")
    before, gone, closed = left(pool), _gone(), model.closed
    anns = await _ask(stage, port, "ann", WHOLE, words=20)
    bobs = [await _ask(stage, port, "bob", run, words=180) for run in LEAVING]
    for stream, words in zip(bobs, LEAVING.values(), strict=True):
        for _ in range(words):
            await stream.event()
    under_way = left(pool).scopes - before.scopes
    talking = model.opened - model.closed
    require(under_way == 4, f"of 4 streams, {under_way} had a scope")
    require(talking >= 3, f"of 4 streams, {talking} talked to the model")
    screen.line(f"under way: {under_way} streams, connections to the model: {talking}")
    for stream in bobs:
        stream.reset()
    heard = [data async for event, data in anns if event == "token"]

    after = await left_soon(pool, before)
    gone = _gone() - gone
    require(after == before, f"something is left: {after}")
    require(gone == len(bobs), f"of {len(bobs)}, {gone} ended as client_disconnect")
    require(model.closed == model.opened, f"{model.opened - model.closed} models heard no goodbye")
    require(heard == ["You", "said:", *["ann-secret"] * 20], f"ann heard {heard}")
    answers = stage.rows("SELECT user_id, run_id FROM notes WHERE tool = 'answer'")
    require(answers == [("ann", WHOLE)], f"the answers that were kept are {answers}")
    screen.line(f"bob vanished from {len(bobs)}, after 0, 1 and 3 words  ->  no answer kept")
    screen.line(f"ann's, meanwhile                         ->  {len(heard)} words, 1 row")
    screen.good(f"client_disconnect {gone}, goodbyes to the model {model.closed - closed}; {after}")


async def _ask(stage: Stage, port: int, user: str, run: str, words: int) -> Stream:
    said = stage.said(user, run, words)
    return await Stream.open(port, request("POST", "/agent/stream", stage.tokens[user], said))


def _gone() -> int:
    return counters.value("request.client_disconnect")
