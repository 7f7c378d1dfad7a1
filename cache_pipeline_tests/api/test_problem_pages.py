"""Errors as a page for people with a browser, and as problem details for every other caller."""

from html import unescape

import pytest
from axe_playwright_python.async_playwright import Axe

from cache_pipeline.api.negotiation import prefers_html
from cache_pipeline.api.problem_pages import render_page
from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_operations_page import opened_page
from cache_pipeline_tests.api.test_served import served

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
URL = f"/v1/reports/queue_hour?interval={DAY}"
KEYS = ApiSettings(auth="keys")


async def read_both(api, url, headers=None):
    """Return the problem details and the page of one address."""
    details = await api.http.get(url, headers=headers)
    page = await api.http.get(url, headers={**(headers or {}), "Accept": BROWSER})
    assert page.status_code == details.status_code
    assert details.headers["Content-Type"] == "application/problem+json"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    return details, page


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/json",
        "text/html;q=0.5, application/json",
        "text/html, application/json",
        "text/*;q=0",
    ],
)
def test_only_browsers_prefer_a_page(accept):
    assert prefers_html(BROWSER)
    assert not prefers_html(accept)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (URL, 401),
        ("/v1/status", 403),
        (f"/v1/reports/no_such_report?interval={DAY}", 404),
        ("/no/such/path", 404),
        (f"{URL}&granularity=soon", 422),
    ],
)
async def test_page_says_what_the_problem_details_say(open_api, url, status):
    async with open_api(api=KEYS) as api:
        details, page = await read_both(api, url, None if status == 401 else await create_key(api))
        policies = (await api.http.get("/operations")).headers.get_list("Content-Security-Policy")
    problem = details.json()
    assert problem["status"] == page.status_code == status
    assert f"<h1>{problem['title']}</h1>" in page.text
    assert f"<p>{problem['detail']}</p>" in unescape(page.text)
    for each in problem.get("errors", ()):
        assert each["detail"] in unescape(page.text)
    assert page.headers["X-Request-ID"] in page.text
    for answer in (details, page):
        assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("no-store", "Accept")
        assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert page.headers.get("WWW-Authenticate") == details.headers.get("WWW-Authenticate")
    assert sorted(page.headers.get_list("Content-Security-Policy")) == sorted(policies)


async def test_page_of_a_store_that_is_down(open_api, monkeypatch):
    async def fail(*_):
        raise HistoryUnavailable("PostgreSQL cannot be used", remedy="check it")

    async with open_api() as api:
        monkeypatch.setattr(api.query_service.jobs, "get", fail)
        details, page = await read_both(api, "/v1/jobs/00000000-0000-0000-0000-000000000000")
    assert (page.status_code, page.headers["Retry-After"]) == (503, details.headers["Retry-After"])
    assert details.json()["detail"] in unescape(page.text)


async def test_text_of_a_request_is_no_markup(open_api):
    async with open_api() as api:
        _, page = await read_both(api, "/v1/reports/queue_hour?interval=<script>alert(1)</script>")
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text


def test_half_of_a_surrogate_pair_is_shown_by_its_number():
    assert b"unknown &#55296;" in render_page({"title": "T", "detail": "unknown \ud800", "status": 400}, "id", None)


async def test_other_callers_and_methods_get_problem_details(open_api):
    async with open_api() as api:
        posted = await api.http.post("/v1/reports/no_such_report", json={}, headers={"Accept": BROWSER})
        headed = await api.http.head("/no/such/path", headers={"Accept": BROWSER})
        vendors = await api.http.get("/api/v2/no/such/path", headers={"Accept": BROWSER})
    assert posted.headers["Content-Type"] == "application/problem+json"
    assert (headed.status_code, headed.content) == (404, b"")
    assert vendors.headers["Content-Type"] == "application/json"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_person_signs_in_where_that_helps(open_api, scheme):
    async with (
        open_api(api=KEYS) as api,
        served(api.app) as url,
        opened_page(viewport={"width": 320, "height": 640}, color_scheme=scheme) as page,
    ):
        key = (await create_key(api, is_operator=True))["Authorization"].split()[1]
        await page.goto(f"{url}{URL}")
        assert await page.get_by_role("link", name="Sign in").count() == 0, "figures are not for cookies"
        await page.goto(f"{url}/v1/status?days=3")
        violations = (await Axe().run(page)).response["violations"]
        assert [each["id"] for each in violations] == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("link", name="Sign in").click()
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/v1/status?days=3")
        assert '"reports"' in await page.content()
