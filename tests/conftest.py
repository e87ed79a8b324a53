"""Every neutral test runs on each event loop; whatever a test leaves open fails it."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest
from anyio import pytest_plugin

from ringfence import clear_shared_object_registry, closing, counters
from ringfence.errors import ConfigurationError
from ringfence.isolation import registry
from ringfence.state import open_roots
from ringfence.testing.postgres import PostgresServer, postgres_server
from ringfence.testing.valkey import ValkeyServer, valkey_server

S = TypeVar("S")
BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if importlib.util.find_spec("uvloop") is not None:
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))
if sys.version_info >= (3, 12):
    import asyncio

    def _eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    BACKENDS.append(pytest.param(("asyncio", {"loop_factory": _eager_loop}), id="eager"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _no_event_loop_of_another_module() -> None:
    """While a fixture keeps one, anyio's plugin runs all tests on it, whichever they ask for."""
    assert pytest_plugin._current_runner is None, "a fixture of another module keeps a loop"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test may leave a scope open or an object registered."""
    before = set(open_roots())
    counters.reset()
    yield
    clear_shared_object_registry()
    left = [scope for scope in open_roots() if scope not in before]
    for scope in left:  # so that only the guilty test fails
        closing.release(scope)
        scope._end(None, 0)
    if len(registry):
        gc.collect()
    entries = len(registry)
    registry.clear()
    assert not left, f"left open: {left}"
    assert not entries, f"{entries} objects left in the registry"


@contextlib.contextmanager
def _or_skip(server: AbstractContextManager[S]) -> Iterator[S]:
    """A real server; where there is none to be had its tests are skipped, but not in CI."""
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(server)
        except ConfigurationError as error:
            if os.environ.get("CI"):
                raise  # there it is required
            pytest.skip(str(error))
        yield started


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests."""
    with _or_skip(postgres_server()) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One for all tests."""
    with _or_skip(valkey_server()) as server:
        yield server
