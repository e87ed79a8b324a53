"""What requests do with what is another's: it must be refused."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from ringfence import (
    ContextClosedError,
    DrainingError,
    NoContextError,
    OwnershipError,
    RingfenceError,
    SessionIsolationError,
    current_context,
    current_scope,
    user_context,
)

from .blocks import USERS, inside
from .oracle import Life, World
from .own import only_wait

__all__ = ["OPERATIONS"]


def _trial(call: Callable[[], Any]) -> RingfenceError | None:
    """How ringfence refused it, if it did."""
    try:
        call()
    except RingfenceError as error:
        return error
    return None


async def foreign_session(world: World, life: Life) -> None:
    found = world.found("session", life)
    if found is None:
        return
    session, owner = found
    try:
        await session.execute(life.user)
    except (OwnershipError, SessionIsolationError, ContextClosedError) as error:
        world.must_refuse("foreign session", owner, error)
    except NoContextError as error:
        world.refused(life, error)
    else:
        world.must_refuse("foreign session", owner, None)


async def foreign_memory(world: World, life: Life) -> None:
    found = world.found("memory", life)
    if found is not None:
        memory, owner = found
        world.must_refuse("foreign owned object", owner, _trial(lambda: memory.user))
        world.must_refuse("foreign owned object", owner, _trial(lambda: len(memory)))
        write = _trial(lambda: setattr(memory, "user", life.user))
        world.must_refuse("foreign owned object", owner, write)
        world.must_refuse("foreign owned object", owner, _trial(lambda: delattr(memory, "user")))
        if not life.may_be_refused:
            own = _trial(lambda: current_scope().own(memory))
            world.must_refuse("foreign owned object", owner, own)
        nowhere = _trial(lambda: Context().run(lambda: memory.user))
        world.must_refuse("owned object where nobody is", owner, nowhere)


async def foreign_object(world: World, life: Life) -> None:
    """An object that was handed to ringfence is its owner's, until that one's root has ended."""
    found = world.found("object", life)
    if found is None or life.may_be_refused:
        return
    thing, owner = found
    is_owned = not owner.root.is_ending
    error = _trial(lambda: current_scope().check(thing))
    if is_owned:
        world.must_refuse("foreign object", owner, error)
        world.must_refuse("foreign object", owner, _trial(lambda: current_scope().own(thing)))
    elif error is not None and owner.root.is_over:
        world.violation(f"an object of {owner.user}'s was kept after the end: {error}")


async def foreign_scope(world: World, life: Life) -> None:
    """A scope that somebody kept serves nobody else, open or ended."""
    found = world.found("scope", life)
    if found is not None:
        scope, owner = found
        for call in (
            lambda: scope.own([life.user]),
            lambda: scope.callback(print),
            lambda: scope.check([life.user]),
        ):
            world.must_refuse("foreign scope", owner, _trial(call))
        error = _trial(lambda: scope.db_session)
        world.must_refuse("foreign scope", owner, error)
        if error is not None and not isinstance(error, SessionIsolationError | ContextClosedError):
            world.violation(f"a foreign session is refused by {error!r}")


async def foreign_callback(world: World, life: Life) -> None:
    """A bound function is still whose it was, or refused."""
    found = world.found("bound", life)
    if found is not None:
        who, owner = found
        try:
            seen = who()
        except ContextClosedError as error:
            world.refused(owner, error)
        else:
            world.tally["bound calls"] += 1
            if seen != owner.user or owner.must_be_refused:
                world.violation(f"a function bound by {owner.user} is run as {seen}")


async def give_session(world: World, life: Life) -> None:
    """A session that was given belongs to the first open root that was entered with it."""
    session: Any = GivenSession()
    world.tally["given sessions"] += 1
    given = Life(world.chance.choice(USERS))
    block = user_context(given.user or "", db_session=session, fence=world.fence)
    await world.root(inside(world, block, given, _lend))


class GivenSession:
    """Of no kind that anybody knows."""


async def _lend(world: World, life: Life) -> None:
    session = current_context().db_session
    world.keep("given", session, life)
    await only_wait(world, life)
    if current_scope().db_session is not session:
        world.violation("the session that was given is another")


async def take_session(world: World, life: Life) -> None:
    """The same session in a second root."""
    found = world.found("given", life)
    if found is None or found[1].root.is_ending:
        return
    session, owner = found
    try:
        async with user_context(USERS[0], db_session=session, fence=world.fence):
            pass
    except SessionIsolationError as error:
        world.must_refuse("given session", owner, error)
    except DrainingError:
        if not world.is_draining:
            raise
    else:
        world.must_refuse("given session", owner, None)


OPERATIONS = (
    *[foreign_session] * 2, *[foreign_memory] * 2, *[foreign_object] * 2, foreign_scope,
    foreign_callback, give_session, take_session,
)  # fmt: skip
