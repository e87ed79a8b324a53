"""Records say whose they are, where they are written, and nothing fails for it."""

from __future__ import annotations

import contextvars
import io
import logging
import logging.handlers
import queue
from collections.abc import Iterator

import pytest

from ringfence import child_context, current_scope, nobody, user_context
from ringfence.integrations import logging as module
from ringfence.integrations.logging import ContextFilter

FORMAT = (
    "%(request_id)s %(user_id)s %(tenant_id)s %(thread_id)s %(run_id)s %(operation_depth)s "
    "%(scope_state)s %(message)s"
)


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(ContextFilter())
    handler.setFormatter(logging.Formatter(FORMAT))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    yield logger, out
    handler.close()


async def test_a_user_s_record(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log
    async with user_context("alice-1", thread_id="t-1", run_id="r-1", tenant_id="acme") as ctx:
        logger.info("hello")
        async with child_context("look") as child:
            logger.info("hello")
    assert out.getvalue().splitlines() == [
        f"{ctx.request_id} alice-1 acme t-1 r-1 0 open hello",
        f"{child.request_id} alice-1 acme t-1 r-1 1 open hello",
    ]


async def test_nobody_and_nowhere(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log
    logger.info("hello")
    async with nobody() as scope:
        logger.info("hello")
    assert out.getvalue().splitlines() == [
        "- - - - - - - hello",
        f"{scope.request_id} - - - - - open hello",
    ]


async def test_what_outlived_its_scope_is_marked(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log
    async with user_context("alice-1", thread_id="t-1", run_id="r-1") as ctx:
        held = contextvars.copy_context()
        current_scope().callback(logger.info, "bye")
    held.run(logger.info, "late")
    assert out.getvalue().splitlines() == [
        f"{ctx.request_id} alice-1 - t-1 r-1 0 closing bye",
        f"{ctx.request_id} - - - - - closed late",
    ]


async def test_names_given_by_a_call_are_kept(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log
    async with user_context("alice-1"):
        logger.info("hello", extra={"user_id": "given"})
    assert " given - " in out.getvalue()


async def test_a_queue_s_listener_does_not_overwrite() -> None:
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(records)  # type: ignore[arg-type]
    handler.addFilter(ContextFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    async with user_context("alice-1"):
        logger.info("hello")
    record = records.get()
    assert ContextFilter().filter(record)
    assert record.user_id == "alice-1"  # type: ignore[attr-defined]


async def test_it_never_raises(
    log: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError

    logger, out = log
    monkeypatch.setattr(module, "_fill", broken)
    async with user_context("alice-1"):
        logger.info("hello")
    assert out.getvalue() == "- - - - - - - hello\n"
