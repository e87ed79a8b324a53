"""AgentRegistry: agents by name, and the runs of each user."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import reprlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio

from ..current import current_scope
from ..errors import (
    AgentCancelledError,
    AgentLimitError,
    ConfigurationError,
    UnknownAgentError,
    UnknownRunError,
)
from ..events import UserKey
from ..events.started import _outcome
from ..isolation import Infrastructure
from .delivery import ManagedEvents
from .places import Places
from .records import Recent, RunRecord, result_text
from .registered import Agent, checked_agent
from .runs import Block

if TYPE_CHECKING:
    from ..context import UserExecutionContext
    from ..protocols import EventSink
    from ..scope import RequestScope

__all__ = ["AgentRegistry"]

S = TypeVar("S", bound=Callable[..., Any])


class _Running:
    """A run, from taking its place to what became of it."""

    __slots__ = ("began", "is_closed", "name", "record", "scope", "stop")

    def __init__(self, name: str) -> None:
        self.name = name
        self.stop = anyio.CancelScope()
        self.began = time.monotonic()
        self.record: RunRecord | None = None  # until its scope is open
        self.scope: Any = None
        self.is_closed = False  # its scope, by the end of what it is beneath


class AgentRegistry(ManagedEvents, Infrastructure):
    """
    Agents by name, and the runs of each user, who see and cancel their own and no one else's.

    Made once, at import; lives as long as the application, in one event loop at a time::

        registry = AgentRegistry(max_running_per_user=5)

        @registry.agent("triage")
        async def triage(question: str, session: Injected[AsyncSession]) -> str: ...

        async with fence.user_context("u-17"):
            answer = await registry.run("triage", "Where is my order?", timeout=30)

    It is an event sink too, for applications with WebSocket managers of their own: see
    `set_websocket_manager`.

    Args:
        max_running_per_user, max_running: runs at once, of one user and in all; an agent that is
            run by an agent counts as well.
        queue_timeout: seconds that a run waits for a place where there is none; 0: it is refused.
        max_depth: of the context of a run; `Settings.max_depth` holds too.
        max_recent_per_user, max_recent: how many runs that have ended are remembered; at most.
        max_result_bytes: of a result that is remembered, as JSON; larger ones are not.
        recent_timeout: seconds after their last run after which a user's are forgotten.
        events: a hub to pass events on to, if `Ringfence(events=)` is this registry.
        send_timeout: seconds that a WebSocket manager may take for one event; half of
            `Settings.finaliser_timeout` at most.

    Raises:
        ConfigurationError: a limit that makes no sense.
    """

    def __init__(
        self,
        *,
        max_running_per_user: int = 20,
        max_running: int = 1_000,
        queue_timeout: float = 0.0,
        max_depth: int | None = None,
        max_recent_per_user: int = 20,
        max_recent: int = 10_000,
        max_result_bytes: int = 4 * 1024,
        recent_timeout: float = 3600.0,
        events: EventSink | None = None,
        send_timeout: float = 1.0,
    ) -> None:
        super().__init__(events, send_timeout)
        limits = (max_running_per_user, max_running, max_recent, recent_timeout, send_timeout)
        depth = 1 if max_depth is None else max_depth
        if (
            not min(*limits, depth) > 0
            or min(queue_timeout, max_recent_per_user, max_result_bytes) < 0
        ):
            raise ConfigurationError(
                "A limit of the registry makes no sense.", "Leave it out for the usual one."
            )
        self.max_depth = max_depth
        self.max_result_bytes = max_result_bytes
        self._agents: dict[str, Agent] = {}
        self._places = Places(max_running_per_user, max_running, queue_timeout)
        self._running: dict[UserKey, dict[str, _Running]] = {}
        self._recent = Recent(min(max_recent_per_user, max_recent), max_recent, recent_timeout)

    # --- registering --------------------------------------------------------------------------

    @overload
    def agent(self, name: str) -> Callable[[S], S]: ...
    @overload
    def agent(self, name: str, target: S) -> S: ...

    def agent(self, name: str, target: Any = None) -> Any:
        """
        `register` as a decorator::

            @registry.agent("triage")
            async def triage(question: str) -> str: ...
        """
        frame = sys._getframe(1)
        if target is None:
            return lambda fn: self._register(name, fn, frame)
        return self._register(name, target, frame)

    def register(self, name: str, target: S) -> S:
        """
        Register an agent, and return it: an async function, or a class with an `async def run`.

        An object of a class is made for each run: by the fence's container, if that provides it,
        as long as its lifetime says, else anew. Parameters that are `Injected`, of the function,
        of `run` or of the constructor, are filled in the context of the run.

        Raises:
            ConfigurationError: it is not callable, not async, or a generator; the name is blank,
                or taken.
        """
        return self._register(name, target, sys._getframe(1))

    def _register(self, name: str, target: S, frame: FrameType) -> S:
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(
                f"An agent cannot be called {name!r}.", "Name it as users shall see it."
            )
        if name in self._agents:
            raise ConfigurationError(
                f"There is an agent `{name}` already.", "Give each a name of its own."
            )
        self._agents[name] = checked_agent(target, frame)
        return target

    @property
    def names(self) -> tuple[str, ...]:
        """Of the agents, sorted."""
        return tuple(sorted(self._agents))

    # --- running ------------------------------------------------------------------------------

    async def run(
        self,
        name: str,
        /,
        *args: Any,
        timeout: float | None = None,
        budget: Mapping[str, float] | None = None,
        depth: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Run an agent in a child context, with its events, and return what it returns.

        Args:
            name: of the agent; what comes after it is the agent's own.
            timeout, budget, depth: as in `agent_run`.

        Raises:
            UnknownAgentError: no agent has that name.
            AgentLimitError: too many run, or it would be too deep.
            AgentCancelledError: its user cancelled it.
            ContextClosedError: nobody is current any more, or its scope ended while it ran.
            TimeoutError: it took longer than `timeout`.
            NoContextError: nobody is current here.
            and what the agent raises.
        """
        agent = self._agents.get(name) if isinstance(name, str) else None
        if agent is None:
            raise UnknownAgentError(
                f"There is no agent {reprlib.repr(name)}.",
                "Register it, or choose one of `registry.names`.",
            )
        context = current_scope().context
        self._refuse_too_deep(context)
        user = UserKey(context.tenant_id, context.user_id)
        await self._places.take(user)
        try:
            running = _Running(name)
            begin = functools.partial(self._begin, user, running)
            block = Block("agent", name, timeout, {}, budget=budget, depth=depth, on_open=begin)
            return await self._recorded(user, running, block, agent(*args, **kwargs))
        finally:
            self._places.give_back(user)

    async def _recorded(self, user: UserKey, running: _Running, block: Block, work: Any) -> Any:
        result: Any = None
        outcome, error = "cancelled", None
        has_ended = False
        try:
            with running.stop:
                async with block:
                    result = await work
                outcome, has_ended = "completed", True
        except BaseException as raised:
            outcome, error = _outcome(raised, running.scope) if running.scope else "", raised
            raise
        finally:
            if inspect.iscoroutine(work):
                work.close()  # it may never have begun
            self._end(user, running, outcome, error, result)
        if not has_ended:
            raise _stopped(running)
        return result

    def _refuse_too_deep(self, context: UserExecutionContext) -> None:
        if self.max_depth is not None and context.operation_depth >= self.max_depth:
            raise AgentLimitError(
                f"A run here would be deeper than {self.max_depth} contexts.",
                "Let agents hand back instead of calling deeper, or change "
                "`AgentRegistry(max_depth=)`.",
                limit="max_depth",
            )

    def _begin(self, user: UserKey, running: _Running, scope: RequestScope) -> None:
        context = scope.context
        running.scope = scope
        running.record = RunRecord(
            running.name,
            context.request_id,
            context.parent_request_id,
            context.operation_depth,
            dt.datetime.now(dt.UTC),
            "running",
        )
        self._running.setdefault(user, {})[context.request_id] = running
        scope.callback(_close, running)

    def _end(
        self, user: UserKey, running: _Running, outcome: str, error: BaseException | None,
        result: Any,
    ) -> None:  # fmt: skip
        record = running.record
        if record is None:  # refused before its scope was open
            return
        mine = self._running[user]
        del mine[record.request_id]
        if not mine:
            del self._running[user]
        self._recent.add(user, record.ended(
            "closed" if running.is_closed else outcome,
            time.monotonic() - running.began,
            error,
            result_text(result, self.max_result_bytes),
        ))  # fmt: skip

    # --- what a user sees of it ---------------------------------------------------------------

    def running(self) -> tuple[RunRecord, ...]:
        """
        The current user's runs, the oldest first, in whatever request they run.

        Raises:
            NoContextError, ContextClosedError: nobody is current here.
        """
        mine = self._running.get(_user_here(), {})
        return tuple(running.record for running in mine.values() if running.record is not None)

    def recent(self) -> tuple[RunRecord, ...]:
        """
        The current user's runs that have ended, the latest first, as far as they are remembered.

        Raises:
            NoContextError, ContextClosedError: nobody is current here.
        """
        return self._recent.of(_user_here())

    def cancel(self, request_id: str) -> None:
        """
        Cancel a run of the current user, in whatever request it runs, and all beneath it.

        Returns at once; the run's finalisers run, its user is told `agent_failed`, and `run`
        raises `AgentCancelledError`. To be called in the event loop.

        Args:
            request_id: of the run: what `running()` and its events say.

        Raises:
            UnknownRunError: no run of this user has it, whether or not another user's has.
            NoContextError, ContextClosedError: nobody is current here.
        """
        mine = self._running.get(_user_here(), {})
        running = mine.get(request_id) if isinstance(request_id, str) else None
        if running is None or running.record is None:
            raise UnknownRunError(
                "No run of this user has that request id.",
                "It may have ended: see `registry.running()` and `registry.recent()`.",
            )
        running.record = running.record.cancelling()
        running.stop.cancel()

    # --- what an operator sees of it ----------------------------------------------------------

    def load(self) -> dict[str, int]:
        """
        How many runs there are of each agent, of all users together. For metrics.

        It names nobody, and is for operators: whoever knows it and their own runs knows how many
        others there are.
        """
        return Counter(each.name for mine in self._running.values() for each in mine.values())

    @property
    def waiting(self) -> int:
        """How many runs wait for a place, of all users together. For metrics."""
        return self._places.waiting


def _user_here() -> UserKey:
    context = current_scope().context
    return UserKey(context.tenant_id, context.user_id)


def _close(running: _Running) -> None:
    """Its scope ends. If that is not its own block's doing, nothing can come of it any more."""
    if running.scope.is_parent_closed:
        running.is_closed = True
        running.stop.cancel()


def _stopped(running: _Running) -> Exception:
    if running.is_closed:
        error: Exception = running.scope._closed_error()
        return error
    request_id = running.scope.request_id
    return AgentCancelledError(
        f"The run `{request_id}` of the agent `{running.name}` was cancelled by its user.",
        "Start it again if it is still wanted.",
        request_id=request_id,
    )
