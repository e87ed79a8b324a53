"""
One real browser for all tests of a module; where there is none, they are skipped.

Not for the session: anyio's plugin keeps the event loop of such a fixture until the end, and would
run all tests after it on that, whichever loop they ask for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # playwright's and uvicorn's


@pytest.fixture(scope="module")
def executable() -> str:
    from .chromium import path_or_skip

    return path_or_skip()


@pytest.fixture(scope="module")
async def browser(executable: str, anyio_backend: str) -> AsyncIterator[object]:
    from .chromium import launched

    async with launched(executable) as browser:
        yield browser
