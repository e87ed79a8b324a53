"""Roots at a boundary: their context is made when it is first read, and is like any other."""

from __future__ import annotations

import contextvars
import datetime as dt
import logging
import threading
import time
from typing import Any

import attrs
import pytest

from ringfence import (
    ContextClosedError,
    Identity,
    InvalidContextError,
    RequestScope,
    Ringfence,
    Settings,
    UserExecutionContext,
    child_context,
    context,
    current_context,
    current_context_or_none,
    current_scope,
    identifiers,
    user_context,
)
from ringfence.current import root_of
from ringfence.integrations.asgi import UserContextMiddleware
from ringfence.state import _current

from .integrations.asgi_driver import ok, respond

CODE = root_of.__code__
NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
ANN = Identity("ann-1", "acme", expires_at=NOON, claims={"roles": ["admin"]})


def _opened(identity: Identity = ANN, fence: Ringfence | None = None) -> RequestScope:
    root = root_of(identity, fence or Ringfence(), "client-1")
    root._open_unread(CODE)
    return root


async def test_it_is_the_context_that_user_context_would_have_given() -> None:
    root = _opened()
    late = current_context()
    assert current_scope() is root
    assert (root.claims["roles"], root.has_user) == (("admin",), True)
    async with user_context(
        ANN, late.thread_id, late.run_id, late.request_id, client_request_id="client-1"
    ) as ctx:
        for field in attrs.fields(UserExecutionContext):
            if field.name not in ("_created", "_scope"):
                assert getattr(late, field.name) == getattr(ctx, field.name)
        assert type(late) is type(ctx)
    async with child_context("tool") as child:
        assert (child.user_id, child.thread_id) == (late.user_id, late.thread_id)
    await root._close(None, CODE)


async def test_each_reader_gets_the_same() -> None:
    root = _opened()
    late = current_context()
    assert late is current_context() is current_context_or_none() is root.context
    await root._close(None, CODE)


def test_it_was_created_when_the_request_began() -> None:
    root = _opened()
    time.sleep(0.02)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=0.01)
    assert current_context().created_at < before
    root._end(CODE, 0)


async def test_a_request_that_nobody_asks_about_makes_none() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_scope().has_user
        assert current_scope()._context is None
        await respond(send)

    await ok(UserContextMiddleware(app, fence=Ringfence(), identify=lambda _: ANN))


@pytest.mark.parametrize("is_read", [False, True])
async def test_closed_is_closed(is_read: bool) -> None:
    root = _opened()
    held = contextvars.copy_context()
    if is_read:
        current_context()
    root._end(CODE, 0)
    for read in (current_context, current_scope):
        with pytest.raises(ContextClosedError, match="ended at .* in root_of"):
            held.run(read)
    assert held.run(current_context_or_none) is None
    assert not root.has_user
    assert _current.get() is None


def test_one_that_ends_while_it_is_first_read_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thread may find it, that a request left behind."""
    root = _opened()
    make = context._root_context

    def slowly(*facts: Any) -> UserExecutionContext:
        root._end(CODE, 0)
        return make(*facts)

    monkeypatch.setattr(context, "_root_context", slowly)
    for _ in range(2):
        with pytest.raises(ContextClosedError):
            root.context  # noqa: B018
        assert root._context is None


def test_threads_that_read_it_first_at_once_get_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, read = _opened(), []
    make, all_have_made_one = context._root_context, threading.Barrier(4)

    def together(*facts: Any) -> UserExecutionContext:
        made = make(*facts)
        all_have_made_one.wait(10)
        return made

    monkeypatch.setattr(context, "_root_context", together)
    threads = [threading.Thread(target=lambda: read.append(root.context)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    root._end(CODE, 0)
    assert len(read) == 4
    assert all(each is read[0] for each in read)


def test_what_the_collector_calls_while_it_is_made_may_read_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log record, mostly: it would wait for ever for the thread that it runs in."""
    root, seen = _opened(), []
    make = context._root_context

    def interrupted(*facts: Any) -> UserExecutionContext:
        monkeypatch.setattr(context, "_root_context", make)
        seen.append(root.context)
        return make(*facts)

    monkeypatch.setattr(context, "_root_context", interrupted)
    thread = threading.Thread(target=lambda: seen.append(root.context), daemon=True)
    thread.start()
    thread.join(10)
    root._end(CODE, 0)
    assert len(seen) == 2, "it waits for ever"
    assert seen[0] is seen[1]


async def test_a_time_is_kept_as_user_context_keeps_it() -> None:
    far = dt.timezone(dt.timedelta(hours=2))
    root = _opened(Identity("ann-1", expires_at=NOON.astimezone(far)))
    expires_at = current_context().expires_at
    assert expires_at is not None
    assert (expires_at, expires_at.utcoffset()) == (NOON, dt.timedelta(0))
    await root._close(None, CODE)
    late = dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=5)))
    with pytest.raises(InvalidContextError):
        root_of(Identity("ann-1", expires_at=late), Ringfence(), None)


async def test_or_none_gives_none_when_it_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    root = _opened()
    make = context._root_context

    def slowly(*facts: Any) -> UserExecutionContext:
        root._end(CODE, 0)
        return make(*facts)

    monkeypatch.setattr(context, "_root_context", slowly)
    assert current_context_or_none() is None


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        (Identity("nul\0byte"), "user_id"),
        (Identity("placeholder"), "user_id"),
        (Identity(17), "user_id"),  # type: ignore[arg-type]
        (Identity([]), "user_id"),  # type: ignore[arg-type]
        (Identity("ann-1", "a b"), "tenant_id"),
        (Identity("ann-1", expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)), "expires_at"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_a_context_must_not_hold_is_refused_at_once(identity: Identity, field: str) -> None:
    for _ in range(2):  # no error is learned
        with pytest.raises(InvalidContextError) as caught:
            root_of(identity, Ringfence(), None)
        assert caught.value.field == field


def test_what_is_warned_of_is_warned_of_each_time(caplog: pytest.LogCaptureFixture) -> None:
    fence = Ringfence(settings=Settings(validation="warning"))
    for _ in range(2):
        root_of(Identity("placeholder"), fence, None)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2


def test_the_ids_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "_MAX_KNOWN", 10)
    fence = Ringfence(settings=Settings())
    for number in range(25):
        root_of(Identity(f"user-{number}"), fence, None)
    assert 0 < len(fence.settings.id_rules.known) <= 10
