"""
The picture of the example's page in the documentation, taken anew.

    python -m tests.browser.screenshot docs/agent-chat.png
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import expect

from examples.agent_chat import tools

from . import chromium
from .stage import ANN, REFUSED, rows, runs, say, staged

SIZE = {"width": 960, "height": 640}


async def take(target: Path, executable: str, colours: Literal["light", "dark"]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            chromium.launched(executable) as browser,
            staged(browser, Path(folder)) as stage,
        ):
            page = await stage.signed_in(ANN, color_scheme=colours, viewport=SIZE)
            stage.allowed.append(REFUSED)
            tools.PACE = 0.2
            for number, text in enumerate(("What did I note today?", "fail", "And tomorrow?"), 1):
                if number == 3:
                    tools.PACE = 2.0  # long enough to be seen at work
                await say(page, text)
                await expect(runs(page)).to_have_count(number)
                if number < 3:
                    await expect(page.locator("#runs .running")).to_have_count(0)
            await expect(rows(runs(page).first).and_(page.locator(".completed"))).to_have_count(2)
            await page.screenshot(path=target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take a picture of the example's page.")
    parser.add_argument("target", type=Path)
    parser.add_argument("--colours", choices=("light", "dark"), default="light")
    options = parser.parse_args()
    executable = chromium.path()
    if executable is None:
        sys.exit(chromium.MISSING)
    asyncio.run(take(options.target, executable, options.colours))


if __name__ == "__main__":
    main()
