"""The live page over minutes, in a real browser whose clock, and every other clock, a test moves: what is shown is never older than it says."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest

from cache_pipeline.api.app import create_app
from cache_pipeline.api.live_stream import BoardFeeds
from cache_pipeline.service import live_push
from cache_pipeline.service.live_answers import live_key
from cache_pipeline.settings import ApiSettings
from cache_pipeline.vendors.genesys import notifications
from cache_pipeline.vendors.genesys.notifications import PushTimes, QueuePush
from cache_pipeline_tests.api import conftest
from cache_pipeline_tests.api.test_live import QUIET, Now, _asked
from cache_pipeline_tests.api.test_live_page import BOARD, _call
from cache_pipeline_tests.api.test_operations_page import opened_page
from cache_pipeline_tests.api.test_served import served

pytestmark = [pytest.mark.timeout(120), pytest.mark.serial]


class Wallboard:
    """The live page in a browser, and one clock for it, the API, Redis and the vendor."""

    def __init__(self, api, clock, page):
        self.api, self.clock, self.page = api, clock, page

    async def advance(self, seconds):
        """Let time pass everywhere, and give the programs a moment to act on it."""
        self.clock.ahead += timedelta(seconds=seconds)
        key = live_key(BOARD, "default")
        left = await self.api.redis.pttl(key) - 1000 * seconds
        if left > 0:
            await self.api.redis.pexpire(key, left)
        else:
            await self.api.redis.delete(key)
        await self.page.clock.fast_forward(1000 * seconds)
        await asyncio.sleep(0.3)

    async def read(self):
        """Return how many calls wait, and how old the page says that this is, at one moment."""
        read = "() => [document.querySelector('#totals dd').textContent, document.querySelector('#age').textContent]"
        waiting, age = await self.page.evaluate(read)
        return int(waiting), int(re.search(r"(\d+) s old", age)[1])

    async def waiting(self):
        return (await self.read())[0]

    async def age(self):
        return (await self.read())[1]


@asynccontextmanager
async def _wallboard(open_api, monkeypatch, **settings):
    clock = Now()
    monkeypatch.setattr(conftest, "create_app", partial(create_app, clock=clock.utc))
    async with (
        open_api(live=[BOARD], vendor=QUIET, clock=clock, **settings) as api,
        served(api.app) as url,
        opened_page() as page,
    ):
        feeds = BoardFeeds(look_seconds=0.02)
        api.app.state.query_service = replace(api.query_service, board_feeds=feeds, clock=clock.utc)
        await page.clock.install()
        await page.goto(f"{url}/live")
        await page.locator("tbody tr").nth(2).wait_for()
        yield Wallboard(api, clock, page)


async def test_call_is_seen_within_thirty_seconds_without_push(open_api, monkeypatch):
    async with _wallboard(open_api, monkeypatch) as board:
        for calls in range(1, 4):
            await _call(board.api, 1)
            waited, asked = 0, await _asked(board.api)
            while await board.waiting() < calls:
                await board.advance(3)
                waited += 3
            assert waited <= 30
            assert await _asked(board.api) == asked + 1
            assert not await board.page.locator("body.stale").count()


async def test_minute_without_the_socket_shows_no_wrong_figure(open_api, monkeypatch):
    """Each figure is what the vendor had at the moment that the page names."""
    monkeypatch.setattr(notifications, "QueuePush", partial(QueuePush, times=PushTimes(ping=0.1, silent=30.0)))
    pace = live_push.PushPace(first_retry=0.1, longest_retry=0.2, settle=0.8)
    monkeypatch.setattr(live_push.LivePush.__init__, "__defaults__", (pace, live_push.random.random))
    async with _wallboard(open_api, monkeypatch, api=ApiSettings(auth="off", push=True)) as board:
        await board.page.get_by_text("the vendor reports each change").wait_for()
        await board.api.vendor.post("/simulator/faults", json={"sockets": "cut"})
        await board.page.get_by_text("no changes are told since").wait_for()
        began = board.clock.utc()
        truth, seen = [(0.0, 0)], set()

        def passed():
            return (board.clock.utc() - began).total_seconds()

        for step in range(20):
            if step % 4 == 0:
                await _call(board.api, 1)
                truth.append((passed(), truth[-1][1] + 1))
            await board.advance(3)
            (shown, age), now = await board.read(), passed()
            moment = now - age
            # A second, because the page rounds, and what a step takes.
            possible = {calls for at, calls in truth if at <= moment + 1.5} - {
                earlier for (_, earlier), (at, _) in pairwise(truth) if at < moment - 1.5
            }
            assert shown in possible, (step, moment, truth)
            assert age <= 30
            seen.add(shown)
        assert len(seen) > 1

        # The vendor cannot even be asked: the last figures stay, marked as old.
        await board.api.vendor.post("/simulator/faults", json={"server_errors": 1_000_000, "server_error_status": 500})
        last = await board.waiting()
        for _ in range(12):
            await board.advance(3)
        await board.page.locator("body.stale").wait_for()
        assert await board.waiting() == last
        assert await board.age() > 30
        assert "These figures are old" in await board.page.get_by_role("alert").inner_text()

        await board.api.vendor.delete("/simulator/faults")
        await board.advance(6)
        await board.page.locator("body:not(.stale)").wait_for()
        await board.page.get_by_text("the vendor reports each change").wait_for()
        assert await board.waiting() == truth[-1][1]
