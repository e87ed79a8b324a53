"""Data: copies, which nobody else sees change, and facts, which nobody changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from ringfence import (
    ContextIsolationError,
    RingfenceError,
    SessionIsolationError,
    SharedObjectError,
    UserExecutionContext,
    child_context,
    current_context,
    current_scope,
    register_shared_object,
    user_context,
)

from .blocks import inside
from .foreign import GivenSession
from .oracle import Life, World
from .own import only_wait

__all__ = ["OPERATIONS", "SHARED"]

SHARED: dict[str, str] = {"cache": "of the process"}


async def keep_data(world: World, life: Life) -> None:
    """A child's data are copies: what it adds is seen by nobody else."""
    if life.user is None:
        return
    context = current_context()
    before = str(context.agent_context)
    async with child_context("data", agent_context={"added": [life.user]}) as child:
        child.agent_context.setdefault("seen", {})["by"] = [life.user, "child"]
        child.agent_context.setdefault("of", [[]])[0].append("child")
        await world.pause()
    if str(context.agent_context) != before or "user-of" in before.replace(life.user, ""):
        world.violation(f"the data of {life.user} are {context.agent_context}, not {before}")


async def read_claims(world: World, life: Life) -> None:
    """Claims are the whole tree's, and nobody's to change."""
    claims = current_scope().claims
    if claims.get("of", [life.user])[0] != life.user:
        world.violation(f"{life.user} has the claims {claims}")
    for change in (
        lambda: claims.__setitem__("of", ["changed"]),  # type: ignore[attr-defined]
        lambda: claims["of"].append("changed"),
    ):
        try:
            change()
        except (AttributeError, KeyError, TypeError):
            continue
        world.violation("claims were changed")


async def enter_value(world: World, life: Life) -> None:
    """A context that was made by hand keeps its data to itself when it is entered."""
    if life.user is None:
        return
    other = Life(life.user)
    value = UserExecutionContext.from_request(
        life.user, f"thread-of-{life.user}", f"run-of-{life.user}", agent_context={"of": [[1]]}
    )

    async def body(world: World, life: Life) -> None:
        entered = current_context()
        entered.agent_context["of"][0].append(2)
        entered.verify_isolation()
        world.keep("data", entered.agent_context["of"], life)
        await only_wait(world, life)

    await world.root(inside(world, user_context(value, fence=world.fence), other, body))
    if value.agent_context != {"of": [[1]]}:
        world.violation(f"a value shares its data with its scope: {value.agent_context}")


async def change_facts(world: World, life: Life) -> None:
    """Facts cannot be assigned, set as a state or sent away unsigned."""
    if life.user is None:
        return
    context: Any = current_context()
    for change in (
        lambda: setattr(context, "user_id", "changed"),
        lambda: context.__setstate__({"user_id": "changed"}),
        lambda: pickle.dumps(copy.copy(context)),
    ):
        try:
            change()
        except (AttributeError, TypeError, RingfenceError):
            continue
        world.violation("facts were changed, or left unsigned")
    world.reads(life)


async def share(world: World, life: Life) -> None:
    """What is the process's may be in nobody's data; a session of one is in no other's context."""
    if life.user is None:
        return
    register_shared_object(SHARED)
    try:
        async with child_context("shared", agent_context={"deep": {"in": SHARED}}):
            world.violation("a shared object is in a context's data")
    except SharedObjectError:
        world.tally["refused: shared object"] += 1


async def verify(world: World, life: Life) -> None:
    """The session of an open root is found in another's context."""
    found = world.found("given", life)
    if found is None or found[1].root.is_ending or life.user is None:
        return
    session: GivenSession = found[0]
    value = UserExecutionContext.from_request(
        life.user, f"thread-of-{life.user}", f"run-of-{life.user}", db_session=session
    )
    try:
        value.verify_isolation()
    except SessionIsolationError as error:
        world.must_refuse("session of another's context", found[1], error)
    else:
        world.must_refuse("session of another's context", found[1], None)


async def verify_data(world: World, life: Life) -> None:
    """A list out of an open root's data is found in another's."""
    found = world.found("data", life)
    if found is None or found[1].root.is_ending or life.user is None:
        return
    value = UserExecutionContext.from_request(
        life.user, f"thread-of-{life.user}", f"run-of-{life.user}", agent_context={"own": [1]}
    )
    value.agent_context["taken"] = found[0]
    try:
        value.verify_isolation()
    except ContextIsolationError as error:
        world.must_refuse("data of another's context", found[1], error)
    else:
        world.must_refuse("data of another's context", found[1], None)


OPERATIONS = (keep_data, read_claims, enter_value, change_facts, share, verify, verify_data)
