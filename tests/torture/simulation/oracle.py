"""The oracle: who a piece of work is for, as it was told by plain arguments, and what it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol

from ringfence import (
    ContextClosedError,
    ContextLimitError,
    Detached,
    DrainingError,
    NoContextError,
    Ringfence,
    RingfenceError,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
)

from .sessions import SessionClosed

__all__ = ["Life", "Runner", "World"]


class Life:
    """
    One block of one user, as whoever opened it knows it; handed on by argument only.

    Nothing here is read from a ContextVar: what ringfence says is held against it.

    Attributes:
        user: whose; `None` for nobody.
        is_ending: whether its body has ended, so that refusals are right.
        is_over: whether its block has ended, so that anything but a refusal is wrong.
        runs: how often each of its finalisers has run; each must once.
        failing, is_fatal, blows_up: how many of them fail, whether one does so with a
            `BaseException`, and whether the body fails.
        can_fail: whether whoever leaves the root's block can take that.
        kept: what must not be collected before.
    """

    __slots__ = (
        "blows_up", "can_fail", "failing", "is_ending", "is_fatal", "is_over", "kept", "parent",
        "root", "runs", "scope", "seen_by_managers", "user",
    )  # fmt: skip

    def __init__(self, user: str | None, parent: Life | None = None) -> None:
        self.user = user
        self.parent = parent
        self.root: Life = self if parent is None else parent.root
        self.is_ending = self.is_over = False
        self.can_fail = True
        self.blows_up = self.is_fatal = False
        self.failing = 0
        self.runs: list[list[int]] = []
        self.seen_by_managers: list[BaseException | None] = []
        self.kept: list[object] = []
        self.scope: Any = None  # the library's own, to ask it how it ended

    @property
    def may_be_refused(self) -> bool:
        """Whether this block's body, or that of one around it, has ended."""
        life: Life | None = self
        while life is not None:
            if life.is_ending:
                return True
            life = life.parent
        return False

    @property
    def must_be_refused(self) -> bool:
        """Whether this block, or one around it, has ended."""
        life: Life | None = self
        while life is not None:
            if life.is_over:
                return True
            life = life.parent
        return False


