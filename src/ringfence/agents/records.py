"""Records of runs: what runs, and what became of what ran, within bounds."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import RingfenceError
from ..records import json_ready

if TYPE_CHECKING:
    from ..events import UserKey

__all__ = ["Recent", "RunRecord", "result_text"]

_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})


@attrs.frozen
class RunRecord:
    """
    One run of a registry, as it was when it was asked for; a value.

    Attributes:
        name: of the agent.
        request_id: of the run's own context: what `cancel` takes.
        parent_request_id: of the context that it was started in.
        depth: of its context.
        started: when, in UTC.
        state: `running`, `cancelling`, or how it ended: `completed`, `failed`, `cancelled`,
            `timed_out` or `closed` (its scope ended first).
        seconds: that it took; `None` while it runs.
        error: the code of the error that it failed with, or its type; never its text.
    """

    name: str
    request_id: str
    parent_request_id: str | None
    depth: int
    started: dt.datetime
    state: str
    seconds: float | None = None
    error: str | None = None
    _result: str | None = attrs.field(default=None, repr=False)

    @property
    def result(self) -> Any:
        """
        A plain copy of what it returned, without secrets, made anew at each call.

        `None` too if that was more than the registry keeps of a result.
        """
        return None if self._result is None else json.loads(self._result)

    def cancelling(self) -> RunRecord:
        """The same, of a run that is being cancelled."""
        return attrs.evolve(self, state="cancelling")

    def ended(
        self, state: str, seconds: float, error: BaseException | None, result: str | None
    ) -> RunRecord:
        """The same, of a run that has ended."""
        said = None
        if state == "failed" and error is not None:
            said = error.code if isinstance(error, RingfenceError) else type(error).__name__
        return attrs.evolve(self, state=state, seconds=seconds, error=said, result=result)


def result_text(result: object, max_bytes: int) -> str | None:
    """A result as it is kept, or `None` if it is too large."""
    if result is None or _is_surely_larger(result, max_bytes):
        return None
    text = json.dumps(json_ready(result))  # ASCII: as many bytes as characters
    return text if len(text) <= max_bytes else None


def _is_surely_larger(result: object, room: int) -> bool:
    """
    Whether it is too large, secrets included, found out without writing all of it.

    A user whose agent returns a great table would else hold up everybody, for a record that is
    not kept.
    """
    waiting: list[tuple[int, Iterator[Any]]] = [(0, iter((result,)))]
    path = {0}
    while waiting and room >= 0:
        key, values = waiting[-1]
        try:
            value = next(values)
        except StopIteration:
            waiting.pop()
            path.discard(key)
            continue
        except RuntimeError:  # another thread changes it
            return False
        room -= 1  # a value is a byte at least
        if isinstance(value, str):
            room -= str.__len__(value) + 1
        elif type(value) in _CONTAINERS and id(value) not in path:
            inside = chain.from_iterable(value.items()) if type(value) is dict else value
            waiting.append((id(value), iter(inside)))
            path.add(id(value))
    return room < 0


class _Kept:
    __slots__ = ("records", "used")

    def __init__(self, per_user: int) -> None:
        self.records: deque[RunRecord] = deque(maxlen=per_user)
        self.used = 0.0


class Recent:
    """
    What became of the last runs of each user. Lives as long as its registry.

    Args:
        per_user, in_all: how many are kept; beyond that, those users' go whose last run is the
            longest ago.
        idle_timeout: seconds after their last run after which a user's are dropped.
    """

    def __init__(self, per_user: int, in_all: int, idle_timeout: float) -> None:
        self._per_user = per_user
        self._in_all = in_all
        self._idle_timeout = idle_timeout
        self._count = 0
        self._users: OrderedDict[UserKey, _Kept] = OrderedDict()  # the longest ago first

    def add(self, user: UserKey, record: RunRecord) -> None:
        """Keep one, and drop what is beyond the bounds."""
        if not self._per_user:
            return
        kept = self._users.setdefault(user, _Kept(self._per_user))
        self._count += len(kept.records) < self._per_user
        kept.records.appendleft(record)
        kept.used = time.monotonic()
        self._users.move_to_end(user)
        self._drop_old()

    def of(self, user: UserKey) -> tuple[RunRecord, ...]:
        """One user's, the latest first."""
        self._drop_old()
        kept = self._users.get(user)
        return () if kept is None else tuple(kept.records)

    def _drop_old(self) -> None:
        oldest = time.monotonic() - self._idle_timeout
        while self._users:
            user, kept = next(iter(self._users.items()))
            if self._count <= self._in_all and kept.used >= oldest:
                return
            self._count -= len(kept.records)
            del self._users[user]
