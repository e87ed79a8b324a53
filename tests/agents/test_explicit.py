"""`check_explicit`: what a framework says of whose work it is, against the scope that is open."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from ringfence import (
    ContextClosedError,
    ContextMismatchError,
    Identity,
    NoContextError,
    UserExecutionContext,
    bind,
    child_context,
    current_context,
    nobody,
    user_context,
)
from ringfence.agents import check_explicit


def context(user: str, tenant: str | None = "t-1") -> UserExecutionContext:
    return UserExecutionContext(user, "thread-1", "run-1", tenant_id=tenant)


SAME = [
    context("ann"),
    Identity("ann", tenant_id="t-1"),
    SimpleNamespace(user_id="ann"),
    SimpleNamespace(user_id="ann", tenant_id="t-1"),
    {"user_id": "ann"},
    {"user_id": "ann", "tenant_id": "t-1"},
]
NOTHING_SAID = [None, object(), {}, SimpleNamespace(user_id=None), {"tenant_id": "t-2"}, "bob"]
OTHERS = [
    context("bob"),
    context("ann", None),
    context("ann", "t-2"),
    Identity("ann"),
    Identity("bob", tenant_id="t-1"),
    SimpleNamespace(user_id="bob"),
    SimpleNamespace(user_id="ann", tenant_id="t-2"),
    {"user_id": "bob"},
    {"user_id": "ann", "tenant_id": None},
    {"user_id": ""},
    {"user_id": 17},
]


@pytest.mark.parametrize("given", [*SAME, *NOTHING_SAID])
async def test_the_same_user_or_none(given: Any) -> None:
    async with user_context("ann", tenant_id="t-1"):
        assert check_explicit(given) is current_context()
        async with child_context("deeper"):
            assert check_explicit(given) is current_context()


@pytest.mark.parametrize("given", OTHERS)
async def test_another_user(given: Any) -> None:
    async with user_context("ann", tenant_id="t-1") as ctx:
        with pytest.raises(ContextMismatchError) as caught:
            check_explicit(given)
        assert caught.value.request_id == ctx.request_id
        assert "bob" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"user_id": 17},
        SimpleNamespace(user_id=uuid.UUID(int=17)),
        SimpleNamespace(user_id="17", tenant_id=3),
    ],
    ids=["number", "uuid", "tenant"],
)
async def test_an_id_that_is_no_text_is_refused_with_the_reason(given: Any) -> None:
    """Applications number their users: that it is another type has to be said."""
    async with user_context("17", tenant_id="3"):
        with pytest.raises(ContextMismatchError, match=r"is no text.*`str\(user.id\)`"):
            check_explicit(given)


async def test_where_nobody_is_current() -> None:
    with pytest.raises(NoContextError):
        check_explicit(context("ann"))
    async with nobody():
        with pytest.raises(NoContextError):
            check_explicit(context("ann"))
    async with user_context("ann"):
        late = bind(lambda: check_explicit(None))
    with pytest.raises(ContextClosedError):
        late()
