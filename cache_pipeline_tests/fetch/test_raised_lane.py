"""A submit that waits for the quota moves to the lane of a more urgent caller that waits for its result."""

import asyncio
from datetime import UTC, datetime

import pytest

from cache_pipeline.fetch.upstream_jobs import UpstreamJobs
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.request_lane import RaisableLane, RequestLane
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline_tests.fetch.scripted_vendor import REPORT, hours
from cache_pipeline_tests.storage.memory import MemoryLedger, MemoryServer

NOW = datetime(2026, 1, 20, tzinfo=UTC)


class WaitingAdapter:
    """An adapter whose submit gets no slot until its lane is raised."""

    name = "scripted"

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        assert isinstance(lane, RaisableLane)
        await lane.wait_until_raised()
        return VendorJob("", "client", lane, answer={})


async def test_waiting_submit_is_raised_by_a_more_urgent_caller(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache_pipeline.fetch.upstream_jobs._LANE_CHECK_SECONDS", 0.01)
    wanted = Priority(Lane.backfill)

    async def current_priority() -> Priority:
        return wanted

    series, ledger = Series(REPORT), MemoryLedger(MemoryServer())
    jobs = UpstreamJobs(WaitingAdapter(), series, lambda: NOW, ledger)  # pyright: ignore[reportArgumentType]
    async with asyncio.timeout(30), jobs, jobs.claim(hours(0, 24), NOW, Lane.backfill) as claim:
        finishing = asyncio.create_task(jobs.finish(claim, current_priority))
        await asyncio.sleep(0.1)
        assert not finishing.done()
        wanted = Priority(Lane.interactive)
        assert (await finishing).job.lane == Priority(Lane.interactive)