class Runner(Protocol):
    """What asyncio and trio do differently."""

    is_asyncio: bool

    async def sleep(self, seconds: float) -> None: ...

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task, in a copy of the context that is current."""

    def cancel_one(self, chance: Random) -> bool:
        """Cancel one of the tasks that were started; whether there was one."""


class World:
    """
    One small application, its users and its bad luck. Lives as long as one run of the loop.

    Attributes:
        tally: what was done and seen, counted by name.
        violations: promises that were broken; one is enough.
        shelf: things of other requests which somebody has kept, each with the life it is of.
        trace: a number that differs as soon as anything happens otherwise.
    """

    def __init__(self, chance: Random, runner: Runner, fence: Ringfence) -> None:
        self.chance = chance
        self.runner = runner
        self.fence = fence
        self.tally: Counter[str] = Counter()
        self.violations: list[str] = []
        self.operations: Sequence[Callable[[World, Life], Awaitable[None]]] = ()
        self.shelf: list[tuple[str, Any, Life]] = []
        self.trace = 0
        self.detached: list[Life] = []
        self.handles: list[Detached] = []
        self.births: Sequence[Callable[[str, Life], None]] = ()
        self.left_to_birth = 0
        self.is_draining = False
        self.is_cut = False  # whether shutdown comes before all is done

    # --- what happens -------------------------------------------------------------------------

    def likely(self, probability: float) -> bool:
        return self.chance.random() < probability

    async def pause(self) -> None:
        """Let others run; now and then for a while."""
        choice = self.chance.random()
        await self.runner.sleep(0 if choice < 0.8 else choice / 10)

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        self.runner.spawn(lambda: self._guarded(work, *args))

    async def _guarded(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await work(self, *args)
        except Exception as error:
            self.violation(f"unexpected out of {work.__name__}: {error!r}")

    def keep(self, kind: str, thing: Any, life: Life) -> None:
        """Somebody keeps it where others will find it."""
        self.shelf.append((kind, thing, life))
        if len(self.shelf) > 40:
            del self.shelf[0]

    def found(self, kind: str, life: Life) -> tuple[Any, Life] | None:
        """Something of another request that was kept, if there is any."""
        others = [
            (thing, owner)
            for kept, thing, owner in self.shelf
            if kept == kind and owner.root is not life.root
        ]
        return self.chance.choice(others) if others else None

    def note(self, what: int) -> None:
        """Something happened: let the trace show it."""
        self.trace = hash((self.trace, what))

    async def work(self, life: Life) -> None:
        """A few operations, chosen by the seed."""
        for _ in range(self.chance.randrange(2, 6)):
            await self.step(life)
            await self.pause()
            self.reads(life)

    async def step(self, life: Life) -> None:
        """One operation; a refusal is right once the block's body has ended, and wrong before."""
        number = int(self.chance.random() * len(self.operations))
        self.note(number)
        try:
            await self.operations[number](self, life)
        except (ContextClosedError, NoContextError, SessionClosed) as error:
            self.refused(life, error)
        except ContextLimitError:
            self.tally["refused: a limit"] += 1
        except DrainingError:
            self.drained()

    async def root(self, work: Awaitable[None]) -> bool:
        """A root's block: it may time out, and is refused while all shuts down."""
        try:
            await work
        except DrainingError:
            self.drained()
            return False
        except TimeoutError:
            self.tally["timed out"] += 1
        return True

    # --- what is seen -------------------------------------------------------------------------

    def violation(self, what: str) -> None:
        self.violations.append(what)

    def must_have_run(self, life: Life) -> None:
        for number, runs in enumerate(life.runs):
            if runs != [1]:
                self.violation(f"finaliser {number} of {life.user} ran {runs} times")

    def drained(self) -> None:
        """A root was refused because of shutdown."""
        self.tally["refused: while draining"] += 1
        if not self.is_draining:
            self.violation("refused a request although nothing was draining")

    def refused(self, life: Life, error: BaseException) -> None:
        """Work of this life was refused."""
        self.tally["refused after the end"] += 1
        if not life.may_be_refused:
            self.violation(f"refused before the end: {error!r}")

    def reads(self, life: Life) -> None:
        """Ask a reader who is here."""
        self.tally["reads"] += 1
        try:
            seen = READERS[int(self.chance.random() * len(READERS))]()
        except (ContextClosedError, NoContextError) as error:
            if life.user is not None or isinstance(error, ContextClosedError):
                self.refused(life, error)
            return
        if seen is None and life.user is not None:
            self.refused(life, LookupError("nobody"))
        elif seen != life.user:
            self.violation(f"{life.user} is told that this is {seen}")
        elif life.must_be_refused:
            self.violation(f"{life.user} is read after the end")

    def must_refuse(self, what: str, owner: Life, error: RingfenceError | None) -> None:
        """Something of another's was tried; that `owner` may be unowned again once it is over."""
        if error is None:
            self.violation(f"{what} of {owner.user} was let through")
        else:
            self.tally[f"refused: {what}"] += 1


def _by_context() -> str | None:
    return current_context().user_id


def _by_context_or_none() -> str | None:
    context = current_context_or_none()
    return None if context is None else context.user_id


def _by_scope() -> str | None:
    scope = current_scope()
    if scope.state == "closed":
        return "somebody whose scope has ended"
    return scope.context.user_id if scope.has_user else None


def _by_scope_or_none() -> str | None:
    scope = current_scope_or_none()
    if scope is not None and scope.state == "closed":
        return "somebody whose scope has ended"
    return scope.context.user_id if scope is not None and scope.has_user else None


READERS: tuple[Callable[[], str | None], ...] = (
    _by_context, _by_context_or_none, _by_scope, _by_scope_or_none,
)  # fmt: skip
