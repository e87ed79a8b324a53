"""Which user asks what, and how: drawn from the seed, the same for the same seed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from random import Random

import attrs

from .canaries import Canaries
from .requests import Request, WebSocket
from .scenario import Scenario

__all__ = ["ATTACKS", "Step", "Turn"]

ATTACKS = {
    "keepalive": (6, "requests of several users, one after the other on one connection"),
    "pipelined": (5, "requests of several users on one connection, in one write"),
    "big_body": (2, "a body of more than 64 KiB, then other users on the same connection"),
    "slow": (1, "an answer that is read bit by bit"),
    "reset_response": (2, "the client resets the connection in the middle of the answer"),
    "reset_request": (1, "the client resets the connection in the middle of the request"),
    "timed_out": (2, "the client does not wait for the answer"),
    "websocket": (2, "a WebSocket on a connection that another user may have used"),
}
"""How requests are sent: of each its weight, and what it is."""

_NAMES = list(ATTACKS)
_WEIGHTS = [weight for weight, _ in ATTACKS.values()]
NOBODY = 0.4  # of the requests that come after somebody's: they would show whose context it was
_CREDENTIALS = ("authorization", "cookie")
_STEPS = {"keepalive": (1, 3), "pipelined": (2, 5), "big_body": (2, 3)}


@attrs.frozen
class Step:
    """One request of one user, or of nobody. A value."""

    user: int
    request: Request | WebSocket
    is_nobody: bool = False

    @classmethod
    def of(cls, user: int, request: Request | WebSocket, is_nobody: bool = False) -> Step:
        """A step; nobody has no credentials, wherever the scenario put them."""
        if not (is_nobody or request.as_nobody):
            return cls(user, request)
        headers = [pair for pair in request.headers if pair[0].lower() not in _CREDENTIALS]
        return cls(user, attrs.evolve(request, headers=headers), True)


@attrs.frozen
class Turn:
    """What one connection does next. A value."""

    lane: int
    number: int
    attack: str
    steps: tuple[Step, ...]
    random: Random = attrs.field(eq=False, repr=False)


@attrs.frozen
class Workload:
    """The plan of a run, drawn turn by turn. Lives as long as the run."""

    scenario: Scenario
    canaries: Canaries

    def turns(self, lane: int, quota: int, only: Collection[str] = ()) -> Iterator[Turn]:
        """
        The turns of one connection, until they have `quota` requests together.

        Args:
            only: give these attacks alone, out of the same plan: a replay does what was done.
        """
        number = planned = 0
        while planned < quota:
            turn = self._turn(lane, number)
            number, planned = number + 1, planned + len(turn.steps)
            if not only or turn.attack in only:
                yield turn

    def _turn(self, lane: int, number: int) -> Turn:
        random = Random(f"{self.canaries.seed}/{lane}/{number}")
        attack = random.choices(_NAMES, _WEIGHTS)[0]
        if attack == "websocket":
            steps = self._websocket(random)
        elif attack == "big_body":
            steps = self._big_body(random)
        else:
            low, high = _STEPS.get(attack, (1, 1))
            count = random.randint(low, high)
            steps = [self._step(random, NOBODY if index else 0.1) for index in range(count)]
        if steps is None:
            attack, steps = "keepalive", [self._step(random)]
        if isinstance(steps[0].request, WebSocket):  # the scenario has nothing else
            attack, steps = "websocket", steps[:1]
        return Turn(lane, number, attack, tuple(steps), random)

    def _round(self, random: Random) -> tuple[int, list[Request | WebSocket]]:
        user = random.randrange(self.canaries.users)
        return user, self.scenario.requests(user, self.canaries.of(user))

    def _step(self, random: Random, nobody: float = 0.1) -> Step:
        """A request over HTTP; of those that read, some are nobody's."""
        for _ in range(20):
            user, asked = self._round(random)
            http = [one for one in asked if isinstance(one, Request)]
            if http:
                request = random.choice(http)
                may_be_nobody = request.method == "GET" and self.scenario.asks_as_nobody
                is_nobody = random.random() < nobody and may_be_nobody
                return Step.of(user, request, is_nobody)
        user, asked = self._round(random)
        return Step.of(user, asked[0])

    def _big_body(self, random: Random) -> list[Step] | None:
        user, asked = self._round(random)
        bodies = [one for one in asked if isinstance(one, Request) and can_be_big(one)]
        if not bodies:
            return None
        request = random.choice(bodies)
        after = [self._step(random, NOBODY) for _ in range(random.randint(1, 2))]
        return [Step.of(user, request), *after]

    def _websocket(self, random: Random) -> list[Step] | None:
        user, asked = self._round(random)
        sockets = [one for one in asked if isinstance(one, WebSocket)]
        if not sockets:
            return None
        request = random.choice(sockets)
        before = [self._step(random)] * (random.random() < 0.5)
        return [*before, Step.of(user, request)]


BIG = 64 * 1024
"""Bytes; what uvicorn reads ahead of the application."""


def can_be_big(request: Request) -> bool:
    """Whether its body is big, or can be made so without changing what it says."""
    return request.is_json or len(request.content) > BIG
