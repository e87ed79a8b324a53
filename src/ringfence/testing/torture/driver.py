"""Drives the server: many connections at once, each with requests of many users over it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, cast

import attrs

from ...errors import ConfigurationError
from .canaries import Watch
from .report import Fault, Leak, Report
from .requests import Answer, Headers, Request, WebSocket
from .scenario import Scenario
from .server import START, Server, not_started
from .wire import Connection, Cut, Head, Sent
from .workload import ATTACKS, BIG, Step, Turn, Workload

__all__ = ["Driver", "Limits"]

LOGIN, WARM_UP = "login", "warm_up"
IDLE = 3.0  # seconds after which a server may close a connection without a word
SLOW_READS = 200  # then the rest is read at once: a long answer is not a lost one
ROWS = 60  # seconds that reading them may take
UNANSWERED = 20  # requests without an answer: the rest would take for ever


@attrs.frozen
class Limits:
    """How much at once, and for how long. A value; seconds where there are units."""

    connections: int = 16
    answer: float = 10.0
    grace: float = 5.0
    total: float = 600.0


@attrs.define
class Exchange:
    """One request on its way. Lives until its answer is judged."""

    turn: Turn
    step: Step
    wire: Connection
    after: str
    watch: Watch
    _sent: Sent | None = None

    @property
    def sent(self) -> Sent:
        """As it goes over the wire; a WebSocket's handshake does not go this way."""
        return cast(Sent, self._sent)

    @property
    def name(self) -> str:
        return self.step.request.kind

    @property
    def where(self) -> str:
        return "websocket" if isinstance(self.step.request, WebSocket) else "response"


