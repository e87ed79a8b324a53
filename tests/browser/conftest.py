"""One real browser for all tests of this folder; where there is none, they are skipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"  # playwright's and uvicorn's


@pytest.fixture(scope="session")
def executable() -> str:
    chromium = pytest.importorskip("tests.browser.chromium")
    found = chromium.path()
    if found is None and os.environ.get("CI"):
        pytest.fail(chromium.MISSING)  # there it is required
    if found is None:
        pytest.skip(chromium.MISSING)
    return found


@pytest.fixture(scope="session")
async def browser(executable: str, anyio_backend: str) -> AsyncIterator[object]:
    from .chromium import launched

    async with launched(executable) as browser:
        yield browser
