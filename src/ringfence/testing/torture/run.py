"""A whole run: a server after the other, and the report."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...errors import ConfigurationError
from .canaries import Canaries
from .driver import Driver, Limits
from .report import Report
from .scenario import Scenario, load_scenario
from .server import default_servers, served
from .workload import ATTACKS, Workload

__all__ = ["torture"]


def torture(
    app: Any,
    scenario: Any,
    *,
    users: int = 20,
    requests: int = 1000,
    seed: int | None = None,
    only: Collection[str] = (),
    servers: Collection[str] = (),
    server_options: Mapping[str, Any] | None = None,
    connections: int = 16,
    timeout: float = 10.0,
    grace: float = 5.0,
    time_limit: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """
    Try to mix up the users of an ASGI application, and report what was mixed up.

    Starts a real uvicorn and stops it. In pytest::

        def test_nobody_sees_anothers_data():
            torture("app:app", "tests.torture:scenario", users=50).assert_clean()

    From async code, run it in a thread: it brings an event loop of its own.

    Args:
        app: `module:name`, served in a process of its own; or the application itself, served in
            a thread of this process.
        scenario: an object, a class or a module with `login` and `requests`, or where it is:
            `module:name` or `file.py:name`.
        users, requests: how many of each; the requests are divided among the servers.
        seed: of all random choices; drawn and reported if not given.
        only: these attacks alone, out of the same plan.
        servers: keys of `SERVERS`; if none is given, asyncio with h11, and uvloop with httptools
            where they are installed.
        server_options: of `uvicorn.Config`; `factory` if `app` names a function that makes it.
        connections: at once.
        timeout: seconds for an answer.
        grace: seconds for what outlives its request to end.
        time_limit: seconds for each server.
        progress: called with how many requests are done, of how many.

    Raises:
        ConfigurationError: the application does not start, the scenario is not right, or it
            cannot find anything.
    """
    _check(users, requests, only)
    _check_limits(connections, timeout, grace, time_limit)
    _refuse_running_loop()
    names = list(servers) or default_servers()
    canaries = Canaries(secrets.randbelow(10**6) if seed is None else seed, users)
    where = scenario if isinstance(scenario, str) else f"<{_name(scenario)}>"
    wrapped = Scenario(load_scenario(scenario) if isinstance(scenario, str) else scenario)
    report = Report(
        app=app if isinstance(app, str) else f"<{_name(app)}>",
        scenario=where,
        users=users,
        requests=requests,
        seed=canaries.seed,
        only=tuple(sorted(only)),
        options=_options(server_options or {}, connections, timeout, grace),
    )
    limits = Limits(min(connections, requests), timeout, grace, time_limit)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, requests)

    began = time.monotonic()
    for name in names:
        with served(app, name, server_options or {}, canaries) as server:
            driver = Driver(name, server, Workload(wrapped, canaries), report, limits, advance)
            asyncio.run(driver.run(max(1, requests // len(names))))
    report.seconds = time.monotonic() - began
    _say_what_was_not_tried(report, wrapped)
    return report


def _options(
    server_options: Mapping[str, Any], connections: int, timeout: float, grace: float
) -> tuple[str, ...]:
    """What a replay must say besides users, requests and seed."""
    words = [
        word
        for name, value in server_options.items()
        for word in ("--server-option", f"{name}={_written(value)}")
    ]
    usual = Limits()
    for name, given, default in (
        ("--connections", connections, usual.connections),
        ("--timeout", timeout, usual.answer),
        ("--grace", grace, usual.grace),
    ):
        words += [name, f"{given:g}"] if given != default else []
    return tuple(words)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check(users: int, requests: int, only: Collection[str]) -> None:
    if not 2 <= users < 10**6 or requests < 1:
        raise ConfigurationError(
            f"{users} users and {requests} requests cannot be mixed up.",
            "It takes two users, less than a million, and a request.",
        )
    unknown = set(only) - set(ATTACKS)
    if unknown:
        raise ConfigurationError(
            f"There is no attack `{min(unknown)}`.",
            "There are " + ", ".join(f"`{name}`" for name in ATTACKS) + ".",
        )


def _check_limits(connections: int, timeout: float, grace: float, time_limit: float) -> None:
    if connections < 1 or not (timeout > 0 and grace >= 0 and time_limit > 0):
        raise ConfigurationError(
            f"Nothing can be asked over {connections} connections, within {timeout:g} s for an "
            f"answer, {grace:g} s of grace and {time_limit:g} s for each server.",
            "It takes a connection, and seconds; only the grace may be 0.",
        )


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError(
        "`torture` brings an event loop of its own, and cannot run in another.",
        "Call it from a plain function, or in a thread: `await anyio.to_thread.run_sync(...)`.",
    )


def _name(given: Any) -> str:
    return getattr(given, "__name__", None) or type(given).__name__


def _say_what_was_not_tried(report: Report, scenario: Scenario) -> None:
    if not scenario.has_rows:
        report.not_observed.append("rows: the scenario has no `rows()`")
    if not scenario.asks_as_nobody:
        report.not_observed.append("requests by nobody: the scenario says `anonymous = False`")
    big_bodies = report.done.get("big_body")
    if cut := big_bodies and big_bodies.get("cut"):
        report.not_observed.append(
            f"big_body: {cut} answers were cut off, as they are where a body is refused unread"
        )
    for attack in ATTACKS:
        if attack not in report.done and (not report.only or attack in report.only):
            report.not_observed.append(f"{attack}: {_WHY.get(attack, 'too few requests')}")


_WHY = {
    "websocket": "the scenario has no `WebSocket`, or too few requests",
    "big_body": "the scenario has no body that is JSON or big, or too few requests",
}
