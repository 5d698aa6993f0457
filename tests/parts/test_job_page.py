"""The page of a job in a real browser: Debian's Chromium, driven from outside (`apt-get install chromium`)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.keys import Keys
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.runtime import NAMESPACE
from fleet.sim.settings import SimSettings
from tests.support.api import Api, served
from tests.support.bench import DEAR, GOOD, Bench, bench, config
from tests.support.hostile import ELEMENT, MARKDOWN, NAME
from tests.support.scripted import scripted
from tests.support.sim import RunningSim, running_sim
from tests.support.valkey import Valkey

CHROMIUM = "/usr/bin/chromium"
#: A page is told of a change within seconds; a busy machine takes longer.
expect.set_options(timeout=30_000)
STEPS = [
    {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50},
    {
        "id": "note",
        "each": "items",
        "needs": ["read"],
        "tier": "mini",
        "prompt": "Note {{ read }}.",
        "max_output_tokens": 50,
    },
]
ITEMS = [{"name": f"item{i}"} for i in range(6)]
REVIEW = {"prompt": "Write it up.", "rounds": 0, "max_output_tokens": 2_000}
WIDTHS = (1280, 360, 320, 80)
#: The least contrast of a text with what it stands on, of each that is seen (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const light = (c) => c.map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const under = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const back = parts(getComputedStyle(one).backgroundColor);
      if (back.length < 4 || back[3] === 1) return back.slice(0, 3);
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && one.offsetParent
      && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
      const [a, b] = [light(parts(getComputedStyle(one).color).slice(0, 3)), light(under(one))];
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), one.tagName + "." + one.className, one.textContent.slice(0, 40)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


#: As if the page's tab were put behind another one, or in front.
SEEN = """(seen) => {
  Object.defineProperty(document, "hidden", {value: !seen, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""
#: How many attributes are there that act.
ACTING = """() => [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes])
  .filter((one) => /^on|^style$/.test(one.name)).length"""
#: Whether a page can ask for something at an address with the cookies of whoever reads it.
FETCHED = (
    """(address) => fetch(address, {credentials: "include", mode: "no-cors"}).then(() => "sent", () => "not sent")"""
)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    settings = SimSettings(speed=1000, invalid_output={GOOD: 0.0, DEAR: 0.0})
    with running_sim(tmp_path_factory.mktemp("sim"), settings, config()) as running:
        yield running


@dataclass
class Watched:
    """A page, and what the browser did for it."""

    page: Page
    #: What must not happen: dialogs, errors, what was blocked, requests to elsewhere.
    happened: list[str] = field(default_factory=list)

    def look_after(self, home: str) -> None:
        async def dialog(one: Any) -> None:
            self.happened.append(f"dialog: {one.message}")
            await one.dismiss()

        self.page.on("dialog", dialog)
        self.page.on("console", lambda one: self.happened.append(f"console: {one.text}"))
        self.page.on("pageerror", lambda error: self.happened.append(f"error: {error}"))
        self.page.on("popup", lambda _: self.happened.append("popup"))
        self.page.on("download", lambda _: self.happened.append("download"))
        self.page.on(
            "request",
            lambda one: None if one.url.startswith((home, "data:")) else self.happened.append(f"request: {one.url}"),
        )


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    assert shutil.which(CHROMIUM), "There is no Chromium here: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def opened(browser: Browser, api: Api, path: str, **context: Any) -> AsyncIterator[Watched]:
    """A page in a profile of its own."""
    profile: BrowserContext = await browser.new_context(**context)
    try:
        watched = Watched(await profile.new_page())
        watched.look_after(api.url)
        await watched.page.goto(api.url + path, wait_until="load")
        yield watched
    finally:
        await profile.close()


def in_browser(
    scenario: Callable[[Browser, Bench, Api], Awaitable[None]], valkey: Valkey, folder: Path, **environment: Any
) -> None:
    """Run a scenario with a browser before the API of a bench."""

    async def run() -> None:
        async with bench(valkey, folder, config(), **environment) as fleet, served(fleet) as api, chromium() as browser:
            await scenario(browser, fleet, api)

    asyncio.run(run())


async def in_turn(fleet: Bench) -> int:
    """Run what is ready now; how many that were."""
    released = await fleet.release()
    await asyncio.gather(*(fleet.perform(one, tier) for one, tier in released))
    return len(released)


def test_the_page_follows_a_job_from_its_plan_to_its_result(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(browser: Browser, fleet: Bench, api: Api) -> None:
        job_id = await fleet.submit(name="roofs", items=ITEMS, steps=STEPS, review=REVIEW, budget_usd=2)
        async with opened(browser, api, f"/jobs/{job_id}") as seen:
            page = seen.page
            await page.evaluate("window.mark = document.mark = 1")
            await expect(page.locator("#liveness")).to_have_text("live")
            await expect(page.locator(".facts .badge").first).to_have_text("planning")
            await in_turn(fleet)  # the plan
            await expect(page.locator(".facts .badge").first).to_have_text("running")
            assert await page.locator("svg g.step").count() == 3, "read, note, review"
            read, note = (page.locator(f'td [data-live="step.{step}.done"]') for step in ("read", "note"))
            await expect(read).to_have_text("0")
            released = await fleet.release()
            for number, (one, tier) in enumerate(released, start=1):
                await fleet.perform(one, tier)
                await expect(read).to_have_text(str(number))
            bar = page.locator('td svg[data-bar="step.read.bar"] rect.done')
            await expect(bar).to_have_attribute("width", "100%")
            await expect(note).to_have_text("0")
            await page.evaluate(SEEN, False)
            await expect(page.locator("#liveness")).to_be_hidden()
            await in_turn(fleet)
            await page.evaluate(SEEN, True)
            await expect(note).to_have_text("6")
            await expect(page.locator('td [data-live="tier.mini.done"]')).to_have_text("6")
            await expect(page.locator('g.step [data-live="step.note.share"]')).to_have_text("100%")
            assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
            await expect(page.locator(".facts .badge").first).to_have_text("completed")
            await expect(page.locator("article.prose")).to_be_visible()
            await expect(page.locator("#receipt-title")).to_be_visible()
            await expect(page.locator("#said")).to_contain_text("completed")
            await expect(page.locator("#liveness")).to_be_hidden()
            assert await page.evaluate("window.mark") == 1, "the page was never loaded anew"
            assert seen.happened == []

    in_browser(scenario, valkey, tmp_path, sim=sim.url)


def test_whatever_somebody_else_wrote_does_nothing(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        review = {"verdict": "accept", "result": MARKDOWN, "rework": [], "gaps": [NAME]}
        step = {
            "id": "write",
            "each": "items",
            "tier": "nano",
            "kind": NAME,
            "prompt": "{{ item.id }}",
            "max_output_tokens": 50,
        }
        asked = {"name": NAME[:200], "goal": NAME, "items": [{"id": NAME}], "steps": [step]}
        async with (
            scripted(NAME, review, NAME, "x" * 1_000_000) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url, openai_api_key="k") as fleet,
            served(fleet) as api,
            chromium() as browser,
        ):
            job_id = await fleet.submit(**asked, review=REVIEW)
            async with opened(browser, api, f"/jobs/{job_id}") as seen:
                page = seen.page
                title = await page.title()
                await expect(page.locator("#liveness")).to_have_text("live")
                # What comes while the page is open, what is there when it is opened, and both once more.
                await fleet.run(job_id)
                await expect(page.locator("article.prose")).to_contain_text(ELEMENT)
                await untouched(seen, title)
                await page.reload()
                await untouched(seen, title)
            reviewed = job_id
            outputs = (await fleet.run(await fleet.submit(**asked))).id
            endless = (await fleet.run(await fleet.submit(**asked))).id
            real = fleet.provider.complete

            async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
                raise ProviderError(NAME, kind="bad_request", retryable=False)

            fleet.provider.complete = refuses  # type: ignore[method-assign]
            failed = (await fleet.run(await fleet.submit(**asked))).id
            fleet.provider.complete = real  # type: ignore[method-assign]
            for path in ("/jobs", *(f"/jobs/{one}" for one in (reviewed, outputs, endless, failed))):
                for width in WIDTHS:
                    async with opened(browser, api, path, viewport={"width": width, "height": 700}) as seen:
                        await untouched(seen, None)
                        await fits(seen)

    asyncio.run(run())


async def untouched(seen: Watched, title: str | None) -> None:
    """Nothing happened, and every element is one of ours."""
    page = seen.page
    assert seen.happened == []
    shown = await page.title()
    assert shown.endswith(" · tierfleet")
    assert title in (None, shown)
    assert (
        await page.locator("main")
        .locator("img, iframe, form, style, script, object, embed, base, meta, textarea")
        .count()
        == 0
    )
    assert await page.locator("script").count() == await page.locator('script[src^="/page.js"]').count()
    assert await page.evaluate(ACTING) == 0
    hrefs = await page.evaluate("() => [...document.querySelectorAll('a')].map((one) => one.getAttribute('href'))")
    assert all(re.fullmatch(r"#[a-z-]+|/jobs(/[a-z0-9./-]+)?(\?cursor=\S+)?", href) for href in hrefs), hrefs


async def fits(seen: Watched) -> None:
    """A reader never has to scroll sideways, but within a table or the plan."""
    widths = await seen.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1], (seen.page.url, widths)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(valkey: Valkey, tmp_path: Path, sim: RunningSim, scheme: str) -> None:
    async def scenario(browser: Browser, fleet: Bench, api: Api) -> None:
        done = await fleet.run(await fleet.submit(items=ITEMS, steps=STEPS, review=REVIEW))
        paused = await fleet.submit(items=ITEMS, steps=STEPS, review=REVIEW)
        await in_turn(fleet)
        await api.ask("POST", f"/v1/jobs/{paused}/pause")
        failed = await fleet.run(await fleet.submit(items=ITEMS, steps=[STEPS[0] | {"prompt": "{{ item.no }}"}]))
        for path in ("/jobs", f"/jobs/{done.id}", f"/jobs/{paused}", f"/jobs/{failed.id}"):
            async with opened(browser, api, path, color_scheme=scheme) as seen:
                assert await seen.page.evaluate(CONTRAST) == [], path
                assert seen.happened == []
        await api.key()
        async with opened(browser, api, "/jobs", color_scheme=scheme) as seen:
            await expect(seen.page.get_by_label("Key")).to_be_visible()
            assert await seen.page.evaluate(CONTRAST) == []

    in_browser(scenario, valkey, tmp_path, sim=sim.url)


def test_a_key_opens_the_page_and_its_end_closes_it(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(browser: Browser, fleet: Bench, api: Api) -> None:
        key = await api.key()
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        async with opened(browser, api, f"/jobs/{job_id}") as seen:
            page = seen.page
            await page.get_by_label("Key").fill(key)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.locator("#liveness")).to_have_text("live")
            assert page.url == f"{api.url}/jobs/{job_id}"
            (cookie,) = await page.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            assert await page.evaluate("document.cookie") == ""
            await in_turn(fleet)
            await expect(page.locator(".facts .badge").first).to_have_text("running")
            # A page of another site sends nobody's cookie.
            other = api.url.replace("127.0.0.1", "localhost")
            foreign = await browser.new_page()
            await foreign.goto(f"{other}/healthz")
            assert await foreign.evaluate(FETCHED, f"{api.url}/jobs") == "not sent", (
                "what is ours is for pages of ours alone"
            )
            async with page.expect_download() as download:
                await page.get_by_role("link", name="results.jsonl").click()
            assert (await download.value).suggested_filename == f"{job_id}-results.jsonl"
            seen.happened = [one for one in seen.happened if one != "download"]
            # The browser says in its console that the first answer was a 401, and no more.
            assert all("401" in one for one in seen.happened), seen.happened
            keys = Keys(fleet.runtime.link, NAMESPACE)
            await keys.revoke((await keys.find(key)).key_id)  # type: ignore[union-attr]
            await expect(page.locator("#liveness")).to_have_class(re.compile("off"), timeout=30_000)
            await page.reload()
            await expect(page.get_by_label("Key")).to_be_visible()

    in_browser(scenario, valkey, tmp_path, sim=sim.url)


def test_without_scripts_a_refresh_shows_how_the_job_stands(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(browser: Browser, fleet: Bench, api: Api) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=STEPS, review=REVIEW)
        async with opened(browser, api, f"/jobs/{job_id}", java_script_enabled=False) as seen:
            page = seen.page
            assert await page.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count() == 1
            await fleet.run(job_id)
            await page.reload()
            await expect(page.locator(".facts .badge").first).to_have_text("completed")
            await expect(page.locator('td [data-live="step.note.done"]')).to_have_text("6")
            await expect(page.locator("article.prose")).to_be_visible()
            assert await page.locator('meta[http-equiv="refresh"]').count() == 0
            assert seen.happened == []

    in_browser(scenario, valkey, tmp_path, sim=sim.url)
