"""
Test processes that are forked from one which has imported everything but ringfence.

Starting pytest and importing the partners takes longer than most tests of one mutant.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

PARTNERS = """
    pytest _pytest.assertion.rewrite anyio.pytest_plugin hypothesis.strategies trio uvloop uvicorn
    sqlalchemy.ext.asyncio sqlalchemy.orm aiosqlite asyncpg psycopg sqlmodel fastapi
    starlette.testclient starlette.websockets httpx2 websockets.asyncio.client joserfc.jwt
    redis.asyncio
    """.split()

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PARTNERS)


def start(source: Path, root: Path, tests: tuple[str, ...], output: str) -> BaseProcess:
    """Run pytest against the library in `source`, in a process group of its own."""
    process = _context.Process(target=_run, args=(str(source), str(root), tests, output))
    process.start()
    return process


def _run(source: str, root: str, tests: tuple[str, ...], output: str) -> None:
    if "ringfence" in sys.modules:
        raise RuntimeError("a library that is imported already cannot be broken")
    os.setsid()
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(root)
    sys.path[:0] = [source, root]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}  # for servers they start

    import pytest

    # Imported before pytest could rewrite their asserts; they have none that a test needs.
    quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *quiet, *tests])
    sys.stdout.flush()
    os._exit(int(code))
