"""Logging: whose request a record was written in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..scope import RequestScope
from ..state import _get

__all__ = ["ContextFilter"]

NONE = "-"
FIELDS = ("request_id", "user_id", "tenant_id", "thread_id", "run_id", "operation_depth")
STATE = "scope_state"


class ContextFilter(logging.Filter):
    """
    Adds the facts of the scope that is open where a record is written.

    Lives as long as the handler or logger it is added to. The record gets `request_id`,
    `user_id`, `tenant_id`, `thread_id`, `run_id`, `operation_depth` and `scope_state`; each is
    `-` where there is none, so format them all with `%s`. Of work that has outlived its scope
    the `request_id` is left, and `scope_state` says `closed`::

        handler = logging.StreamHandler()
        handler.addFilter(ContextFilter())
        handler.setFormatter(logging.Formatter("%(request_id)s %(user_id)s %(message)s"))

    It drops no record and never raises. Names that a call gives itself, by `extra=`, are kept.
    With a `QueueHandler`, add it to that, not to what listens: the thread there has no scope.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Fill in the record; always true."""
        for name, value in _facts().items():
            if not hasattr(record, name):  # given by the call, or filled in where it was written
                setattr(record, name, value)
        return True


def _facts() -> Mapping[str, Any]:
    facts: dict[str, Any] = dict.fromkeys((*FIELDS, STATE), NONE)
    try:
        scope = _get()
        if scope is not None:
            _fill(facts, scope)
    except Exception:  # noqa: S110 - a log call must not fail for what it is decorated with
        pass
    return facts


def _fill(facts: dict[str, Any], scope: RequestScope) -> None:
    facts[STATE] = scope.state
    facts["request_id"] = scope.request_id
    if scope.has_user:
        context = scope.context
        for name in FIELDS:
            value = getattr(context, name)
            if value is not None:
                facts[name] = value
