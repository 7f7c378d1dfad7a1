"""The live page in a real browser: a waiting call, thresholds, old figures, sign-in, accessibility and geometry."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe

from cache_pipeline.api.live_stream import BoardFeeds
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.service import live_answers
from cache_pipeline.settings import ApiSettings
from cache_pipeline.vendors.declaration_rules import use_vendor_measures
from cache_pipeline_tests.api.conftest import REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_live import QUIET, Now
from cache_pipeline_tests.api.test_operations_page import opened_page
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

SCREENSHOTS = os.environ.get("LIVE_SCREENSHOTS")
METRICS = ["oWaiting", "oLongestWaiting", "oInteracting", "oUserRoutingStatuses"]
BOARD = live_report(
    metrics=METRICS,
    thresholds={"waiting": {"warn": 2, "alarm": 4}, "longest_wait_seconds": {"warn": 3600}, "idle_agents": {"warn": 0}},
)
DAY_REPORT = use_vendor_measures(
    declared(
        name="today",
        platform="genesys",
        query_type="conversations",
        time_zone="UTC",
        group_by=["queueId"],
        metrics=["nOffered", "oServiceLevel"],
        volume_metric="nOffered",
        delivery="sync",
        start="2026-01-01",
    )
)
WITH_LEVEL = LiveReport.model_validate(BOARD.model_dump() | {"service_level": {"report": "today"}})


def _hurry(api, monkeypatch, seconds=0.6):
    """Let half a minute pass in a moment: the vendor is asked fifty times as often."""
    monkeypatch.setattr(live_answers, "LIVE_TTL", timedelta(seconds=seconds))
    api.app.state.query_service = replace(api.query_service, board_feeds=BoardFeeds(look_seconds=0.02))


async def _call(api, queue=0, **fields):
    body = {"queue": queue, "wait_seconds": 600, **fields}
    answer = await api.vendor.post("/simulator/calls", json=body)
    assert answer.status_code == 201, answer.text
    return (await api.vendor.get("/simulator/directory")).json()["queues"][answer.json()["queueId"]]


@pytest.mark.timeout(120)
async def test_supervisor_signs_in_and_sees_a_call_that_waits(open_api, monkeypatch):
    keys = ApiSettings(auth="keys")
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now(), api=keys) as api, served(api.app) as url:
        _hurry(api, monkeypatch)
        # Any key that may query the report; an operator's is not needed.
        key = (await create_key(api, reports=["queue_now"]))["Authorization"].split()[1]
        async with opened_page() as page:
            hosts, errors = set(), []
            page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"{url}/live")
            await page.wait_for_url("**/sign-in?next=%2Flive")
            await page.get_by_label("API key").fill(key)
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url("**/live")
            await page.locator("tbody tr").nth(2).wait_for()
            assert await page.locator("#totals dd").first.inner_text() == "0"

            name = await _call(api, 1)
            row = page.get_by_role("row").filter(has_text=name)
            await row.locator("td").first.filter(has_text="1").wait_for(timeout=3_000)
            assert (await row.locator("td").nth(1).inner_text()).startswith("0:0")
            for _ in range(3):
                await _call(api, 1)
            await row.get_by_text("alarm").wait_for(timeout=3_000)
            assert name in await page.get_by_role("status").inner_text()
            assert await page.locator("tbody tr").first.inner_text() == await row.inner_text()
            assert "s old" in await page.locator("#age").inner_text()

            await page.get_by_label("Find").fill("no such queue")
            await page.locator("tbody:empty").wait_for(state="attached")
            assert (hosts, errors) == ({urlsplit(url).netloc}, [])


@pytest.mark.timeout(120)
async def test_old_figures_are_grey_and_say_so(open_api):
    clock = Now()
    async with open_api(live=[BOARD], vendor=QUIET, clock=clock) as api, opened_page() as page:
        async with served(api.app) as url:
            await page.clock.install()
            await page.goto(f"{url}/live")
            await page.locator("tbody tr").nth(2).wait_for()
            assert await page.locator("#old").text_content() == ""
        await page.clock.run_for(31_000)
        await page.locator("body.stale").wait_for()
        text = await page.get_by_role("alert").inner_text()
        assert "These figures are old" in text
        assert "The server cannot be reached" in text


@pytest.mark.timeout(120)
async def test_a_vendor_that_fails_is_named_and_figures_stay(open_api, monkeypatch):
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now()) as api, served(api.app) as url, opened_page() as page:
        _hurry(api, monkeypatch)
        monkeypatch.setattr(live_answers, "_PAUSE_AFTER_FAILURE", timedelta(0))
        await page.clock.install()
        await page.goto(f"{url}/live")
        await page.locator("tbody tr").nth(2).wait_for()
        await api.vendor.post("/simulator/faults", json={"server_errors": 1_000_000, "server_error_status": 500})
        await asyncio.sleep(2)
        await page.clock.run_for(31_000)
        await page.get_by_role("alert").filter(has_text="500").wait_for()
        assert await page.locator("tbody tr").count() == 3
        await api.vendor.delete("/simulator/faults")
        await page.locator("body:not(.stale)").wait_for()


async def test_one_reader_serves_all_pages_of_a_process(open_api, monkeypatch):
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now()) as api, served(api.app) as url:
        reads = []
        original = api.query_service.serve_live

        async def counted(self, report, tenant):
            reads.append(report.name)
            return await original(report, tenant)

        monkeypatch.setattr(type(api.query_service), "serve_live", counted)
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:

            async def first_event():
                async with http.stream("GET", "/v1/live/queue_now/events") as stream:
                    async for line in stream.aiter_lines():
                        if line.startswith("data:"):
                            return stream.status_code, line
                return None

            events = await asyncio.gather(*(first_event() for _ in range(15)))
            assert {status for status, _ in events} == {200}
            assert len(reads) <= 2
            async with asyncio.timeout(5):
                while api.query_service.board_feeds._feeds or api.query_service.open_streams:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_streams_are_for_keys_that_may_query_and_for_boards(open_api):
    agents = live_report(
        name="agent_now", query_type="userObservations", group_by=["userId"], metrics=["oActiveQueues"]
    )
    keys = ApiSettings(auth="keys")
    async with open_api(live=[BOARD, agents], vendor=QUIET, clock=Now(), api=keys) as api:
        some, none = await create_key(api), await create_key(api, reports=["queue_hour"])
        assert (await api.http.get("/v1/live")).status_code == 401
        assert (await api.http.get("/v1/live/queue_now/events")).status_code == 401
        assert (await api.http.get("/v1/live/queue_now/events", headers=none)).status_code == 403
        assert (await api.http.get("/v1/live/agent_now/events", headers=some)).status_code == 404
        assert (await api.http.get("/v1/live/nothing/events", headers=some)).status_code == 404
        boards = (await api.http.get("/v1/live", headers=some)).json()["boards"]
        assert [board["name"] for board in boards] == ["queue_now"]
        assert boards[0]["thresholds"]["waiting"] == {"warn": 2, "alarm": 4}
        assert (await api.http.get("/v1/live", headers=none)).json()["boards"] == []


@pytest.mark.timeout(120)
async def test_service_level_of_the_day_comes_from_its_report(open_api, monkeypatch):
    clock = Now()
    vendor = {**QUIET, "watermark_lag_seconds": 0}
    async with (
        open_api(DAY_REPORT, live=[WITH_LEVEL], vendor=vendor, clock=clock) as api,
        served(api.app) as url,
        opened_page() as page,
    ):
        _hurry(api, monkeypatch)
        monkeypatch.setattr("cache_pipeline.api.live_board._SERVICE_LEVEL_AGE", timedelta(seconds=0.2))
        api.start_worker()
        name = await _call(api, 0, wait_seconds=0, talk_seconds=0)
        await page.goto(f"{url}/live")
        row = page.get_by_role("row").filter(has_text=name)
        await row.get_by_text("100%").wait_for()
        assert "Service level of today as of" in await page.locator("#note").inner_text()


@pytest.mark.timeout(120)
async def test_mark_beside_a_long_label_fits_a_phone(open_api, monkeypatch):
    board = LiveReport.model_validate(
        WITH_LEVEL.model_dump() | {"thresholds": {"service_level": {"warn": 1.1, "alarm": 1.1}}}
    )
    vendor = {**QUIET, "watermark_lag_seconds": 0}
    async with (
        open_api(DAY_REPORT, live=[board], vendor=vendor, clock=Now()) as api,
        served(api.app) as url,
        opened_page(viewport={"width": 320, "height": 900}) as page,
    ):
        _hurry(api, monkeypatch)
        monkeypatch.setattr("cache_pipeline.api.live_board._SERVICE_LEVEL_AGE", timedelta(seconds=0.2))
        api.start_worker()
        await _call(api, 0, wait_seconds=0, talk_seconds=0)
        await page.goto(f"{url}/live")
        mark = page.locator(".mark.alarm").filter(has_text="100%")
        await mark.wait_for()
        assert await mark.evaluate("mark => mark.scrollWidth - mark.clientWidth") <= 0
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [320, 768, 1440])
async def test_wait_of_hours_fits_its_box(open_api, monkeypatch, width):
    behind = Now()
    behind.ahead = -timedelta(hours=12)
    async with (
        open_api(REPORT, live=[BOARD], vendor=QUIET, clock=behind) as api,
        served(api.app) as url,
        opened_page(viewport={"width": width, "height": 900}) as page,
    ):
        _hurry(api, monkeypatch)
        await _call(api)
        await page.goto(f"{url}/live")
        await page.locator("#totals dd").filter(has_text="12:0").wait_for()
        excess = "boxes => Math.max(...boxes.map((box) => box.scrollWidth - box.clientWidth))"
        assert await page.locator("#totals dd").evaluate_all(excess) <= 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
async def test_page_is_accessible_and_fits(open_api, monkeypatch, width, scheme):
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "bypass_csp": True}
    vendor = {"conversations_per_working_day": 0, "queues": 12, "agents": 30}
    async with (
        open_api(REPORT, live=[BOARD], vendor=vendor, clock=Now()) as api,
        served(api.app) as url,
        opened_page(**options) as page,
    ):
        _hurry(api, monkeypatch)
        for queue, calls in enumerate((5, 3, 1, 2, 0, 7)):
            for _ in range(calls):
                await _call(api, queue)
        await _call(api, 8, wait_seconds=0, talk_seconds=900, agent=20)
        await page.clock.install()
        await page.goto(f"{url}/live")
        await page.get_by_text("alarm").first.wait_for()
        for state in ("fresh", "stale"):
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            if SCREENSHOTS:
                await page.screenshot(path=Path(SCREENSHOTS) / f"live-{width}-{scheme}-{state}.png")
            if state == "fresh":
                monkeypatch.setattr(live_answers, "_PAUSE_AFTER_FAILURE", timedelta(0))
                await api.vendor.post(
                    "/simulator/faults", json={"server_errors": 1_000_000, "server_error_status": 500}
                )
                await asyncio.sleep(1.5)
                await page.clock.run_for(31_000)
                await page.locator("body.stale").wait_for()