class Driver:
    """One run against one server. Lives as long as the server."""

    def __init__(
        self,
        name: str,
        server: Server,
        workload: Workload,
        report: Report,
        limits: Limits,
        progress: Callable[[int], None],
    ) -> None:
        self._name = name
        self._server = server
        self._workload = workload
        self._canaries = workload.canaries
        self._scenario: Scenario = workload.scenario
        self._report = report
        self._limits = limits
        self._progress = progress
        self._logins: dict[int, Headers] = {}
        self._opened = 0
        self._wires: list[Connection] = []
        self._unanswered = 0
        self._stopped = ""
        self._has_own = False  # whether an answer carried its own user's canary

    # --- the whole ----------------------------------------------------------------------------

    async def run(self, requests: int) -> None:
        """
        Log all in, let each do a round, attack, and wait until all is quiet.

        Raises:
            ConfigurationError: the application did not start, or the scenario cannot find
                anything.
        """
        await self._control("begin", START)
        try:
            async with asyncio.timeout(self._limits.total):
                await self._at_once(self._log_in)
                await self._at_once(self._warm_up)
                self._require_own_canaries()
                lanes = self._limits.connections
                quotas = [requests // lanes + (lane < requests % lanes) for lane in range(lanes)]
                await self._at_once(lambda lane: self._attack(lane, quotas[lane]))
        except TimeoutError:
            self._stop(f"not finished within {self._limits.total:g} s")
        finally:
            for wire in self._wires:
                wire.close()
        self._take_facts(await self._when_quiet())
        await self._judge_rows()

    async def _at_once(self, work: Callable[[int], Awaitable[None]]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in range(self._limits.connections):
                    tasks.create_task(_awaited(work(lane)))
        except* ConfigurationError as errors:
            raise errors.exceptions[0] from None

    def _users_of(self, lane: int) -> range:
        return range(lane, self._canaries.users, self._limits.connections)

    async def _log_in(self, lane: int) -> None:
        for n in self._users_of(lane):
            try:
                async with asyncio.timeout(self._limits.answer):
                    self._logins[n] = await self._scenario.login(
                        n, self._canaries.of(n), partial(self._send, n)
                    )
            except TimeoutError:
                raise ConfigurationError(
                    f"The scenario's `login({n})` took more than {self._limits.answer:g} s.",
                    "Mend it, or allow more: `--timeout`.",
                ) from None

    async def _send(self, n: int, request: Request) -> Answer:
        """What a scenario's login is given; its answers are judged too."""
        wire = await self._connect()
        exchange = self._begin(wire, self._turn_of(n, LOGIN, request), Step(n, request))
        pieces: list[bytes] = []

        def take(data: bytes) -> None:
            pieces.append(data)
            exchange.watch.feed(data)

        await wire.write(exchange.sent.data)
        try:
            head = await wire.answer(exchange.sent, take)
        finally:
            wire.close()
            self._judge(exchange)
        body = b"".join(pieces[1:])  # the first are the headers
        return Answer(head.status, {n.lower(): v for n, v in head.headers}, body)

    def _turn_of(self, n: int, attack: str, request: Request | WebSocket) -> Turn:
        """A turn that is not of the plan."""
        return Turn(n, -1, attack, (Step.of(n, request),), Random(n))

    async def _warm_up(self, lane: int) -> None:
        """Each user does one round, in order."""
        wire: Connection | None = None
        for n in self._users_of(lane):
            for request in self._scenario.requests(n, self._canaries.of(n)):
                wire = await self._turn(wire, self._turn_of(n, WARM_UP, request), self._one_by_one)
        if wire is not None:
            wire.close()

    async def _attack(self, lane: int, quota: int) -> None:
        wire: Connection | None = None
        for turn in self._workload.turns(lane, quota, self._report.only):
            wire = await self._turn(wire, turn, getattr(self, f"_{turn.attack}"))
            self._progress(len(turn.steps))
        if wire is not None:
            wire.close()

    def _require_own_canaries(self) -> None:
        if not self._has_own and not self._stopped:
            said = "; ".join(str(fault) for fault in self._report.faults[:3])
            raise ConfigurationError(
                "The scenario's responses never carry their own user's canary, so no other's "
                "can be found in them either.",
                "Put the canary into a user's data, and ask for that data."
                + (f" What went wrong: {said}" if said else ""),
            )

    # --- a turn -------------------------------------------------------------------------------

    async def _turn(
        self,
        wire: Connection | None,
        turn: Turn,
        do: Callable[[Connection, Turn], Awaitable[Connection | None]],
    ) -> Connection | None:
        """Do a turn; the connection, if it can be used again."""
        if self._stopped:
            return wire
        try:
            if wire is not None and time.monotonic() - wire.used > IDLE:
                wire.close()
                wire = None
            wire = wire or await self._connect()
            wire = await do(wire, turn)
        except OSError as error:
            if not self._server.is_alive:
                self._stop(
                    f"the server ended; its last words: {self._server.said()[-500:].strip()}"
                )
            else:
                self._fault(f"no connection ({error})", turn, turn.steps[0])
            return None
        if wire is not None:
            wire.used = time.monotonic()
        return wire

    async def _connect(self) -> Connection:
        self._opened += 1
        async with asyncio.timeout(self._limits.answer):
            wire = await Connection.open(self._server.port, self._opened)
        self._wires = [wire, *(other for other in self._wires if not other.is_closing)]
        return wire

    def _begin(self, wire: Connection, turn: Turn, step: Step, pad: int = 0) -> Exchange:
        who = "nobody" if step.is_nobody else f"user {step.user}"
        after = f"{wire.past[-1][0]}" if wire.past else ""
        wire.past.append((f"{who}'s {step.request.kind}", turn.attack))
        del wire.past[:-20]
        self._report.did(turn.attack, "requests")
        self._report.kinds[step.request.kind] += 1
        sent = None
        if isinstance(step.request, Request):
            sent = Sent(step.request, self._headers(step), self._mark(turn, step), pad)
        return Exchange(turn, step, wire, after, Watch(self._canaries), sent)

    def _mark(self, turn: Turn, step: Step) -> str:
        who = "-" if step.is_nobody else step.user
        kind = " ".join(step.request.kind.split())
        return f"{who} {turn.attack} {kind}".encode("ascii", "replace").decode()

    def _headers(self, step: Step) -> Headers:
        return () if step.is_nobody else self._logins.get(step.user, ())

    async def _one_by_one(self, wire: Connection, turn: Turn) -> Connection | None:
        open_wire: Connection | None = wire
        for step in turn.steps:
            if open_wire is None:
                open_wire = await self._connect()
            open_wire = await self._ask(open_wire, turn, step)
        return open_wire

    _keepalive = _one_by_one

    async def _ask(
        self, wire: Connection, turn: Turn, step: Step, pad: int = 0, **reading: Any
    ) -> Connection | None:
        """One request and its answer; the connection, if it can be used again."""
        exchange = self._begin(wire, turn, step, pad)
        if isinstance(step.request, WebSocket):
            await self._converse(exchange)
            return None
        await self._within(wire.write(exchange.sent.data))
        head = await self._answer(exchange, may_be_cut=bool(pad), **reading)
        return self._kept(wire, head)

    def _kept(self, wire: Connection, head: Head | None) -> Connection | None:
        if head is not None and not head.is_last:
            return wire
        wire.close()
        return None

    async def _answer(
        self, exchange: Exchange, may_be_cut: bool = False, **reading: Any
    ) -> Head | None:
        """Read and judge an answer; `None` if it did not come."""
        head = None
        try:
            async with asyncio.timeout(self._limits.answer):
                head = await exchange.wire.answer(exchange.sent, exchange.watch.feed, **reading)
        except TimeoutError:
            self._no_answer(exchange)
        except Cut:
            if not may_be_cut:
                self._fault("no answer, the connection was cut", *_of(exchange))
            self._report.did(exchange.turn.attack, "cut")
        self._judge(exchange)
        if head is not None:
            self._judge_status(exchange, head.status)
        return head

    async def _within(self, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._limits.answer):
                await work
        except TimeoutError:
            pass  # the answer will not come either

    # --- the attacks --------------------------------------------------------------------------

    async def _pipelined(self, wire: Connection, turn: Turn) -> Connection | None:
        exchanges = [self._begin(wire, turn, step) for step in turn.steps]
        data = b"".join(exchange.sent.data for exchange in exchanges)
        await self._within(wire.write(data))
        head: Head | None = None
        for exchange in exchanges:
            if head is not None and head.is_last:
                self._report.did(turn.attack, "cut")  # as the server said that it would
                continue
            head = await self._answer(exchange)
            if head is None:
                break
        return self._kept(wire, head)

    async def _big_body(self, wire: Connection, turn: Turn) -> Connection | None:
        big, *others = turn.steps
        pad = max(0, BIG + 1 + turn.random.randrange(BIG) - len(cast(Request, big.request).content))
        kept = await self._ask(wire, turn, big, pad)
        if kept is None:
            kept = await self._connect()
        return await self._one_by_one(kept, attrs.evolve(turn, steps=tuple(others)))

    async def _slow(self, wire: Connection, turn: Turn) -> Connection | None:
        piece, reads = turn.random.choice((1, 16, 64, 256)), 0

        async def pace() -> int:
            nonlocal reads
            reads += 1
            if reads > SLOW_READS:
                return BIG
            await asyncio.sleep(turn.random.random() * 0.004)
            return piece

        return await self._ask(wire, turn, turn.steps[0], pace=pace)

    async def _reset_response(self, wire: Connection, turn: Turn) -> None:
        exchange = self._begin(wire, turn, turn.steps[0])
        enough = turn.random.randint(1, 4)
        pieces = 0

        def take(data: bytes) -> None:
            nonlocal pieces
            pieces += 1
            exchange.watch.feed(data)

        await self._within(wire.write(exchange.sent.data))
        try:
            async with asyncio.timeout(self._limits.answer):
                await wire.answer(
                    exchange.sent, take, pace=_bit_by_bit, is_enough=lambda: pieces >= enough
                )
        except TimeoutError:
            self._no_answer(exchange)
        except Cut:
            pass
        wire.reset()
        self._report.did(turn.attack, "disconnects")
        self._judge(exchange)

    async def _reset_request(self, wire: Connection, turn: Turn) -> None:
        exchange = self._begin(wire, turn, turn.steps[0])
        data = exchange.sent.data
        await self._within(wire.write(data[: turn.random.randint(1, len(data) - 1)]))
        await asyncio.sleep(turn.random.random() * 0.005)
        wire.reset()
        self._report.did(turn.attack, "disconnects")

    async def _timed_out(self, wire: Connection, turn: Turn) -> None:
        exchange = self._begin(wire, turn, turn.steps[0])
        await self._within(wire.write(exchange.sent.data))
        try:
            async with asyncio.timeout(turn.random.random() * 0.05):
                await wire.answer(exchange.sent, exchange.watch.feed)
        except (TimeoutError, Cut):
            pass
        wire.close() if turn.random.random() < 0.5 else wire.reset()
        self._report.did(turn.attack, "disconnects")
        self._judge(exchange)

    async def _websocket(self, wire: Connection, turn: Turn) -> None:
        *before, last = turn.steps
        kept: Connection | None = wire
        if before:
            kept = await self._one_by_one(wire, attrs.evolve(turn, steps=tuple(before)))
        exchange = self._begin(kept or await self._connect(), turn, last)
        leaves = turn.random.random() < 0.3
        await self._converse(exchange, turn.random.random() * 0.1 if leaves else None)

    async def _converse(self, exchange: Exchange, patience: float | None = None) -> None:
        """A WebSocket to its end, or until the client's patience is over."""
        asked = cast(WebSocket, exchange.step.request)
        status = 0
        limit = self._limits.answer * (1 + len(asked.messages)) if patience is None else patience
        mark = self._mark(exchange.turn, exchange.step)
        try:
            async with asyncio.timeout(limit):
                status = await exchange.wire.talk(
                    asked, self._headers(exchange.step), mark, exchange.watch
                )
        except TimeoutError:
            if patience is None:
                self._no_answer(exchange)
        except Cut:
            self._fault("the WebSocket was cut", *_of(exchange))
        if patience is None:
            exchange.wire.close()
        else:
            exchange.wire.reset()
            self._report.did(exchange.turn.attack, "disconnects")
        self._judge(exchange)
        if status:
            self._judge_status(exchange, status)

    # --- judging ------------------------------------------------------------------------------

    def _judge(self, exchange: Exchange) -> None:
        step, report = exchange.step, self._report
        for owner, said in exchange.watch.excerpts.items():
            if owner == step.user and not step.is_nobody:
                report.did(exchange.turn.attack, "own canaries")
                self._has_own |= exchange.turn.attack != LOGIN
            elif owner not in self._in_request(step):
                report.did(exchange.turn.attack, "leaks")
                report.add_leak(
                    Leak(
                        where=exchange.where,
                        whose=owner,
                        seen_by=None if step.is_nobody else step.user,
                        request=exchange.name,
                        attack=exchange.turn.attack,
                        server=self._name,
                        connection=exchange.wire.number,
                        after=exchange.after,
                        excerpt=said,
                        replay=self._replay(exchange.wire),
                    )
                )

    def _in_request(self, step: Step) -> set[int]:
        """Whose canaries the request itself contains: an application may say them back."""
        request = step.request
        said = [request.path.encode(), *(value.encode() for _, value in request.headers)]
        if isinstance(request, Request):
            said.append(request.content)
        else:
            said += [m if isinstance(m, bytes) else m.encode() for m in request.messages]
        return self._canaries.found(b"\n".join(said))

    def _replay(self, wire: Connection) -> str:
        attacks = {attack for _, attack in wire.past} & set(ATTACKS)
        return self._report.replay(self._name, attacks or {"keepalive"})

    def _judge_status(self, exchange: Exchange, status: int) -> None:
        step, turn = exchange.step, exchange.turn
        self._report.did(turn.attack, "answers")
        was_too_big = turn.attack == "big_body" and status == 413
        may_refuse = step.is_nobody and not step.request.as_nobody and 400 <= status < 500
        if was_too_big or may_refuse:
            self._report.did(turn.attack, "refused")
        elif not step.request.is_right(status):
            self._fault(f"unexpected {status}", *_of(exchange))
        elif (
            step.request.echoes and not step.is_nobody and step.user not in exchange.watch.excerpts
        ):
            self._fault("the answer lacks its own user's canary", *_of(exchange))

    def _no_answer(self, exchange: Exchange) -> None:
        self._fault(f"no answer within {self._limits.answer:g} s", *_of(exchange))
        self._unanswered += 1
        if self._unanswered >= UNANSWERED:
            self._stop(f"stopped after {UNANSWERED} requests without an answer")

    def _fault(self, what: str, turn: Turn, step: Step, wire: Connection | None = None) -> None:
        self._report.did(turn.attack, "faults")
        replay = self._report.replay(self._name) if wire is None else self._replay(wire)
        self._report.add_fault(Fault(what, step.request.kind, self._name, replay))

    def _stop(self, why: str) -> None:
        if not self._stopped:
            self._stopped = why
            self._report.add_fault(Fault(why, "", self._name, self._report.replay(self._name)))

    # --- what the observer knows --------------------------------------------------------------

    async def _control(self, wish: str, seconds: float) -> dict[str, Any]:
        body = bytearray()
        sent = Sent(Request("GET", "/"), (), f"control {self._server.token} {wish}")
        try:
            async with asyncio.timeout(seconds):
                wire = await Connection.open(self._server.port, 0)
                await wire.write(sent.data)
                await wire.answer(sent, body.extend)
                wire.close()
        except (TimeoutError, OSError, Cut):
            if wish == "begin":
                raise not_started(self._server) from None
            return {}
        facts: dict[str, Any] = json.loads(body[body.index(b"{") :])
        return facts

    async def _when_quiet(self) -> dict[str, Any]:
        """The facts when nothing is open any more, or the grace is over."""
        end = time.monotonic() + self._limits.grace
        while True:
            facts = await self._control("facts", self._limits.answer)
            is_quiet = facts and not any(facts["open"].values()) and not facts["tasks"]
            if not facts or is_quiet or time.monotonic() > end:
                return facts
            await asyncio.sleep(0.1)

    def _take_facts(self, facts: dict[str, Any]) -> None:
        if not facts:
            self._stop("the server did not say what was left open: it hangs, or has ended")
            return
        report = self._report
        for what, count in facts["open"].items():
            if count:
                report.left.append(f"{count} {what} ({self._name})")
        for name, count in facts["tasks"].items():
            report.left.append(f"{count} tasks still running: {name} ({self._name})")
        for heard in facts["heard"]:
            attack, _, request = heard.pop("turn").partition(" ")
            only = {attack} & set(ATTACKS)
            report.add_leak(
                Leak(
                    **heard, request=request, attack=attack, server=self._name, connection=None,
                    after="", replay=report.replay(self._name, only),
                )
            )  # fmt: skip
        report.leak_count += facts["counts"].get("foreign", 0) - len(facts["heard"])
        report.raised.update(facts["raised"])
        self._say_what_was_observed(facts)

    def _say_what_was_observed(self, facts: dict[str, Any]) -> None:
        most, counts, name = facts["most"], facts["counts"], self._name
        for what, why in _OPEN.items():
            if most.get(what):
                self._report.observed.append(f"{what}: at most {most[what]} at once ({name})")
            else:
                self._report.not_observed.append(f"{what}: {why} ({name})")
        heard = counts.get("log", 0) + counts.get("output", 0)
        if heard:
            self._report.observed.append(
                f"log records and printed lines: {heard:,}, with {counts.get('own', 0):,} "
                f"canaries of their own user ({name})"
            )
        else:
            self._report.not_observed.append(f"log records: none was written ({name})")

    async def _judge_rows(self) -> None:
        if not self._scenario.has_rows:
            return
        try:
            async with asyncio.timeout(ROWS):
                rows = await self._scenario.rows()
        except TimeoutError:
            raise ConfigurationError(
                f"The scenario's `rows()` took more than {ROWS} s.", "Read fewer."
            ) from None
        own = 0
        for owner, text in rows:
            for whose, place in self._canaries.places(text).items():
                own += whose == owner
                if whose != owner:
                    around = text[max(0, place - 40) : place + 60]
                    self._report.add_leak(
                        Leak("row", whose, owner, "", "", self._name, None, "", around,
                             self._report.replay(self._name))
                    )  # fmt: skip
        read = f"rows: {len(rows):,} read, with {own:,} canaries of their own user ({self._name})"
        (self._report.observed if own else self._report.not_observed).append(read)


_OPEN = {
    "scopes": "the application opened no ringfence scope",
    "registered objects": "no object was registered with ringfence",
    "connections": "no connection of an SQLAlchemy pool was checked out",
}


def _of(exchange: Exchange) -> tuple[Turn, Step, Connection]:
    return exchange.turn, exchange.step, exchange.wire


async def _bit_by_bit() -> int:
    return 256


async def _awaited(work: Awaitable[None]) -> None:
    await work
