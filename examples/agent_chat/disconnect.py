"""Step (f) of the demo: clients that vanish in the middle of a stream."""

from __future__ import annotations

from ringfence import counters

from . import screen
from .language_model import model
from .serving import serve
from .stage import Stage, require
from .wire import Stream, request

LEAVING = {"bob-run-f1": 0, "bob-run-f2": 1, "bob-run-f3": 3}  # after so many words
WHOLE = "ann-run-f"


async def f_disconnect(stage: Stage) -> None:
    screen.title("f", "clients that reset their sockets in the middle of a stream")
    async with serve(stage.app("disconnect")) as port:
        await _vanish(stage, port)


async def _vanish(stage: Stage, port: int) -> None:
    gone, closed = _gone(), model.closed
    bobs = [await _ask_for(stage, port, run, words) for run, words in LEAVING.items()]
    anns = await _ask(stage, port, "ann", WHOLE, words=20)
    first = await anns.event()
    under_way, talking = stage.left(), model.opened - model.closed
    require(under_way.scopes >= 3, f"of 3 streams, {under_way.scopes} had a scope")
    require(talking >= 3, f"of 3 streams, {talking} talked to the model")
    require(under_way.registry >= 3, f"of 3 conversations, {under_way.registry} were registered")
    screen.line(f"under way: {under_way}")
    for stream in bobs:
        stream.reset()
    heard = [data async for event, data in anns if event == "token"]  # all but the first

    left = await stage.nothing_left()
    gone = _gone() - gone
    require(gone == len(bobs), f"of {len(bobs)}, {gone} ended as client_disconnect")
    require(model.closed == model.opened, f"{model.opened - model.closed} models heard no goodbye")
    require(first == ("token", "You"), f"the first that ann heard was {first}")
    require(heard == ["said:", *["ann-secret"] * 20], f"ann heard {heard}")
    answers = stage.rows("SELECT user_id, run_id FROM notes WHERE tool = 'answer'")
    require(answers == [("ann", WHOLE)], f"the answers that were kept are {answers}")
    screen.line(f"bob vanished from {len(bobs)}, after 0, 1 and 3 words  ->  no answer kept")
    screen.line(f"ann's, meanwhile                         ->  {len(heard) + 1} words, 1 row")
    screen.good(f"client_disconnect {gone}, goodbyes to the model {model.closed - closed}; {left}")


async def _ask(stage: Stage, port: int, user: str, run: str, words: int) -> Stream:
    said = stage.said(user, run, words)
    return await Stream.open(port, request("POST", "/agent/stream", stage.tokens[user], said))


async def _ask_for(stage: Stage, port: int, run: str, words: int) -> Stream:
    stream = await _ask(stage, port, "bob", run, words=180)
    for _ in range(words):
        await stream.event()
    if not words:
        stream.reset()  # at once, while the tools are at work
    return stream


def _gone() -> int:
    return counters.value("request.client_disconnect")
