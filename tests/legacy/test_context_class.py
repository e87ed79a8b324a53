"""A fence whose scopes make legacy contexts, for code that asks for one below the middleware."""

from __future__ import annotations

import pytest

import ringfence
from ringfence import (
    ConfigurationError,
    Identity,
    Ringfence,
    Settings,
    child_context,
    current_context,
)
from ringfence.current import root_of
from ringfence.legacy import UserExecutionContext

from .words import quietly


@quietly
async def test_scopes_opened_by_ids_have_legacy_contexts_all_the_way_down() -> None:
    fence = Ringfence(settings=Settings(context_class=UserExecutionContext))
    async with fence.user_context("u-17") as ctx:
        async with child_context("triage") as child:
            for one in (ctx, child):
                assert type(one) is UserExecutionContext
                one.metadata["score"] = 1
                assert one.agent_context["score"] == 1


async def test_so_have_those_of_a_boundary() -> None:
    fence = Ringfence(settings=Settings(context_class=UserExecutionContext))
    async with root_of(Identity("u-17"), fence, None):
        assert type(current_context()) is UserExecutionContext


async def test_others_have_ringfence_s_own() -> None:
    async with Ringfence().user_context("u-17") as ctx:
        assert type(ctx) is ringfence.UserExecutionContext


class WithFields(ringfence.UserExecutionContext):
    extra: int


@pytest.mark.parametrize("cls", [dict, WithFields])
def test_a_class_that_could_not_be_filled_is_refused(cls: type) -> None:
    with pytest.raises(ConfigurationError, match="`context_class` must be"):
        Ringfence(settings=Settings(context_class=cls))
