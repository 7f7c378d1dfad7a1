"""The operations page in a real browser: sign-in, what it shows, accessibility, and its geometry at usual sizes."""

import asyncio
import re
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.programs import find_program

URL = f"/v1/reports/queue_hour?interval={DAY}"
LONG = REPORT.model_copy(update={"name": "a_report_with_a_rather_long_name_here"})


@asynccontextmanager
async def opened_page(**options):
    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = await (await browser.new_context(**options)).new_page()
            page.set_default_timeout(15_000)
            yield page
        finally:
            await browser.close()


@pytest.mark.timeout(120)
async def test_operator_signs_in_and_sees_the_deployment(open_api):
    async with open_api(REPORT, api=ApiSettings(auth="keys")) as api, served(api.app) as url, opened_page() as page:
        key = (await create_key(api, is_operator=True))["Authorization"].split()[1]
        api.start_worker()
        job = (await api.http.get(URL, headers={"X-API-Key": key})).headers["Location"]
        async with asyncio.timeout(20):
            while (await api.http.get(job, headers={"X-API-Key": key})).json()["state"] != "done":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await api.http.get(URL, headers={"X-API-Key": key})
        hosts, errors = set(), []
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))

        await page.goto(f"{url}/operations")
        await page.wait_for_url("**/sign-in?next=/operations")
        await page.get_by_label("API key").fill("cp_wrong")
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("alert").filter(has_text="not valid").wait_for()
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("button", name="Sign in").click()

        await page.wait_for_url("**/operations")
        row = page.get_by_role("row").filter(has_text="queue_hour")
        assert "2026-01-06 00:00 UTC" in await row.inner_text()
        assert await page.get_by_text("1 request answered with figures").is_visible()
        assert await page.locator("#headline").get_by_text("lacks").first.is_visible()
        assert await page.evaluate("document.cookie") == ""
        assert (hosts, errors) == ({urlsplit(url).netloc}, [])

        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/sign-in?next=/operations")


@pytest.mark.timeout(120)
async def test_page_says_when_it_is_out_of_date(open_api):
    async with open_api() as api, opened_page() as page:
        async with served(api.app) as url:
            await page.goto(f"{url}/operations")
            await page.get_by_text(re.compile("^As of")).wait_for()
            # What the timer does, without waiting for it.
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await page.get_by_text("not refreshed since").wait_for()
        assert await page.get_by_role("row").filter(has_text="queue_hour").is_visible()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
async def test_page_is_accessible_and_fits(open_api, width, scheme):
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "bypass_csp": True}
    async with open_api(REPORT, LONG) as api, served(api.app) as url, opened_page(**options) as page:
        for path in ("/operations", "/sign-in"):
            await page.goto(f"{url}{path}")
            await page.locator("#reports th, #key").first.wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


_LINES_OF_WORDS = """() => [...document.querySelectorAll("#reports tbody th")].flatMap((cell) => {
  const range = document.createRange(), text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), words = [];
  while (text.nextNode())
    for (const found of text.currentNode.data.matchAll(/[^_]+_?/g)) {
      range.setStart(text.currentNode, found.index);
      range.setEnd(text.currentNode, found.index + found[0].length);
      words.push([found[0], range.getClientRects().length]);
    }
  return words;
})"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [320, 768, 1440])
async def test_names_of_reports_break_between_words_only(open_api, width):
    named = REPORT.model_copy(update={"name": "conversation_day"})
    async with (
        open_api(named, LONG) as api,
        served(api.app) as url,
        opened_page(viewport={"width": width, "height": 900}) as page,
    ):
        await page.goto(f"{url}/operations")
        await page.locator("#reports th").first.wait_for()
        lines = dict(await page.evaluate(_LINES_OF_WORDS))
    assert lines["conversation_"] == 1
    assert set(lines.values()) == {1}


async def test_sign_in_goes_only_to_this_server(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api, served(api.app) as url, opened_page() as page:
        key = (await create_key(api, is_operator=True))["Authorization"].split()[1]
        for elsewhere in ("//example.com/x", "https://example.com/x", "/\\\\example.com/x"):
            await page.goto(f"{url}/sign-in?next={elsewhere}")
            await page.get_by_label("API key").fill(key)
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url(lambda target: "sign-in" not in target)
            assert urlsplit(page.url).netloc == urlsplit(url).netloc
