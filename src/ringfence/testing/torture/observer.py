"""Runs in the server's process: hears what is logged, and counts what is left when all is over."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import attrs

from ... import state
from ...isolation import registry
from .canaries import Canaries, excerpt
from .wire import MARK

__all__ = ["Observer"]

MOST = 200  # findings that are kept; more are counted
_MARK = MARK.encode()


@attrs.frozen
class Asked:
    """Which request a task, callback or thread works for. A value."""

    user: int | None
    turn: str
    allowed: frozenset[int]
    """Whose canaries it may say: its user's, and those in its own address."""


_asked: ContextVar[Asked | None] = ContextVar("ringfence_torture_asked", default=None)


class Observer:
    """
    An ASGI application around the user's own. Lives as long as the server.

    It tells what it knows to who has the token: `begin` before the first request, `facts`
    as often as asked.
    """

    def __init__(self, app: Any, canaries: Canaries, token: str) -> None:
        self._app = app
        self._canaries = canaries
        self._token = token
        self._before: set[asyncio.Task[Any]] = set()
        self._heard: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._roots_before: set[Any] = set()
        self._registered_before = 0
        self._pools = _Pools()
        self._is_hearing = threading.local()
        self._restore: list[Callable[[], None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the application, and remember whose request it is."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        mark = _take_mark(scope)
        user, _, turn = mark.partition(" ")
        if user == "control":
            await self._control(turn, send)
            return
        token = _asked.set(self._asked_by(user, turn, scope))

        async def counted(message: Any) -> None:
            self._sample()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            if len(self._raised) < MOST:
                self._raised[f"{turn.partition(' ')[2]}: {_text_of_error(error)}"] += 1
            raise
        finally:
            _asked.reset(token)

    def _asked_by(self, user: str, turn: str, scope: Any) -> Asked:
        n = int(user) if user.isdigit() else None
        address = scope["path"].encode() + b"?" + scope["query_string"]
        own = set() if n is None else {n}
        return Asked(n, turn, frozenset(own | self._canaries.found(address)))

    # --- what is open -------------------------------------------------------------------------

    def _sample(self) -> None:
        for name, value in self._open().items():
            if value > self._most[name]:
                self._most[name] = value

    def _open(self) -> dict[str, int]:
        return {
            "scopes": len(state.roots.keys() - self._roots_before),
            "registered objects": max(0, len(registry) - self._registered_before),
            "connections": self._pools.checked_out,
        }

    def _tasks(self) -> dict[str, int]:
        """What runs besides what ran before the first request, by name."""
        others = asyncio.all_tasks() - self._before - {asyncio.current_task()}
        return dict(Counter(_name_of(task) for task in others))

    # --- what is heard ------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear every log record, and what is printed, until `stop`."""
        self._listen_to_logging()
        for name in ("stdout", "stderr"):
            plain = getattr(sys, name)
            setattr(sys, name, _Overheard(plain, self._hear_print))
            self._restore.append(lambda name=name, plain=plain: setattr(sys, name, plain))  # type: ignore[misc]

    def _listen_to_logging(self) -> None:
        """Hear each record once its handlers are done: filters and formatters say more."""
        heard, formatted = logging.Logger.callHandlers, logging.Handler.format
        here = self._is_hearing

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            outer = getattr(here, "now", None)
            lines: list[str] = []
            here.now = (record, lines)  # what its handlers print is the same once more
            try:
                heard(logger, record)
            finally:
                here.now = outer
                self._hear(" ".join([_text_of(record), *lines]), "log")

        def format_(handler: logging.Handler, record: logging.LogRecord) -> str:
            line = formatted(handler, record)
            now = getattr(here, "now", None)
            if now is not None and now[0] is record:  # a buffer gives others' away, too
                now[1].append(line)
            return line

        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]
        logging.Handler.format = format_  # type: ignore[method-assign, assignment]
        self._restore.append(lambda: setattr(logging.Logger, "callHandlers", heard))
        self._restore.append(lambda: setattr(logging.Handler, "format", formatted))

    def stop(self) -> None:
        """Leave logging, stdout, stderr and SQLAlchemy as they were."""
        for restore in reversed(self._restore):
            restore()
        self._pools.stop()

    def _hear_print(self, text: str) -> None:
        if getattr(self._is_hearing, "now", None) is None:
            self._hear(text, "output")

    def _hear(self, text: str, where: str) -> None:
        self._counts[where] += 1
        asked = _asked.get()
        if asked is None:  # of nobody's request: whose canaries it may say is not known
            return
        data = text.encode("utf-8", "replace")
        for owner, place in self._canaries.places(data).items():
            if owner in asked.allowed:
                self._counts["own"] += 1
                continue
            self._counts["foreign"] += 1
            if len(self._heard) < MOST:
                self._heard.append(
                    {
                        "where": where,
                        "whose": owner,
                        "seen_by": asked.user,
                        "turn": asked.turn,
                        "excerpt": excerpt(data, place),
                    }
                )

    # --- telling ------------------------------------------------------------------------------

    async def _control(self, said: str, send: Callable[[Any], Awaitable[None]]) -> None:
        token, _, wish = said.partition(" ")
        if token != self._token:
            await _respond(send, 404, {})
            return
        if wish == "begin":
            self._before = asyncio.all_tasks()
            self._roots_before = set(state.roots)
            self._registered_before = len(registry)
        self._pools.start()  # SQLAlchemy may have come with the first request
        await _respond(send, 200, self.facts())

    def facts(self) -> dict[str, Any]:
        """What is open now and was at most, which tasks run, what was heard and raised."""
        return {
            "open": self._open(),
            "most": dict(self._most),
            "tasks": self._tasks(),
            "heard": self._heard,
            "raised": dict(self._raised),
            "counts": dict(self._counts),
        }


class _Pools:
    """Which connections of SQLAlchemy's pools are checked out. Lives as long as the observer."""

    def __init__(self) -> None:
        self._out: dict[int, Any] = {}
        self._listeners: list[tuple[str, Callable[..., None]]] = []

    @property
    def checked_out(self) -> int:
        return len(self._out)

    def start(self) -> None:
        """Listen, once SQLAlchemy is imported; on all pools there are and will be."""
        if self._listeners or "sqlalchemy.pool" not in sys.modules:
            return
        from sqlalchemy import event
        from sqlalchemy.pool import Pool

        self._listeners = [
            ("checkout", lambda _, record, __: self._out.__setitem__(id(record), record)),
            ("checkin", lambda _, record: self._out.pop(id(record), None)),
            ("detach", lambda _, record: self._out.pop(id(record), None)),
        ]
        for name, listener in self._listeners:
            event.listen(Pool, name, listener)

    def stop(self) -> None:
        if self._listeners:
            from sqlalchemy import event
            from sqlalchemy.pool import Pool

            for name, listener in self._listeners:
                event.remove(Pool, name, listener)
            self._listeners = []


class _Overheard:
    """A stream that says all twice. Lives as long as the observer listens."""

    def __init__(self, plain: Any, hear: Callable[[str], None]) -> None:
        self._plain = plain
        self._hear = hear

    def write(self, text: str) -> Any:
        self._hear(text)
        return self._plain.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({})))


def _text_of(record: logging.LogRecord) -> str:
    """All that a record says: message, what `extra=` gave it, and the exception."""
    try:
        said = [record.getMessage()]
    except Exception:  # the application's own mistake, which logging itself reports
        said = [str(record.msg)]
    said += [str(value) for name, value in vars(record).items() if name not in _PLAIN_RECORD]
    if record.exc_info and record.exc_info[1] is not None:
        said.append(str(record.exc_info[1]))
    return " ".join(said)


def _text_of_error(error: BaseException) -> str:
    """The innermost of a group's first: it names the cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _take_mark(scope: Any) -> str:
    """The kit's own header, which the application does not see."""
    headers = list(scope["headers"])
    scope["headers"] = [(name, value) for name, value in headers if name != _MARK]
    return next((value.decode("latin-1") for name, value in headers if name == _MARK), "")


def _name_of(task: asyncio.Task[Any]) -> str:
    work = task.get_coro()
    return getattr(work, "__qualname__", None) or task.get_name()


async def _respond(send: Callable[[Any], Awaitable[None]], status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
