"""What requests do: with what is theirs, and with what is not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextLimitError,
    DrainingError,
    NoContextError,
    OwnershipError,
    RingfenceError,
    SessionIsolationError,
    bind,
    bound_stream,
    child_context,
    current_context,
    current_scope,
    owned,
    task_group,
    user_context,
)

from .blocks import USERS, inside, operation, request
from .oracle import Life, World
from .sessions import SessionClosed

__all__ = ["OPERATIONS", "work"]


async def work(world: World, life: Life) -> None:
    """A few operations, chosen by the seed."""
    for _ in range(world.chance.randrange(2, 6)):
        await step(world, life)
        await world.pause()
        world.reads(life)


async def step(world: World, life: Life) -> None:
    """One operation; a refusal is right once the block's body has ended, and wrong before."""
    number = int(world.chance.random() * len(OPERATIONS))
    world.note(number)
    try:
        await OPERATIONS[number](world, life)
    except (ContextClosedError, NoContextError, SessionClosed) as error:
        world.refused(life, error)


# --- what is its own --------------------------------------------------------------------------


async def only_wait(world: World, life: Life) -> None:
    for _ in range(world.chance.randrange(1, 8)):
        await world.pause()
        world.reads(life)


async def nest(world: World, life: Life) -> None:
    try:
        await operation(world, life, work if world.likely(0.5) else only_wait)
    except ContextLimitError:
        world.tally["too deep"] += 1


async def query(world: World, life: Life) -> None:
    """Its own session shows its own rows, whoever had the connection before."""
    session = current_scope().db_session
    world.keep("session", session, life)
    try:
        shown = await session.execute(life.user or "nobody")
    except TimeoutError:
        world.tally["pool exhausted"] += 1
        return
    world.tally["statements"] += 1
    if shown != (life.user or "nobody"):
        world.violation(f"{life.user} was shown rows of {shown}")


@owned
class Memory:
    """What an agent remembers of one request."""

    def __init__(self, user: str | None) -> None:
        self.user = user

    def __len__(self) -> int:
        return 1


async def remember(world: World, life: Life) -> None:
    """An owned instance, used across a wait."""
    memory = Memory(life.user)
    if not life.may_be_refused:  # else it belongs to nobody
        world.keep("memory", memory, life)
    await world.pause()
    if memory.user != life.user or len(memory) != 1:
        world.violation("an owned object is not what it was")


async def own_objects(world: World, life: Life) -> None:
    """Objects that nobody has seen before are one's own, whatever lay at their address."""
    scope = current_scope()
    for _ in range(world.chance.randrange(1, 4)):
        thing = [life.user]
        try:
            scope.check(scope.own(thing))
        except OwnershipError as error:
            world.violation(f"a new object was refused: {error}")
        world.keep("object", thing, life)
    del thing
    for _ in range(3):
        try:
            scope.check([life.user])
        except OwnershipError as error:
            world.violation(f"a new object was refused: {error}")
    world.tally["new objects"] += 3


async def clean_up_later(world: World, life: Life) -> None:
    """Finalisers: each runs once before the block is left, as its own user."""
    for _ in range(world.chance.randrange(1, 4)):
        runs = [0]
        fn = _sync_finaliser if world.likely(0.5) else _async_finaliser
        current_scope().callback(fn, world, life, runs)
        life.runs.append(runs)
        world.tally["finalisers"] += 1


def _sync_finaliser(world: World, life: Life, runs: list[int]) -> None:
    runs[0] += 1
    _is_itself(world, life)


async def _async_finaliser(world: World, life: Life, runs: list[int]) -> None:
    _is_itself(world, life)
    await world.pause()
    runs[0] += 1
    _is_itself(world, life)


def _is_itself(world: World, life: Life) -> None:
    if life.is_over:
        world.violation(f"a finaliser of {life.user} runs after the end")
    try:
        scope = current_scope()
        seen = scope.context.user_id if scope.has_user else None
    except RingfenceError as error:
        world.violation(f"a finaliser of {life.user} is refused: {error}")
    else:
        if seen != life.user:
            world.violation(f"a finaliser of {life.user} is told that this is {seen}")


class Manager:
    """Must be left once if it was entered, by whoever entered it."""

    def __init__(self, world: World, runs: list[int]) -> None:
        self.world = world
        self.runs = runs
        self.group = anyio.CancelScope()

    async def __aenter__(self) -> Manager:
        await self.world.pause()
        self.group.__enter__()
        self.runs[0] = 0
        return self

    async def __aexit__(self, *details: Any) -> None:
        self.runs[0] += 1
        self.group.__exit__(None, None, None)
        await self.world.pause()


async def enter(world: World, life: Life) -> None:
    runs = [1]  # as if it had been left, until it is entered
    life.runs.append(runs)
    await current_scope().enter(Manager(world, runs))
    world.tally["managers"] += 1


