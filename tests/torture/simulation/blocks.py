"""Opening blocks: one request, one operation of it, and what must hold once they are left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ringfence import (
    ContextClosedError,
    RingfenceError,
    ScopeCloseError,
    child_context,
    current_context_or_none,
    current_scope,
    nobody,
    user_context,
)
from ringfence.tasks import is_cancellation

from .oracle import Life, World

__all__ = ["USERS", "BodyError", "Broken", "Fatal", "afterwards", "inside", "operation", "request"]

Body = Callable[[World, Life], Awaitable[None]]

USERS = tuple(f"user-of-this-world-{number}" for number in range(5))


class BodyError(Exception):
    """What some bodies end with."""


class Broken(Exception):
    """What some finalisers raise."""


class Fatal(BaseException):
    """What few finalisers raise; it is raised on, once the rest have run."""


async def inside(world: World, block: Any, life: Life, body: Body) -> None:
    """Run `body` in a block, whose life this is, and judge how the block ends."""
    outcome: BaseException | None = None
    try:
        async with block:
            try:
                life.scope = current_scope()
                _refuse_late_comers(world, life)
                world.reads(life)
                await body(world, life)
                if life.blows_up:
                    raise BodyError
            except BaseException as error:
                outcome = error
                raise
            finally:
                life.is_ending = True
    except BaseException as error:
        if not _is_expected(world, life, outcome, error):
            raise
        if outcome is not None and not isinstance(outcome, BodyError):
            raise outcome from None
    else:
        if (life.failing or life.is_fatal) and not life.scope.is_parent_closed:
            world.violation(f"errors of finalisers were dropped: {life.scope.report}")
    finally:
        life.is_over = True
        _judge(world, life, outcome)


def _refuse_late_comers(world: World, life: Life) -> None:
    scope = life.scope
    if scope.parent is None and scope._recipes is world.fence and world.fence.is_draining:
        world.violation(f"a root of {life.user}'s was opened while all shuts down")


def _is_expected(
    world: World, life: Life, outcome: BaseException | None, error: BaseException
) -> bool:
    """Whether a block raised what only this world's bodies and finalisers raise; judges it."""
    is_parent_closed = life.scope is not None and life.scope.is_parent_closed
    if life.is_fatal and not is_parent_closed and not isinstance(error, Fatal):
        world.violation(f"a fatal error was dropped for {error!r}")
    notes = getattr(error, "__notes__", ())
    if isinstance(error, Fatal):  # comes instead of a cancellation, too
        world.tally["fatal errors"] += 1
        if life.failing > len(notes):
            world.violation(f"{life.failing} finalisers failed: {error!r} does not say so")
        return True
    if isinstance(error, ScopeCloseError):
        if outcome is not None:
            world.violation(f"{outcome!r} was replaced by {error!r}")
        if len(error.exceptions) < life.failing:
            world.violation(f"{life.failing} finalisers failed: {error.exceptions}")
        return all(isinstance(each, Broken | TimeoutError) for each in error.exceptions)
    is_new = is_cancellation(error) or isinstance(error, TimeoutError)
    if outcome is not None and error is not outcome and not is_new:
        world.violation(f"{outcome!r} became {error!r}")
    if any("BodyError" in note for note in notes):
        world.violation(f"the body's own exception came back as one of a finaliser: {notes}")
    if life.failing > len(notes) and not is_parent_closed:
        world.violation(f"{life.failing} finalisers failed: {error!r} does not say so")
    return isinstance(outcome, BodyError) and error is outcome


def _judge(world: World, life: Life, outcome: BaseException | None) -> None:
    scope = life.scope
    if scope is None:  # it was never entered
        return
    world.must_have_run(life)
    if scope.state != "closed":
        world.violation(f"a block was left, and its scope is {scope.state}")
    if scope.ended_well and (outcome is not None or scope.is_parent_closed):
        world.violation(f"{outcome!r} is said to have ended well")
    if any(each.error is outcome for each in scope.report) and outcome is not None:
        world.violation(f"{outcome!r} of the body is said to be a finaliser's")
    if isinstance(outcome, BodyError) and not scope.is_parent_closed:
        for saw in life.seen_by_managers:
            if saw is not outcome:
                world.violation(f"a manager was shown {saw!r} instead of {outcome!r}")
    if world.likely(0.2):
        _must_be_silent(world, life)


def _must_be_silent(world: World, life: Life) -> None:
    """The scope of a life that is over answers nobody, its own tree included."""
    scope = life.scope
    uses = (lambda: scope.check([life.user]), lambda: scope.db_session, lambda: scope.own([]))
    try:
        world.chance.choice(uses)()
    except ContextClosedError:
        world.tally["refused: ended scope"] += 1
    except RingfenceError as error:
        world.violation(f"a scope that has ended says {error!r}")
    else:
        world.violation(f"the scope of {life.user} answers after its end")


async def request(world: World, user: str | None, born: Life | None, body: Body) -> None:
    """
    One request of `user`, in a task that was `born` in the context of another one's block.

    Afterwards the task goes on, as that of a server does: it may not be this user any more.
    """
    life = Life(user)
    world.tally["requests"] += 1
    if born is not None:
        world.tally["pipelined births"] += 1
    if await world.root(inside(world, _root(world, user), life, body)):
        await afterwards(world, life, born)


def _root(world: World, user: str | None) -> Any:
    timeout = world.chance.random() / 4 if world.likely(0.05) else None
    if user is None:
        return nobody(fence=world.fence, timeout=timeout)
    if world.likely(0.5):
        return user_context(user, fence=world.fence)
    return user_context(
        user,
        thread_id=f"thread-of-{user}",
        run_id=f"run-of-{user}",
        fence=world.fence,
        agent_context={"of": [[user]], "seen": {"by": [user]}},
        claims={"of": [user]},
        timeout=timeout,
    )


async def afterwards(world: World, life: Life, born: Life | None) -> None:
    """What the server's task may be after a request: nobody, or who it was before."""
    for _ in range(2):
        seen = current_context_or_none()
        world.tally["reads after the response"] += 1
        if seen is not None and (born is None or born.must_be_refused or seen.user_id != born.user):
            world.violation(f"after its response {life.user}'s task is {seen.user_id}")
        await world.pause()


async def operation(world: World, parent: Life, body: Body) -> None:
    """A child of the block that is open here."""
    if parent.user is None:
        return
    life = Life(parent.user, parent)
    world.tally["children"] += 1
    timeout = world.chance.random() / 4 if world.likely(0.03) else None
    data = {"step": [1]} if world.likely(0.3) else None
    try:
        block = child_context("operation", agent_context=data, timeout=timeout)
        await inside(world, block, life, body)
    except TimeoutError:
        world.tally["timed out"] += 1
    world.reads(parent)
