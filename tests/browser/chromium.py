"""The system's own Chromium: none is downloaded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "There is no Chromium here: `apt-get install chromium`."


def path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def path_or_skip() -> str:
    """Where there is none, its tests are skipped, but not in CI."""
    found = path()
    if found is None and os.environ.get("CI"):
        pytest.fail(MISSING)  # there it is required
    if found is None:
        pytest.skip(MISSING)
    return found


@contextlib.asynccontextmanager
async def launched(executable: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable,
            chromium_sandbox=os.getuid() != 0,  # root has none
        )
        try:
            yield browser
        finally:
            await browser.close()
