"""One upstream query's answer: the pages of a finished job, read and held against the schema."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import arrow_schema, check_rows, in_order
from cache_pipeline.service.jobs import Jobs


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


async def ask(jobs: Jobs, interval: Interval) -> VendorAnswer:
    """Ask the vendor for one interval (G1 to G3, G12).

    Raises:
        UpstreamError: the vendor refused, failed the job or cannot be reached.
        SchemaMismatch: the rows are not what the declaration says.
    """
    platform, report = jobs.platform, jobs.report
    async with jobs.finished(interval) as finished:
        tables: list[pa.Table] = []
        watermarks: list[datetime] = []
        async for page in platform.pages(finished.job, report):
            tables.append(page.rows)
            if page.watermark is not None:
                watermarks.append(page.watermark)
    schema = arrow_schema(platform.columns(report))
    rows = in_order(pa.concat_tables(tables, promote_options="none") if tables else schema.empty_table())
    check_rows(rows, report, interval)
    return VendorAnswer(
        interval,
        rows,
        min(watermarks) if watermarks else finished.fetched_at - report.settle,
        finished.fetched_at,
        finished.calls + (len(tables) if finished.job.answer is None else 0),
        time.monotonic() - finished.started,
    )
