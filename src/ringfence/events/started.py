"""`started`: a block whose beginning and end are events, one of each, on every ending."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from .. import counters
from ..current import current_scope
from ..errors import ConfigurationError, RingfenceError
from ..tasks import Job, is_cancellation
from .verbs import emit

if TYPE_CHECKING:
    from ..scope import RequestScope

__all__ = ["Started", "started"]

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
    its type, never its text::

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
        self._is_over = True  # until it has begun
        self._is_told = anyio.Event()  # that it has, or that this failed
        self._lock = anyio.Lock()  # two may want to tell the end: the block and its scope
        self._scope: RequestScope | None = None
        self._forget: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise ConfigurationError("This block was entered already.", "Call `started` again.")
        scope = self._scope = current_scope()
        self._began = time.monotonic()
        self._forget = scope.callback(self._end, "closed", None)

        async def begin() -> None:
            try:
                self._start_id = await emit(self._kinds[0], self._first)
                self._is_over = False
            finally:
                self._is_told.set()

        error, cancelled = await _uncancelled(begin, scope)
        if cancelled is not None and not self._is_over:
            await self.__aexit__(type(cancelled), cancelled, None)
        if cancelled is not None or error is not None:
            self._forget()
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
            await self._end(outcome, exc)

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

    async def _end(self, outcome: str, exc: BaseException | None) -> None:
        await self._is_told.wait()  # the scope may end while the beginning is being told
        async with self._lock:
            if not self._is_over:
                self._is_over = True
                await self._tell(outcome, exc)

    async def _tell(self, outcome: str, exc: BaseException | None) -> None:
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
            await emit(kind, {**self.data, **facts})
        except RingfenceError:  # what the application has to say cannot be said
            await emit(kind, facts)
            raise


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
