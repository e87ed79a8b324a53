"""The example's page in a real browser: two users side by side, and connections that are lost."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from playwright.async_api import Browser, Error, Route, WebSocket, expect

from examples.agent_chat.users import User
from ringfence.events import EventHub, MemoryLog

from .stage import (
    ANN,
    BOB,
    OF_THE_NETWORK,
    REFUSED,
    Stage,
    drawn,
    enter,
    event_ids,
    fill_in,
    messages,
    rows,
    runs,
    say,
    staged,
)

TREE = [
    (1, "planner", "agent", "completed"),
    (2, "count_words", "tool", "completed"),
    (2, "quote", "tool", "completed"),
    (2, "reader", "agent", "completed"),
    (3, "find_longest", "tool", "completed"),
]
OF_PYDANTIC_AI = [
    TREE[0],
    (2, "assistant", "agent", "completed"),
    (3, "count_words", "tool", "completed"),
    (3, "quote", "tool", "completed"),
    (3, "ask_reader", "tool", "completed"),
    (4, "reader", "agent", "completed"),
    (5, "find_longest", "tool", "completed"),
]


@pytest.fixture
async def stage(browser: Browser, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(browser, tmp_path) as stage:
        yield stage


@pytest.mark.parametrize(("agent", "tree"), [("planner", TREE), ("pydantic_agent", OF_PYDANTIC_AI)])
async def test_two_users_at_once_see_their_own_and_nothing_else(
    browser: Browser, tmp_path: Path, agent: str, tree: list[Any]
) -> None:
    if agent == "pydantic_agent":
        pytest.importorskip("pydantic_ai")
    work = importlib.import_module(f"examples.agent_chat.{agent}").work
    async with staged(browser, tmp_path, work=work) as stage:
        await chat_side_by_side(stage, tree)


async def chat_side_by_side(stage: Stage, tree: list[Any]) -> None:
    ann, bob = await asyncio.gather(stage.signed_in(ANN), stage.signed_in(BOB))
    for turn in (1, 2):
        await asyncio.gather(say(ann, f"anns thought {turn}"), say(bob, f"bobs thought {turn}"))
        for page in (ann, bob):
            await expect(runs(page)).to_have_count(turn)
            await expect(rows(page.locator("#runs")).locator(".how")).to_have_text(
                ["completed"] * len(tree) * turn
            )
    for page, own, other in ((ann, "ann", "bob"), (bob, "bob", "ann")):
        await expect(messages(page)).to_have_count(2)
        await expect(messages(page).nth(1)).to_contain_text(
            f"{own}s thought 2" + f'3 words; the longest is “thought”. "{own}s thought 2"'
        )
        assert [await drawn(runs(page).nth(n)) for n in (0, 1)] == [tree, tree]
        text = await page.locator("body").text_content()
        assert f"{own}s thought" in (text or "")
        assert f"{other}s thought" not in (text or "")
    assert not set(await event_ids(ann)) & set(await event_ids(bob))


# --- connections that are lost ----------------------------------------------------------------


async def test_what_was_missed_comes_once_and_in_order_after_dropping_it(stage: Stage) -> None:
    ann, bob = await asyncio.gather(stage.signed_in(ANN), stage.signed_in(BOB))
    async with stage.told(ANN) as told:
        await say(ann, "before")
        await expect(rows(runs(ann).first).locator(".how")).to_have_text(["completed"] * 5)
        await ann.get_by_role("button", name="Drop connection").click()
        await expect(ann.get_by_role("status")).to_contain_text("events are missed")
        seen = await event_ids(ann)
        await asyncio.gather(say(ann, "meanwhile"), say(bob, "bob goes on"))
        await expect(messages(ann).last).to_contain_text("1 words; the longest is “meanwhile”")
        await expect(rows(runs(bob).first).locator(".how")).to_have_text(["completed"] * 5)
        assert await event_ids(ann) == seen
        await expect(runs(ann)).to_have_count(1)
        await ann.get_by_role("button", name="Connect again").click()
        await expect(runs(ann)).to_have_count(2)
        await expect(rows(runs(ann).first).locator(".how")).to_have_text(["completed"] * 5)
        await expect(ann.get_by_role("status")).to_contain_text("Connected again")
        assert await drawn(runs(ann).first) == TREE
        arrived = await event_ids(ann)
    assert [event["id"] for event in told] == arrived
    assert len(arrived) == 2 * 13
    assert "bob goes on" not in (await ann.locator("body").text_content() or "")


async def test_what_was_missed_comes_once_and_in_order_after_a_real_loss(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.agent_chat.tools.PACE", 0.2)
    stage.allowed.append(OF_THE_NETWORK)
    ann = await stage.signed_in(ANN)
    async with stage.told(ANN) as told:
        for turn in (1, 2, 3):
            asking = asyncio.create_task(stage.chat(ANN, "from elsewhere", f"run-{turn}"))
            await expect(runs(ann)).to_have_count(turn)
            await expect(rows(runs(ann).first).locator(".how")).to_have_text(["running"] * 5)
            stage.cable.cut()
            await expect(ann.get_by_role("status")).to_contain_text("Connection lost")
            await asking
            stage.cable.mend()
            await expect(ann.get_by_role("status")).to_contain_text("Connected again")
            await expect(rows(runs(ann).first).locator(".how")).to_have_text(["completed"] * 5)
            assert await drawn(runs(ann).first) == TREE
        await expect(messages(ann)).to_have_count(3)
        arrived = await event_ids(ann)
    assert [event["id"] for event in told] == arrived
    assert len(arrived) == 3 * 13


async def test_what_cannot_be_had_any_more_is_admitted(browser: Browser, tmp_path: Path) -> None:
    hub = EventHub(MemoryLog(max_events=20))
    async with staged(browser, tmp_path, hub=hub) as stage:
        ann = await stage.signed_in(ANN)
        await ann.get_by_role("button", name="Drop connection").click()
        for turn in range(5):
            await stage.chat(ANN, f"from elsewhere {turn}", f"run-{turn}")
        await ann.get_by_role("button", name="Connect again").click()
        await expect(ann.get_by_role("alert").first).to_contain_text("(trimmed)")
        await expect(runs(ann)).to_have_count(2)
        assert await drawn(runs(ann).first) == TREE
        assert len(await event_ids(ann)) == 20
        await expect(messages(ann)).to_have_text(
            [re.compile(f"^from elsewhere {turn}3 words; the longest") for turn in range(5)]
        )
        await ann.get_by_role("button", name="Understood").click()
        await expect(ann.get_by_role("alert").first).not_to_be_visible()


async def test_a_server_that_restarts_has_forgotten_what_ran(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.agent_chat.tools.PACE", 0.5)
    async with staged(browser, tmp_path) as first, staged(browser, tmp_path) as second:
        first.allowed.append(OF_THE_NETWORK)
        ann = await first.signed_in(ANN)
        asking = asyncio.create_task(first.chat(ANN, "a last word", "run-1"))
        await expect(rows(runs(ann).first).locator(".how")).to_have_text(["running"] * 5)
        first.cable.cut()
        first.cable.server = second.server
        first.cable.mend()
        await expect(ann.get_by_role("alert").first).to_contain_text("(epoch)")
        await expect(rows(runs(ann).first).locator(".how")).to_have_text(["end unknown"] * 5)
        await say(ann, "and another")
        await expect(rows(runs(ann).first).locator(".how")).to_have_text(["completed"] * 5)
        assert (await asking).status == 200


# --- who it is --------------------------------------------------------------------------------


async def test_who_has_no_password_does_not_get_in(stage: Stage) -> None:
    stage.allowed.append(REFUSED)
    page = await stage.window()
    for user in (User("ann", "Ann", BOB.password), User("eve", "Eve", ANN.password)):
        await fill_in(page, user)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_have_text("The user or the password is wrong.")
        await page.get_by_label("User").fill("")
    await expect(page.get_by_label("Message", exact=True)).not_to_be_visible()


async def test_who_signs_out_leaves_nothing_to_the_next(stage: Stage) -> None:
    page = await stage.signed_in(ANN)
    await say(page, "anns own thought")
    await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
    await page.get_by_role("button", name="Sign out").click()
    await fill_in(page, BOB)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("status")).to_have_text("Connected")
    await expect(page.get_by_text("Signed in as Bob")).to_be_visible()
    await say(page, "bobs own thought")
    await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
    assert "ann" not in (await page.locator("header, #room").all_text_contents())[0]
    assert "anns" not in await page.locator("#room").inner_html()
    await expect(messages(page)).to_have_count(1)


HELD_BACK = """() => {
    const whole = Response.prototype.json;
    Response.prototype.json = async function () {
        const found = await whole.call(this);
        if (this.url.includes("agent/") && window.free === undefined)
            await new Promise((go) => { (window.held ??= []).push(go); });
        return found;
    };
}"""


async def test_an_answer_that_is_late_is_not_shown_to_the_next(stage: Stage) -> None:
    await stage.chat(ANN, "anns older thought", "run-1")
    page = await stage.window()
    await page.evaluate(HELD_BACK)
    await enter(page, ANN)
    await say(page, "anns own thought")
    await page.wait_for_function("() => window.held?.length === 2")  # the older ones, and this one
    await page.get_by_role("button", name="Sign out").click()
    await page.evaluate("() => { window.free = true; }")
    await enter(page, BOB)
    await page.evaluate("() => Promise.all(held.map((go) => go()))")
    await say(page, "bobs own thought")
    await expect(messages(page).locator(".answer")).to_contain_text(["bobs own thought"])
    assert "anns" not in (await page.locator("body").text_content() or "")


async def test_who_asks_twice_at_once_is_let_in_once(stage: Stage) -> None:
    page = await stage.window()
    asked = [asyncio.Event(), asyncio.Event()]

    async def wait(route: Route) -> None:
        (user,) = re.findall(r'"user":"(\w+)"', route.request.post_data or "")
        await asked[user == "bob"].wait()
        await route.continue_()

    await page.route("**/sign-in", wait)
    for user in (ANN, BOB):
        await fill_in(page, user)
        await page.get_by_label("Password").press("Enter")
    asked[0].set()
    await expect(page.get_by_role("status")).to_have_text("Connected")
    asked[1].set()
    await say(page, "a thought")
    await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
    await expect(page.get_by_text("Signed in as Ann")).to_be_visible()
    assert len([url for url in stage.asked if url.endswith("/sign-in")]) == 1


async def test_a_doubt_that_ends_late_does_not_connect_beside_another(stage: Stage) -> None:
    stage.allowed.append(OF_THE_NETWORK)
    page = await stage.signed_in(ANN)
    asked, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait(route: Route) -> None:
        asked.set()
        await may_go_on.wait()
        await route.continue_()

    await page.route("**/agent/messages", wait)
    stage.cable.cut()
    await asyncio.wait_for(asked.wait(), 10)  # it came back, was refused, and asks why
    stage.cable.mend()
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    await page.get_by_role("button", name="Drop connection").click()
    await page.get_by_role("button", name="Connect again").click()
    await expect(page.get_by_role("status")).to_contain_text("Connected again")
    may_go_on.set()
    await asyncio.sleep(2)  # longer than it would wait to connect
    await expect(page.get_by_role("status")).to_contain_text("Connected again")
    assert len(sockets) == 1


async def test_who_s_token_expires_is_told_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.agent_chat.sign_in.HOUR", -8)  # ten more are let pass
    page = await stage.signed_in(ANN)
    await expect(page.get_by_role("alert")).to_have_text(
        "You were signed out: the token has expired."
    )
    await expect(page.get_by_label("User")).to_be_focused()


# --- what it is to look at --------------------------------------------------------------------

EVIL = '<img src="x" onerror="document.title=1"><script>document.title=2</script>'


async def test_texts_stay_texts(browser: Browser, tmp_path: Path) -> None:
    async with staged(browser, tmp_path, User("ann", EVIL, "a password")) as stage:
        page = await stage.signed_in(User("ann", EVIL, "a password"))
        await expect(page.get_by_text(f"Signed in as {EVIL}")).to_be_visible()
        await say(page, EVIL)
        await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
        await expect(messages(page).locator(".own")).to_have_text(EVIL)
        await expect(messages(page).locator(".answer")).to_contain_text(EVIL)
        await expect(runs(page).locator("p")).to_have_text(f"“{EVIL}”")
        assert await page.locator("img, body script:not(:last-of-type)").count() == 0
        assert await page.title() == "agent chat"


@pytest.mark.parametrize(
    "attempt",
    [
        "document.body.innerHTML = '<img src=x onerror=\"document.title=1\">'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'x=1'}))",
        "setTimeout('document.title = 1')",
    ],
)
async def test_the_policy_refuses_what_would_be_markup(stage: Stage, attempt: str) -> None:
    stage.allowed.append(re.compile("requires 'Trusted"))
    page = await stage.window()
    with pytest.raises(Error, match="requires 'Trusted|TrustedScript|Trusted Type|unsafe-eval"):
        await page.evaluate(f"() => {{ {attempt} }}")
    assert await page.title() == "agent chat"


async def test_the_policy_lets_nothing_out(stage: Stage) -> None:
    page = await stage.window()
    with pytest.raises(Error, match="Failed to fetch"):
        await page.evaluate("() => fetch('http://127.0.0.1:9/stolen')")
    stage.allowed.append(re.compile("violates .*connect-src 'self'|Fetch API cannot load"))
    assert stage.complaints
    stage.asked.clear()  # it was wished for, and not sent


async def test_a_tool_that_fails_is_shown(stage: Stage) -> None:
    stage.allowed.append(REFUSED)
    page = await stage.signed_in(ANN)
    await say(page, "fail")
    await expect(messages(page).locator(".answer")).to_have_text("A tool failed.")
    await expect(page.locator(".node.failed b")).to_contain_text(["planner", "quote"])
    await expect(page.locator("#fault")).to_have_text("A tool failed.")
    shown = {name: how for _, name, _, how in await drawn(runs(page).first)}
    assert (shown["planner"], shown["quote"]) == ("failed", "failed")


async def test_it_can_be_used_without_a_mouse(stage: Stage) -> None:
    page = await stage.window()
    await expect(page.get_by_label("User")).to_be_focused()
    for keys in (ANN.user_id, ANN.password):
        await page.keyboard.type(keys)
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("Connected")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await page.keyboard.type("by keys alone")
    await page.keyboard.press("Enter")
    await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
    reached = []
    for _ in range(8):
        await page.keyboard.press("Tab")
        reached.append(
            await page.evaluate(
                "() => document.activeElement.getAttribute('aria-label')"
                " ?? document.activeElement.textContent.trim().slice(0, 40)"
            )
        )
    for name in ("Send", "What runs, latest first", "Events, as they arrived", "Drop connection"):
        assert name in reached, reached
    while await page.evaluate("() => document.activeElement.id") != "drop":
        await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await expect(page.get_by_role("status")).to_contain_text("Connection dropped")


CONTRASTS = """() => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const parts = (colour) => {
        paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map(
            (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    };
    const light = (colour) => {
        const [r, g, b] = parts(colour);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (at) => {
        for (; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "white";
    };
    const found = {};
    for (const at of document.querySelectorAll("body *")) {
        const text = [...at.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!text || !at.checkVisibility() || at.closest("script")) continue;
        const pair = [light(getComputedStyle(at).color), light(behind(at))].sort((a, b) => b - a);
        found[`${at.tagName}.${at.className}`] = (pair[0] + 0.05) / (pair[1] + 0.05);
    }
    return found;
}"""


@pytest.mark.parametrize("colours", ["light", "dark"])
async def test_texts_can_be_read(stage: Stage, colours: str) -> None:
    stage.allowed.append(REFUSED)
    page = await stage.signed_in(ANN, color_scheme=colours)
    for number, text in enumerate(("fail", "well"), 1):
        await say(page, text)
        await expect(runs(page)).to_have_count(number)
        await expect(page.locator("#runs .running")).to_have_count(0)
    contrasts = await page.evaluate(CONTRASTS)
    assert {"SPAN.how", "P.own", "P.answer", "P.answer fault", "BUTTON.main"} <= set(contrasts)
    assert {what: ratio for what, ratio in contrasts.items() if ratio < 4.5} == {}


async def test_the_end_stays_in_sight_and_who_reads_further_up_stays_there(stage: Stage) -> None:
    page = await stage.signed_in(ANN)
    for turn in range(1, 6):
        await say(page, f"{turn} " + "word " * 60)
        last = messages(page).locator(".answer").last
        await expect(last).to_contain_text(f'"{turn} word')
        assert await page.evaluate(FROM_THE_END) < 2
    await page.locator("#messages").evaluate("box => { box.scrollTop = 0; }")
    await stage.chat(ANN, "from elsewhere", "run-1")
    await expect(messages(page)).to_have_count(6)
    await expect(messages(page).last).to_contain_text("2 words")
    assert await page.locator("#messages").evaluate("box => box.scrollTop") == 0
    await say(page, "what one says oneself")
    assert await page.evaluate(FROM_THE_END) < 2


FROM_THE_END = """() => {
    const box = document.getElementById("messages");
    return box.scrollHeight - box.clientHeight - box.scrollTop;
}"""


async def test_it_fits_a_small_window(stage: Stage) -> None:
    page = await stage.signed_in(ANN, viewport={"width": 320, "height": 640})
    await say(page, "word " * 40 + "x" * 300)
    await expect(rows(runs(page).first).locator(".how")).to_have_text(["completed"] * 5)
    widths = "all => all.map(box => [box.id, box.scrollWidth, box.clientWidth])"
    boxes = await page.locator("html, #messages, #runs").evaluate_all(widths)
    assert len(boxes) == 3
    assert [box for box, wanted, given in boxes if wanted > given] == []
