"""One real browser for all tests of this folder; where there is none, they are skipped."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"  # playwright's and uvicorn's


@pytest.fixture(scope="session")
def executable() -> str:
    from .chromium import path_or_skip

    return path_or_skip()


@pytest.fixture(scope="session")
async def browser(executable: str, anyio_backend: str) -> AsyncIterator[object]:
    from .chromium import launched

    async with launched(executable) as browser:
        yield browser
