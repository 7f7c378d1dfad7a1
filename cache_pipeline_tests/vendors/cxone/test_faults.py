"""Whatever goes wrong at the other vendor, on its API or with its file, ends in the right rows or in one error of the tree."""

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
from cache_pipeline_tests.vendors.workbench import DAY, all_pages

SMALL = SETTINGS.model_copy(update={"conversations_per_working_day": 80})


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the vendor does not say how long to wait, a minute is short, and so is the pause between repeats."""
    retries = RetryPolicy(first_wait_seconds=0.01)
    monkeypatch.setattr(test_cxone, "UpstreamConfig", partial(UpstreamConfig, retries=retries))
    monkeypatch.setattr(test_cxone, "QuotaPolicy", partial(QuotaPolicy, default_pause_seconds=0.2))


async def _rows(vendor: Extraction, step: str = "", faults: dict[str, Any] | None = None) -> list[Any]:
    """The rows of a day, with faults set right before a step of asking for them."""

    async def strike(now: str) -> None:
        if now == step:
            (await vendor.admin.post("/simulator/faults", json=faults)).raise_for_status()

    await strike("submit")
    job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
    await strike("poll")
    assert (await vendor.cxone.status(job)).done
    await strike("file")
    pages = await all_pages(vendor.cxone, job, extract())
    left = (await vendor.admin.get("/simulator/faults")).json()
    assert not any(left[name] for name in (faults or {}) if not name.endswith(("_seconds", "_status")))
    return pa.concat_tables([page.rows for page in pages]).to_pylist()


_SENT_AWAY: list[dict[str, Any]] = [
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
        *(("submit", faults) for faults in (*_SENT_AWAY, _SLOW)),
        *(("poll", faults) for faults in (*_SENT_AWAY, *_BROKEN)),
        *(("file", faults) for faults in _BROKEN),
    ],
    ids=str,
)
async def test_what_can_be_asked_again_ends_in_the_right_rows(
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
async def test_what_cannot_be_asked_again_is_one_clear_error(
    shared_redis: redis.asyncio.Redis, step: str, faults: dict[str, Any], error: type[Exception]
) -> None:
    async with extraction(shared_redis, SMALL) as vendor:
        with pytest.raises(error):
            await _rows(vendor, step, faults)
        calls = (await vendor.admin.get("/simulator/counters")).json()["calls"]
    submits = [call for call in calls if call["call"] == "POST /data-extraction/v1/jobs"]
    assert sum(call["count"] for call in submits) == 1, "a submit is not sent twice"


async def test_a_job_that_hangs_is_given_up_at_its_deadline(shared_redis: redis.asyncio.Redis) -> None:
    pacing = JobPoller(PollPolicy.guide, guide=GuideSchedule(first_seconds=0.01, max_seconds=0.05))
    async with extraction(shared_redis, SMALL) as vendor:
        await vendor.admin.post("/simulator/faults", json={"hang_jobs": 1})
        job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
        with pytest.raises(UpstreamJobOverdue):
            await pacing.wait_until_done("day", lambda: vendor.cxone.status(job), deadline_seconds=0.2)
        await vendor.cxone.cancel(job)


async def test_a_result_that_is_kept_no_longer_is_gone(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis, SMALL) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.scheduled)
        vendor.clock.seconds += 25 * 3600
        with pytest.raises(UpstreamJobGone, match="EXPIRED"):
            await vendor.cxone.status(job)
