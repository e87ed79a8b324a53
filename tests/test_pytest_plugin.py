"""The fixture `override`: for one test, whoever runs it, and not for the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parents[1]

TESTS = """
import asyncio
import pytest
from ringfence import MissingProviderError, Ringfence, current_scope
from ringfence.injection import Container

{mark}

class Mailer: ...
class Outbox(Mailer): ...
class Shop:
    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer

container = Container()
container.provide(Mailer)
container.provide(Shop)
fence = Ringfence(services=container)

async def used() -> type:
    async with fence.user_context("ann"):
        return type((await current_scope().get(Shop)).mailer)

{fixture}
async def runner():  # so that all tests run in one task, or one loop, by what runs them
    yield

async def test_before(runner):
    assert await used() is Mailer

async def test_for_one_test(runner, override):
    outbox = override(container, Mailer, Outbox())
    assert type(outbox) is Outbox
    assert await used() is Outbox
    assert await asyncio.create_task(used()) is Outbox
    override(container, Mailer, Mailer())
    assert await used() is Mailer

async def test_not_for_the_next(runner, override):
    assert await used() is Mailer
    override(container, Mailer, Outbox())
    assert await used() is Outbox

async def test_nor_for_the_last(runner):
    assert await used() is Mailer

def test_that_is_not_async(override):
    override(container, Mailer, Outbox())
    assert asyncio.run(used()) is Outbox

def test_after_it():
    assert asyncio.run(used()) is Mailer

def test_what_nobody_provides(override):
    with pytest.raises(MissingProviderError):
        override(container, int, 3)
"""
RUNNERS = {
    "anyio": (
        "pytestmark = pytest.mark.anyio\n\n@pytest.fixture(scope='module')\n"
        "def anyio_backend():\n    return 'asyncio'\n",
        "@pytest.fixture(scope='module')",
        ("-p", "no:asyncio"),
    ),
    "pytest-asyncio": (
        "import pytest_asyncio\n",
        "@pytest_asyncio.fixture(scope='module', loop_scope='module')",
        (
            "-o",
            "asyncio_mode=auto",
            "-o",
            "asyncio_default_test_loop_scope=module",
            "-o",
            "asyncio_default_fixture_loop_scope=module",
        ),
    ),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_it_holds_for_one_test(tmp_path: Path, runner: str) -> None:
    mark, fixture, options = RUNNERS[runner]
    (tmp_path / "test_it.py").write_text(TESTS.format(mark=mark, fixture=fixture))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "ringfence.pytest_plugin",
         "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), *options,
         "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