async def keep_data(world: World, life: Life) -> None:
    """A child's data are copies: what it adds is seen by nobody else."""
    if life.user is None:
        return
    context = current_context()
    before = str(context.agent_context)
    async with child_context("data", agent_context={"added": [life.user]}) as child:
        child.agent_context.setdefault("seen", {})["by"] = [life.user, "child"]
        child.agent_context.setdefault("of", []).append("child")
        child.verify_isolation()
        await world.pause()
    if str(context.agent_context) != before or "user-of" in before.replace(life.user, ""):
        world.violation(f"the data of {life.user} are {context.agent_context}, not {before}")
    claims = current_scope().claims.get("of", life.user)
    if claims != life.user:
        world.violation(f"{life.user} has the claims of {claims}")


# --- at once, and for longer ------------------------------------------------------------------


async def together(world: World, life: Life) -> None:
    """Several tasks in one scope."""
    async with task_group() as tasks:
        try:
            for _ in range(world.chance.randrange(1, 4)):
                tasks.start_soon(_member, world, life)
                await world.pause()
        except ContextClosedError as error:
            world.refused(life, error)
    world.tally["task groups"] += 1


async def _member(world: World, life: Life) -> None:
    await world.pause()
    await (step(world, life) if world.likely(0.3) else only_wait(world, life))


async def leave_orphan(world: World, life: Life) -> None:
    """A task that nobody waits for: it is this user, or refused, and nobody else ever."""
    world.tally["orphans"] += 1
    world.spawn(_orphan, life)


async def _orphan(world: World, life: Life) -> None:
    for _ in range(world.chance.randrange(2, 8)):
        await world.pause()
        world.reads(life)
        if world.likely(0.3):
            await step(world, life)


async def bear(world: World, life: Life) -> None:
    """Another user's request begins in this one's context, as uvicorn's pipelined ones do."""
    if world.left_to_birth > 0:
        world.left_to_birth -= 1
        world.spawn(request, world.chance.choice(USERS), life, work)


async def become(world: World, life: Life) -> None:
    """A root within a root is another user's; afterwards it is this one's again."""
    try:
        await request(world, world.chance.choice(USERS), life, only_wait)
    finally:
        world.reads(life)


async def be_nobody(world: World, life: Life) -> None:
    try:
        await request(world, None, life, only_wait)
    finally:
        world.reads(life)


async def detach(world: World, life: Life) -> None:
    """The same user in another root."""
    other = Life(life.user)
    try:
        world.fence.detach(_detached, world, other)
    except (ConfigurationError, DrainingError):
        if not world.is_draining:
            raise
    else:
        world.tally["detached"] += 1
        world.detached.append(other)


async def _detached(world: World, life: Life) -> None:
    try:
        world.reads(life)
        await work(world, life)
    except Exception as error:
        world.violation(f"unexpected out of detached work: {error!r}")
    finally:
        life.is_ending = True


async def stream(world: World, life: Life) -> None:
    """A generator in a task of its own, read to its end or left."""
    last = world.chance.randrange(1, 5)
    async with bound_stream(_tokens(world, life)) as tokens:
        async for token in tokens:
            await world.pause()
            world.reads(life)
            if token == last:
                break
    world.tally["streams"] += 1


async def _tokens(world: World, life: Life) -> AsyncGenerator[int, None]:
    for number in range(4):
        world.reads(life)
        yield number
        await world.pause()


async def bind_callback(world: World, life: Life) -> None:
    world.keep("bound", bind(_who), life)


def _who() -> str | None:
    scope = current_scope()
    return scope.context.user_id if scope.has_user else None


async def keep_scope(world: World, life: Life) -> None:
    world.keep("scope", current_scope(), life)


# --- what is not ------------------------------------------------------------------------------


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
    except (OwnershipError, ContextClosedError) as error:
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
            lambda: scope.db_session,
        ):
            world.must_refuse("foreign scope", owner, _trial(call))


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
    try:
        await inside(
            world, user_context(given.user or "", db_session=session, fence=world.fence), given, _lend
        )  # fmt: skip
    except DrainingError:
        if not world.is_draining:
            raise


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


async def bad_luck(world: World, life: Life) -> None:
    """Somebody's task is cancelled: any, at any moment."""
    if world.runner.cancel_one(world.chance):
        world.tally["cancels"] += 1


OPERATIONS: tuple[Callable[[World, Life], Awaitable[None]], ...] = (
    only_wait, only_wait, only_wait, only_wait, nest, nest, query, query, query, remember, remember,
    own_objects, own_objects, clean_up_later, clean_up_later, enter, keep_data, together, together,
    leave_orphan, leave_orphan, bear, bear, bear, become, be_nobody, detach, stream, bind_callback,
    keep_scope, keep_scope, foreign_session, foreign_session, foreign_memory, foreign_memory,
    foreign_object, foreign_object, foreign_scope, foreign_callback, give_session, take_session,
    bad_luck, bad_luck, bad_luck,
)  # fmt: skip
