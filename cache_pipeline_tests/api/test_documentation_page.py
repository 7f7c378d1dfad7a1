"""The page /docs in a real browser: a request tried by keyboard, accessibility, and its geometry at usual sizes."""

import pytest
from axe_playwright_python.async_playwright import Axe

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.api.test_operations_page import opened_page
from cache_pipeline_tests.api.test_served import served


async def check(page, width):
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1280, "light")])
async def test_page_is_accessible_and_fits(open_api, width, scheme):
    options = {
        "viewport": {"width": width, "height": 900},
        "color_scheme": scheme,
        "bypass_csp": True,
        "reduced_motion": "reduce",
    }
    async with (
        open_api(REPORT, api=ApiSettings(auth="keys")) as api,
        served(api.app) as url,
        opened_page(**options) as page,
    ):
        await page.goto(f"{url}/docs")
        request = page.locator("#operations-reports-readReport")
        await request.wait_for()
        await check(page, width)

        await request.get_by_role("button").first.press("Enter")
        await request.get_by_role("button", name="Try it out").press("Enter")
        await request.get_by_placeholder("report").fill("queue_hour")
        await request.get_by_placeholder("interval").fill(DAY)
        await request.get_by_role("button", name="Execute").press("Enter")
        await request.get_by_text("unauthorized").first.wait_for()
        await check(page, width)

        await page.get_by_role("button", name="Authorize").first.press("Enter")
        await page.get_by_role("dialog").wait_for()
        await check(page, width)
