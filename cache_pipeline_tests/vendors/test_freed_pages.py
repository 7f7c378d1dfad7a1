"""Tests that pages of a long result are freed as they are read, without waiting for the garbage collector."""

import gc
import weakref

import httpx
import redis.asyncio

from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors import http_jobs
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.workbench import DAY, INSTANT, read_pages, simulated_vendor


async def test_page_is_freed_after_it_is_read(shared_redis: redis.asyncio.Redis, monkeypatch) -> None:
    check, alive = http_jobs.raise_for_refusal, weakref.WeakSet[httpx.Response]()

    def track(response: httpx.Response) -> None:
        alive.add(response)
        check(response)

    monkeypatch.setattr(http_jobs, "raise_for_refusal", track)
    async with simulated_vendor(
        shared_redis, INSTANT.model_copy(update={"conversations_per_working_day": 3500})
    ) as vendor:
        report = rows_report("conversations")
        job = await vendor.genesys.submit(report, DAY, Lane.scheduled)
        gc.collect()
        gc.disable()
        try:
            pages = await read_pages(vendor.genesys, job, report)
            assert len(pages) > 3
            assert len(alive) <= 1
        finally:
            gc.enable()
