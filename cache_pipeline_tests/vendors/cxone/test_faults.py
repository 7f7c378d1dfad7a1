"""Tests of faults at CXone: each fault of the API or the file ends in the right rows or in one defined error."""

from functools import partial
from typing import Any

import pyarrow as pa
import pytest
import redis.asyncio

from cache_pipeline.errors import (
    AmbiguousSubmit,
    SchemaMismatch,
    UpstreamFaulted,
    UpstreamJobGone,
    UpstreamJobOverdue,
    UpstreamUnreachable,
)
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.config import RetryPolicy, UpstreamConfig
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline_tests.vendors.cxone import test_cxone
from cache_pipeline_tests.vendors.cxone.test_cxone import SETTINGS, Extraction, extract, extraction
from cache_pipeline_tests.vendors.workbench import DAY, read_pages

SMALL = SETTINGS.model_copy(update={"conversations_per_working_day": 80})


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the default pause after a 429 without Retry-After, and the pause between retries."""
    retries = RetryPolicy(first_wait_seconds=0.01)
    monkeypatch.setattr(test_cxone, "UpstreamConfig", partial(UpstreamConfig, retries=retries))
    monkeypatch.setattr(test_cxone, "QuotaPolicy", partial(QuotaPolicy, default_pause_seconds=0.2))


async def _rows(vendor: Extraction, step: str = "", faults: dict[str, Any] | None = None) -> list[Any]:
    """Fetch the rows of a day; set the faults right before one step."""

    async def inject(current: str) -> None:
        if current == step:
            (await vendor.admin.post("/simulator/faults", json=faults)).raise_for_status()

    await inject("submit")
    job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
    await inject("poll")
    assert (await vendor.cxone.status(job)).is_done
    await inject("file")
    pages = await read_pages(vendor.cxone, job, extract())
    remaining = (await vendor.admin.get("/simulator/faults")).json()
    assert not any(remaining[name] for name in (faults or {}) if not name.endswith(("_seconds", "_status")))
    return pa.concat_tables([page.rows for page in pages]).to_pylist()


_REJECTED: list[dict[str, Any]] = [
    {"throttle": 1, "throttle_seconds": 1},
    {"reject_with_429": 1},
    {"unauthorized": 1},
    {"revoke_tokens": 1},
]
_SLOW: dict[str, Any] = {"slow_bodies": 1, "slow_seconds": 0.2}
_BROKEN: list[dict[str, Any]] = [{"server_errors": 1, "server_error_status": 503}, {"resets": 1}, _SLOW]


@pytest.mark.parametrize(
    ("step", "faults"),
    [
        *(("submit", faults) for faults in (*_REJECTED, _SLOW)),
        *(("poll", faults) for faults in (*_REJECTED, *_BROKEN)),
        *(("file", faults) for faults in _BROKEN),
    ],
    ids=str,
)
async def test_retryable_fault_ends_in_the_right_rows(
    shared_redis: redis.asyncio.Redis, step: str, faults: dict[str, Any]
) -> None:
    async with extraction(shared_redis, SMALL) as vendor:
        assert await _rows(vendor, step, faults) == await _rows(vendor) != []


@pytest.mark.parametrize(
    ("step", "faults", "error"),
    [
        ("submit", {"server_errors": 1, "server_error_status": 500}, UpstreamFaulted),
        ("submit", {"server_errors": 1, "server_error_status": 504}, AmbiguousSubmit),
        ("submit", {"resets": 1}, AmbiguousSubmit),
        ("submit", {"truncate_bodies": 1}, SchemaMismatch),
        ("poll", {"truncate_bodies": 1}, SchemaMismatch),
        ("file", {"truncate_bodies": 1}, SchemaMismatch),
        ("file", {"resets": 9}, UpstreamUnreachable),
        ("file", {"server_errors": 9, "server_error_status": 500}, UpstreamFaulted),
    ],
    ids=str,
)
async def test_other_fault_is_one_clear_error(
    shared_redis: redis.asyncio.Redis, step: str, faults: dict[str, Any], error: type[Exception]
) -> None:
    async with extraction(shared_redis, SMALL) as vendor:
        with pytest.raises(error):
            await _rows(vendor, step, faults)
        calls = (await vendor.admin.get("/simulator/counters")).json()["calls"]
    submits = [call for call in calls if call["call"] == "POST /data-extraction/v1/jobs"]
    assert sum(call["count"] for call in submits) == 1, "a submit is not sent twice"


async def test_hanging_job_is_abandoned_at_its_deadline(shared_redis: redis.asyncio.Redis) -> None:
    poller = JobPoller(PollPolicy.guide, guide=GuideSchedule(first_seconds=0.01, max_seconds=0.05))
    async with extraction(shared_redis, SMALL) as vendor:
        await vendor.admin.post("/simulator/faults", json={"hang_jobs": 1})
        job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
        with pytest.raises(UpstreamJobOverdue):
            await poller.wait_until_done("day", lambda: vendor.cxone.status(job), deadline_seconds=0.2)
        await vendor.cxone.cancel(job)


async def test_expired_result_is_gone(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis, SMALL) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
        vendor.clock.seconds += 25 * 3600
        with pytest.raises(UpstreamJobGone, match="EXPIRED"):
            await vendor.cxone.status(job)
