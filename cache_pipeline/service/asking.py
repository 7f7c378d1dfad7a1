"""One upstream query from submit to checked rows: submit, poll, pages, validate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import arrow_schema, check_rows, in_order
from cache_pipeline.upstream.errors import UpstreamError
from cache_pipeline.upstream.platforms.base import Job, JobStatus, Platform
from cache_pipeline.upstream.poll import guide_delays, poll_until_done
from cache_pipeline.upstream.quota import Lane

#: Longer than any query is known to take; a job beyond it is reported, not awaited for ever.
_JOB_DEADLINE_SECONDS = 30 * 60.0


@dataclass(frozen=True)
class VendorAnswer:
    """One answer of the vendor, checked against the schema but not yet judged.

    Attributes:
        interval: what was asked.
        rows: in the report's schema and order.
        watermark: until when they are complete, by the vendor's word or the report's settle time.
        fetched_at: when the query was sent.
        calls: requests it took.
        seconds: from submit to the last page.
    """

    interval: Interval
    rows: pa.Table
    watermark: datetime
    fetched_at: datetime
    calls: int
    seconds: float


async def ask(
    platform: Platform, report: Report, interval: Interval, lane: Lane, clock: Callable[[], datetime]
) -> VendorAnswer:
    """Ask the vendor for one interval (G1 to G3, G12).

    Raises:
        UpstreamError: the vendor refused, failed the job or cannot be reached.
        SchemaMismatch: the rows are not what the declaration says.
    """
    started, fetched_at = time.monotonic(), clock()
    job = await platform.submit(report, interval, lane)
    polls = 0

    async def done() -> JobStatus | None:
        nonlocal polls
        polls += 1
        status = await platform.status(job)
        return status if status.done else None

    try:
        if job.answer is None:
            await poll_until_done(done, guide_delays(), deadline=_JOB_DEADLINE_SECONDS)
        schema = arrow_schema(platform.columns(report))
        tables: list[pa.Table] = []
        watermarks: list[datetime] = []
        async for page in platform.pages(job, report):
            tables.append(page.rows)
            if page.watermark is not None:
                watermarks.append(page.watermark)
    except BaseException:
        await _cancelled(platform, job)
        raise
    rows = in_order(pa.concat_tables(tables, promote_options="none") if tables else schema.empty_table())
    check_rows(rows, report, interval)
    return VendorAnswer(
        interval,
        rows,
        min(watermarks) if watermarks else fetched_at - report.settle,
        fetched_at,
        1 + polls + (len(tables) if job.answer is None else 0),
        time.monotonic() - started,
    )


async def _cancelled(platform: Platform, job: Job) -> None:
    """Free the vendor's job; what went wrong before matters more than a cancel that fails."""
    try:
        await platform.cancel(job)
    except UpstreamError:
        return
