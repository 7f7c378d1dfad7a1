"""Live reports fresh to a second: one process follows the vendor, the others read; without the socket the age is told."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import pytest

from cache_pipeline.api.app import create_app
from cache_pipeline.service import live_push
from cache_pipeline.settings import ApiSettings
from cache_pipeline.vendors.genesys import notifications
from cache_pipeline.vendors.genesys.notifications import PushTimes, QueuePush
from cache_pipeline_tests.api.conftest import REPORT
from cache_pipeline_tests.api.test_live import QUIET, URL, Now
from cache_pipeline_tests.api.test_live_page import BOARD
from cache_pipeline_tests.api.test_operations_page import opened_page
from cache_pipeline_tests.api.test_served import served

PUSH = ApiSettings(auth="off", push=True)


async def _until(api, is_wanted, seconds=8.0):
    """Return the first answer that is wanted, and how many seconds it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            answer = await api.http.get(URL)
            if answer.status_code == 200 and is_wanted(answer.json()):
                return answer.json(), time.monotonic() - started
            await asyncio.sleep(0.02)


def _mode(mode):
    return lambda document: document["delivery"]["mode"] == mode


def _waiting(document):
    column = document["columns"].index("o_waiting")
    return sum(row[column] for row in document["rows"])


async def _count(api, part):
    calls = (await api.vendor.get("/simulator/counters")).json()["calls"]
    return sum(each["count"] for each in calls if part in each["call"])


@pytest.fixture
def hurried(monkeypatch):
    """A socket that is missed soon, and that is opened again soon."""
    monkeypatch.setattr(notifications, "QueuePush", partial(QueuePush, times=PushTimes(ping=0.1, silent=0.5)))
    monkeypatch.setattr(live_push.LivePush, "pace", live_push.PushPace(0.1, 0.2, 0.8, timedelta(seconds=0.3)))
    monkeypatch.setattr(live_push.LivePush.__init__, "__defaults__", (live_push.LivePush.pace, live_push.random.random))


async def test_a_call_is_seen_within_two_seconds_and_nothing_is_asked(open_api):
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now(), api=PUSH) as api:
        await _until(api, _mode("push"))
        asked = await _count(api, "observations")
        await api.vendor.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        _, seconds = await _until(api, lambda document: _waiting(document) == 1)
        assert seconds < 2
        assert int((await api.http.get(URL)).headers["Age"]) <= 2
        assert await _count(api, "observations") == asked <= 2


async def test_off_by_default(open_api):
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now()) as api:
        document, _ = await _until(api, _mode("query"))
        assert document["delivery"] == {"mode": "query", "since": None, "problem": None}
        assert await _count(api, "notifications") == 0


async def test_one_process_holds_the_channel_and_the_others_read(open_api):
    async with open_api(live=[BOARD], vendor=QUIET, clock=Now(), api=PUSH) as api, AsyncExitStack() as first:
        await _until(api, _mode("push"))
        other = create_app(api.settings, reports={REPORT.name: REPORT}, live_reports={BOARD.name: BOARD})
        await first.enter_async_context(other.router.lifespan_context(other))
        await asyncio.sleep(0.5)
        assert await _count(api, "POST /api/v2/notifications/channels") == 1
        read = other.state.query_service.report_service.live
        answer, is_at_hand = await read.answer(BOARD, "default")
        assert is_at_hand
        assert b'"mode":"push"' in answer.body


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", [{"sockets": "cut"}, {"sockets": "silent"}, {"rubbish_messages": 1_000_000}])
async def test_without_the_socket_figures_are_right_and_say_since_when(open_api, fault):
    async with open_api(live=[BOARD], vendor={**QUIET, "notification_seconds": 0.05}, clock=Now(), api=PUSH) as api:
        await _until(api, _mode("push"))
        await api.vendor.post("/simulator/faults", json=fault)
        document, _ = await _until(api, _mode("polling"))
        assert document["delivery"]["since"] <= document["freshUntil"]
        assert "notifications are lost" in document["delivery"]["problem"]
        await api.vendor.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        document, _ = await _until(api, lambda document: _waiting(document) == 1)
        assert document["delivery"]["mode"] == "polling"
        await api.vendor.delete("/simulator/faults")
        document, _ = await _until(api, _mode("push"))
        assert _waiting(document) == 1


@pytest.mark.timeout(120)
async def test_browser_sees_a_call_within_two_seconds(open_api):
    async with (
        open_api(live=[BOARD], vendor=QUIET, clock=Now(), api=PUSH) as api,
        served(api.app) as url,
        opened_page() as page,
    ):
        await page.goto(f"{url}/live")
        await page.get_by_text("the vendor reports each change").wait_for()
        await api.vendor.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        started = time.monotonic()
        await page.locator("#totals dd").first.filter(has_text="1").wait_for()
        assert time.monotonic() - started < 2
