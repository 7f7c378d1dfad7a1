"""Pages of a long result are freed as they are read, and do not wait for the collector of cycles."""

import gc
import weakref

import httpx
import redis.asyncio

from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors import http_jobs as jobs
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.workbench import DAY, INSTANT, all_pages, simulated


async def test_a_page_is_freed_once_it_is_read(shared_redis: redis.asyncio.Redis, monkeypatch) -> None:
    read, alive = jobs.raise_for_refusal, weakref.WeakSet[httpx.Response]()

    def watched(response: httpx.Response) -> None:
        alive.add(response)
        read(response)

    monkeypatch.setattr(jobs, "raise_for_refusal", watched)
    async with simulated(shared_redis, INSTANT.model_copy(update={"conversations_per_working_day": 3500})) as vendor:
        report = rows_report("conversations")
        job = await vendor.genesys.submit(report, DAY, Lane.scheduled)
        gc.collect()
        gc.disable()
        try:
            pages = await all_pages(vendor.genesys, job, report)
            assert len(pages) > 3
            assert len(alive) <= 1
        finally:
            gc.enable()
