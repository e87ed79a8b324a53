"""`strict` and `warning` refuse and log the same; one environment variable switches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

OURS, OLD = "RINGFENCE_VALIDATION", "USEREXECUTIONCONTEXT_MIGRATION_MODE"

SCENARIO = '''
"""A service in small; prints each refusal, raised or logged, as field, value and rule."""
import json, logging, warnings
from ringfence import InvalidContextError, user_context
from ringfence.legacy import UserExecutionContext

warnings.simplefilter("ignore", DeprecationWarning)
log, served = [], 0

class Log(logging.Handler):
    def emit(self, record):
        field, _, rule, value = record.args
        log.append((field, repr(value), rule))

logging.getLogger("ringfence.identifiers").addHandler(Log())
logging.getLogger("ringfence.identifiers").propagate = False

VALUES = [
    "placeholder", "DEFAULT", "anonymous", "todo", "0", "none", "test_user", "temp-1", "Mock.x",
    "demo:7", "test \\u00fc", "two words", "\\u0430lice", "alice ", "u/\\u00e9", "\\u200balice", "",
    "  ", "x" * 129, "line\\nbreak", "alice-1", "u" * 20, "test_" + "x" * 20,
]
ID = {"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1"}
OPENERS = [
    lambda ids: UserExecutionContext(**ids),
    lambda ids: UserExecutionContext.from_request(**ids),
    lambda ids: UserExecutionContext.from_supervisor_style_request(**ids),
    lambda ids: user_context(**ids),
]
OPTIONAL = [
    lambda v: UserExecutionContext(**ID, websocket_connection_id=v),
    lambda v: UserExecutionContext(**ID, metadata={"parent_request_id": v}),
    lambda v: UserExecutionContext(**ID).with_websocket_connection_supervisor(v),
]

def attempt(call, value):
    global served
    try:
        call(value)
        served += 1
    except InvalidContextError as error:
        log.append((error.field, repr(value), error.rule))

for value in [*VALUES, 17, None]:
    for opener in OPENERS:
        for field in ID:
            if value is not None or opener is not OPENERS[3]:
                attempt(lambda v: opener({**ID, field: v}), value)
    for call in OPTIONAL[: 2 if value is None else 3]:
        attempt(call, value)
print(json.dumps([log, served]))
'''


def _run(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in (OURS, OLD)}
    return subprocess.run(
        [sys.executable, "-c", SCENARIO], env=clean | environ, capture_output=True, text=True,
        timeout=50, check=False,
    )  # fmt: skip


def _log(environ: dict[str, str]) -> tuple[list[Any], int]:
    done = _run(environ)
    assert done.returncode == 0, done.stderr
    log, served = json.loads(done.stdout)
    return log, served


@pytest.mark.parametrize("variable", [OURS, OLD])
def test_the_same_run_gives_the_same_log_of_refusals(variable: str) -> None:
    strict, served_by_strict = _log({variable: "strict"})
    warning, served_by_warning = _log({variable: "warning"})
    assert warning == strict
    assert {rule for _, _, rule in strict} == {
        "placeholder", "prefix", "characters", "blank", "length", "type",
    }  # fmt: skip
    assert len(strict) > 200
    assert served_by_warning > served_by_strict  # it went on where strict did not


def test_strict_is_the_default() -> None:
    assert _log({}) == _log({OURS: "strict"})


@pytest.mark.parametrize("variable", [OURS, OLD])
@pytest.mark.parametrize("mode", ["lenient", "off", "warn", ""])
def test_an_unknown_mode_is_an_error(variable: str, mode: str) -> None:
    done = _run({variable: mode})
    assert done.returncode == 1
    assert "ConfigurationError: `validation` must be `strict` or `warning`" in done.stderr
