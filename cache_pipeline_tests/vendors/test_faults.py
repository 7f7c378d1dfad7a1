"""Tests of faults at Genesys: each fault ends in the right rows or in one defined error, never in partial data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
import redis.asyncio

from cache_pipeline.errors import (
    AmbiguousSubmit,
    SchemaMismatch,
    UpstreamFaulted,
    UpstreamJobFailed,
    UpstreamJobGone,
    UpstreamJobOverdue,
)
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline_tests.vendors import workbench
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.workbench import DAY, INSTANT, Vendor, genesys_report, read_pages, simulated_vendor

SMALL = INSTANT.model_copy(update={"conversations_per_working_day": 80, "genesys_default_page_size": 5})
REPORTS = {"figures": genesys_report(), "rows": rows_report("conversations")}


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the default pause after a 429 without Retry-After."""
    monkeypatch.setattr(workbench, "QuotaPolicy", partial(QuotaPolicy, default_pause_seconds=0.2))


@asynccontextmanager
async def _vendor(shared_redis: redis.asyncio.Redis) -> AsyncIterator[Vendor]:
    async with simulated_vendor(shared_redis, SMALL) as vendor:
        yield vendor


async def _rows(vendor: Vendor, kind: str, step: str = "", faults: dict[str, Any] | None = None) -> list[Any]:
    """Fetch the rows of a day; set the faults right before one step."""
    report = REPORTS[kind]

    async def inject(current: str) -> None:
        if current == step:
            (await vendor.admin.post("/simulator/faults", json=faults)).raise_for_status()

    await inject("submit")
    job = await vendor.genesys.submit(report, DAY, Lane.scheduled)
    await inject("poll")
    assert (await vendor.genesys.status(job)).is_done
    await inject("page")
    pages = await read_pages(vendor.genesys, job, report)
    remaining = (await vendor.admin.get("/simulator/faults")).json()
    assert not any(remaining[name] for name in (faults or {}) if name not in ("server_error_status", *_SECONDS))
    return sorted(pa.concat_tables([page.rows for page in pages]).to_pylist(), key=str)


_SECONDS = ("throttle_seconds", "slow_seconds")


@pytest.mark.parametrize(
    ("kind", "step"), [("rows", "submit"), ("rows", "poll"), ("rows", "page"), ("figures", "submit")]
)
@pytest.mark.parametrize(
    "faults",
    [
        {"throttle": 1, "throttle_seconds": 1},
        {"reject_with_429": 1},
        {"unauthorized": 1},
        {"revoke_tokens": 1},
        {"slow_bodies": 1, "slow_seconds": 0.2},
    ],
    ids=lambda faults: next(iter(faults)),
)
async def test_retryable_fault_ends_in_the_right_rows(
    shared_redis: redis.asyncio.Redis, kind: str, step: str, faults: dict[str, Any]
) -> None:
    async with _vendor(shared_redis) as vendor:
        assert await _rows(vendor, kind, step, faults) == await _rows(vendor, kind) != []


@pytest.mark.parametrize("step", ["poll", "page"])
@pytest.mark.parametrize(
    "faults",
    [{"server_errors": 1, "server_error_status": status} for status in (500, 502, 503, 504)] + [{"resets": 1}],
    ids=str,
)
async def test_polls_and_pages_are_retried_after_server_errors(
    shared_redis: redis.asyncio.Redis, step: str, faults: dict[str, Any]
) -> None:
    async with _vendor(shared_redis) as vendor:
        assert await _rows(vendor, "rows", step, faults) == await _rows(vendor, "rows") != []


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"server_errors": 1, "server_error_status": 500}, UpstreamFaulted),
        ({"server_errors": 1, "server_error_status": 502}, AmbiguousSubmit),
        ({"server_errors": 1, "server_error_status": 503}, AmbiguousSubmit),
        ({"server_errors": 1, "server_error_status": 504}, AmbiguousSubmit),
        ({"resets": 1}, AmbiguousSubmit),
        ({"truncate_bodies": 1}, SchemaMismatch),
    ],
    ids=str,
)
async def test_ambiguous_submit_is_not_sent_twice(
    shared_redis: redis.asyncio.Redis, faults: dict[str, Any], error: type[Exception]
) -> None:
    async with _vendor(shared_redis) as vendor:
        with pytest.raises(error):
            await _rows(vendor, "rows", "submit", faults)
        submits = await vendor.calls("POST /api/v2/analytics/conversations/details/jobs")
    assert sum(submits.values()) == 1


@pytest.mark.parametrize(("kind", "step"), [("rows", "poll"), ("rows", "page"), ("figures", "page")])
async def test_truncated_body_is_refused(shared_redis: redis.asyncio.Redis, kind: str, step: str) -> None:
    async with _vendor(shared_redis) as vendor:
        with pytest.raises(SchemaMismatch, match="not JSON"):
            await _rows(vendor, kind, step, {"truncate_bodies": 1})


@pytest.mark.parametrize(
    ("kind", "fault", "error"),
    [
        ("rows", "fail_jobs", UpstreamJobFailed),
        ("figures", "fail_jobs", UpstreamJobFailed),
        ("rows", "vanish_jobs", UpstreamJobGone),
        ("figures", "vanish_jobs", UpstreamJobGone),
        ("rows", "expire_jobs", UpstreamJobGone),
    ],
)
async def test_failed_or_lost_job_is_one_clear_error(
    shared_redis: redis.asyncio.Redis, kind: str, fault: str, error: type[UpstreamJobFailed]
) -> None:
    # More than one page, so that a result can expire while it is read.
    long_results = SMALL.model_copy(update={"conversations_per_working_day": 2500})
    async with simulated_vendor(shared_redis, long_results) as vendor:
        with pytest.raises(error) as failed:
            await _rows(vendor, kind, "submit", {fault: 1})
    assert type(failed.value) is error


async def test_hanging_job_is_abandoned_and_can_be_cancelled(
    shared_redis: redis.asyncio.Redis,
) -> None:
    poller = JobPoller(PollPolicy.guide, guide=GuideSchedule(first_seconds=0.01, max_seconds=0.05))
    async with _vendor(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={"hang_jobs": 1})
        job = await vendor.genesys.submit(REPORTS["rows"], DAY, Lane.scheduled)
        with pytest.raises(UpstreamJobOverdue):
            await poller.wait_until_done("day", lambda: vendor.genesys.status(job), deadline_seconds=0.2)
        await vendor.genesys.cancel(job)
        with pytest.raises(UpstreamJobFailed, match="its state is CANCELLED"):
            await vendor.genesys.status(job)


async def test_restated_rows_arrive_on_the_next_fetch(
    shared_redis: redis.asyncio.Redis,
) -> None:
    async with _vendor(shared_redis) as vendor:
        before = await _rows(vendor, "rows")
        (await vendor.admin.post("/simulator/restatements", json={"day": "2024-06-10"})).raise_for_status()
        after = await _rows(vendor, "rows")
    talk = [{row["conversation_id"]: row["t_talk"] for row in rows} for rows in (before, after)]
    longer = [name for name, length in talk[0].items() if talk[1][name] > length]
    assert talk[0].keys() == talk[1].keys()
    assert 0 < len(longer) < 0.2 * len(before)
