"""The example, served to browsers by real uvicorn, and its two users in front of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, expect
from websockets.asyncio.client import connect

from examples.agent_chat import planner, sign_in
from examples.agent_chat.agent import Work
from examples.agent_chat.app import create_app
from examples.agent_chat.database import sqlite_url
from examples.agent_chat.serving import serve
from examples.agent_chat.tokens import bearer, issue
from examples.agent_chat.users import User, Users
from examples.agent_chat.wire import Answer, exchange, request
from ringfence.events import EventHub

from .cable import Cable, laid

expect.set_options(timeout=10_000)  # milliseconds: a busy machine takes its time

KEY = "a key of the tests, 32 bytes or more"
ANN = User("ann", "Ann", "ann's password")
BOB = User("bob", "Bob", "bob's password")
OF_THE_NETWORK = re.compile(r"WebSocket connection to '.+' failed|Failed to load resource: net::")
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (401|502)")
LAST = "the-last"


def is_end_of(run: str, event: dict[str, Any]) -> bool:
    return (event["run_id"], event["depth"], event["kind"]) == (run, 1, "agent_completed")


class Stage:
    """Lives as long as the block of `staged`. Notes what pages ask for, and complain of."""

    def __init__(self, browser: Browser, cable: Cable, server: int) -> None:
        self.cable = cable
        self.server = server
        self.address = f"http://127.0.0.1:{cable.port}/"
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.allowed: list[re.Pattern[str]] = []  # complaints that a test gives rise to
        self._browser = browser
        self._stack = contextlib.AsyncExitStack()

    async def window(self, **options: Any) -> Page:
        """A browser of somebody's own, as it were: it shares nothing with the others."""
        context = await self._browser.new_context(**options)
        self._stack.push_async_callback(context.close)
        context.set_default_timeout(5_000)
        context.on("request", self._write_down)
        context.on("console", self._listen)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        page = await context.new_page()
        await page.goto(self.address)
        return page

    async def signed_in(self, user: User, **options: Any) -> Page:
        page = await self.window(**options)
        await enter(page, user)
        return page

    @contextlib.asynccontextmanager
    async def told(self, user: User) -> AsyncIterator[list[dict[str, Any]]]:
        """What the server tells this user, by a client that is no page and never loses it."""
        documents: list[dict[str, Any]] = []
        token: Any = ["ringfence.bearer", issue(KEY, user.user_id)]
        async with connect(f"ws://127.0.0.1:{self.server}/events", subprotocols=token) as socket:
            ready = json.loads(await socket.recv())
            yield documents
            await self.chat(user, "the last", LAST)
            while not documents or not is_end_of(LAST, documents[-1]):
                documents.append(json.loads(await socket.recv()))
            assert ready["kind"] == "ready"
        documents[:] = [event for event in documents if event["run_id"] != LAST]

    async def chat(self, user: User, message: str, run: str) -> Answer:
        """Ask as a client that is no page."""
        said = {"message": message, "thread_id": "elsewhere", "run_id": run}
        token = issue(KEY, user.user_id)
        (answer,) = await exchange(self.server, request("POST", "/agent/chat", token, said))
        return answer

    def _write_down(self, request: Request) -> None:
        self.asked.append(request.url)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


async def fill_in(page: Page, user: User) -> None:
    await page.get_by_label("User").fill(user.user_id)
    await page.get_by_label("Password").fill(user.password)


async def enter(page: Page, user: User) -> None:
    await fill_in(page, user)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("status")).to_have_text("Connected")


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


def messages(page: Page) -> Locator:
    return page.get_by_role("log", name="Messages").get_by_role("listitem")


def runs(page: Page) -> Locator:
    return page.locator("#runs > li")


def rows(run: Locator) -> Locator:
    return run.locator(".node")


async def drawn(run: Locator) -> list[tuple[int, str, str, str]]:
    """The tree of one run, from above: depth on the page, name, what it is and how it fares."""
    found = await run.locator(".node").evaluate_all(
        """rows => rows.map(row => {
            let depth = 0;
            for (let at = row; !at.classList.contains("run"); at = at.parentElement)
                depth += at.tagName === "UL";
            const parts = ["b", ".what", ".how"].map(part => row.querySelector(part));
            return [depth, ...parts.map(part => part.textContent)];
        })"""
    )
    return [tuple(row) for row in found]


async def event_ids(page: Page) -> list[str]:
    """Of the events that arrived, without what the connection said of itself."""
    lines = page.locator("#events > li:not([data-kind=ready], [data-kind=resync])")
    return await lines.evaluate_all("lines => lines.map(line => line.dataset.id)")


@contextlib.asynccontextmanager
async def staged(
    browser: Browser,
    folder: Path,
    *users: User,
    hub: EventHub | None = None,
    work: Work = planner.work,
) -> AsyncIterator[Stage]:
    """Serve it to windows of this browser, and close them."""
    router = sign_in.router_of(Users(*users or (ANN, BOB)), KEY)
    app = create_app(sqlite_url(folder / "chat.db"), bearer(KEY), router, hub=hub, work=work)
    async with serve(app) as server, laid(server) as cable:
        stage = Stage(browser, cable, server)
        async with stage._stack:
            yield stage
    outside = [url for url in stage.asked if not url.startswith((stage.address, "data:,"))]
    assert not outside, outside
    complaints = [
        each for each in stage.complaints if not any(rule.search(each) for rule in stage.allowed)
    ]
    assert not complaints, complaints
