"""`started`: a block whose beginning and end are events, one of each, on every ending."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from .. import counters
from ..current import current_scope
from ..errors import ConfigurationError, EventLogError, RingfenceError
from ..tasks import Job, is_cancellation
from .verbs import emit

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["Started", "started", "untold"]

logger = logging.getLogger("ringfence.events")

_KINDS = {
    # what: how it begins, how it ends well, how it ends otherwise
    "agent": ("agent_started", "agent_completed", "agent_failed"),
    "tool": ("tool_executing", "tool_completed", "tool_completed"),
}


def started(what: Literal["agent", "tool"], name: str, **data: Any) -> Started:
    """
    A block that emits that an agent or a tool has started, and, once, how it ended.

    The end comes on every ending: success, an error, cancellation, a time-out, and the end of
    the scope while the block still runs. Its data say `name`, `outcome` (`completed`, `failed`,
    `cancelled`, `timed_out` or `closed`), `seconds`, the `start_id`, and of an error its code or
    its type, never its text.

    What runs is not stopped by what tells of it. Where the log is away it goes on untold, which is
    logged and counted as `events.untold`. What the application itself cannot say, such as data that
    are not JSON, is raised::

        async with started("agent", "triage") as run:
            run.data["tokens"] = 1200

    Args:
        what: `agent` or `tool`.
        name: of it, as users see it.
        data: what the first event says besides.

    Raises:
        ConfigurationError: neither an agent nor a tool; or, on entering, the fence has no hub.
        NoContextError, ContextClosedError: on entering, nobody is current here.
    """
    if what not in _KINDS:
        raise ConfigurationError(
            f"What has started is an agent or a tool, not {what!r}.", "Emit events of your own."
        )
    return Started(what, name, data)


class Started:
    """
    What runs between two events. Lives from entering its block to the end that is told.

    Attributes:
        data: what the last event says besides; yours to fill.
    """

    def __init__(self, what: str, name: str, data: dict[str, Any]) -> None:
        self._kinds = _KINDS[what]
        self._first = {**data, "name": name}
        self.data: dict[str, Any] = {}
        self._start_id = ""
        self._began = 0.0
        self._is_over = True  # until it has begun, as far as clients may know
        self._is_told = anyio.Event()  # that it has, or that this failed
        self._lock = anyio.Lock()  # two may want to tell the end: the block and its scope
        self._scope: RequestScope | None = None
        self._forget: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise ConfigurationError("This block was entered already.", "Call `started` again.")
        scope = self._scope = current_scope()
        self._began = time.monotonic()
        self._forget = scope.callback(self._end, "closed", None, scope)

        async def begin() -> None:
            try:
                self._start_id = await _emit(self._kinds[0], self._first, scope)
                self._is_over = False
            except EventLogError as error:
                self._is_over = not error.may_be_stored  # what may have begun has to end
                untold(self._kinds[0], error)
            finally:
                self._is_told.set()

        error, cancelled = await _uncancelled(begin, scope)
        if cancelled is not None and not self._is_over:
            await self.__aexit__(type(cancelled), cancelled, None)
        if self._is_over:
            self._forget()
        if cancelled is not None or error is not None:
            raise cancelled or error or RuntimeError
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scope
        if self._is_over or scope is None:
            return
        outcome = _outcome(exc, scope)

        async def end() -> None:
            await self._end(outcome, exc, scope)

        if isinstance(exc, GeneratorExit):  # a coroutine that is being destroyed cannot wait
            _leave_behind(end, scope)
            return
        error, cancelled = await _uncancelled(end, scope)
        if self._forget is not None:
            self._forget()  # not before: the scope waits for an end that is being told
        if error is not None and exc is not None:
            exc.add_note(f"ringfence: the end of `{self._first['name']}` was not told: {error!r}")
        elif error is not None and cancelled is None:
            raise error
        if cancelled is not None:
            raise cancelled

    async def _end(self, outcome: str, exc: BaseException | None, scope: RequestScope) -> None:
        await self._is_told.wait()  # the scope may end while the beginning is being told
        async with self._lock:
            if not self._is_over:
                self._is_over = True
                await self._tell(outcome, exc, scope)

    async def _tell(self, outcome: str, exc: BaseException | None, scope: RequestScope) -> None:
        facts: dict[str, Any] = {
            "name": self._first["name"],
            "outcome": outcome,
            "seconds": round(time.monotonic() - self._began, 6),
            "start_id": self._start_id,
        }
        if outcome == "failed" and exc is not None:
            facts["error"] = exc.code if isinstance(exc, RingfenceError) else type(exc).__name__
        kind = self._kinds[1 if outcome == "completed" else 2]
        try:
            await _emit(kind, {**self.data, **facts}, scope)
        except EventLogError as error:
            untold(kind, error)
        except RingfenceError:  # what the application has to say cannot be said
            await _emit(kind, facts, scope)
            raise


async def _emit(kind: str, data: dict[str, Any], scope: RequestScope) -> str:
    """`emit`, in less time than the scope gives its finalisers, of which this may be one."""
    with anyio.move_on_after(0.9 * scope.settings.finaliser_timeout):
        return await emit(kind, data)
    raise EventLogError(
        "The log of events did not answer in time; it may have stored the event.",
        "See that it runs, and is near.",
        may_be_stored=True,
    )


def untold(kind: str, error: EventLogError) -> None:
    """Make known that an event was not told: what it tells of goes on, and nobody is raised at."""
    counters.count("events.untold")
    logger.warning(
        "Request `%s` goes on, but that is not told (`%s`): %s",
        current_scope().request_id, kind, error,
    )  # fmt: skip


def _outcome(exc: BaseException | None, scope: RequestScope) -> str:
    if exc is None:
        return "completed"
    if isinstance(exc, TimeoutError):
        return "timed_out"
    if is_cancellation(exc) or isinstance(exc, GeneratorExit):
        deadline = scope.deadline
        is_late = deadline is not None and anyio.current_time() >= deadline
        return "timed_out" if is_late else "cancelled"
    return "failed"


async def _uncancelled(
    work: Callable[[], Coroutine[Any, Any, None]], scope: RequestScope
) -> tuple[BaseException | None, BaseException | None]:
    """Do `work` whatever cancels this task meanwhile; its error, and the last cancellation."""
    job = Job(work, "ringfence event", scope._own_context())
    return await job.wait(scope.settings.finaliser_timeout)


def _leave_behind(work: Callable[[], Coroutine[Any, Any, None]], scope: RequestScope) -> None:
    try:
        Job(work, "ringfence event", scope._own_context())
    except RuntimeError:  # no event loop is left
        counters.count("events.lost")
