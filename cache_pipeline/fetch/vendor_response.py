"""Reads the pages of a finished upstream query, and checks its rows against the schema."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.upstream_jobs import FinishedJob
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import arrow_schema
from cache_pipeline.query.tallies import RowTally
from cache_pipeline.query.verification import AnsweredQuery
from cache_pipeline.rows.digest import tally_by_bucket
from cache_pipeline.rows.row_checks import RowCheck, check_groups
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool
from cache_pipeline.vendors.base import VendorAdapter


@dataclass(frozen=True)
class VendorResponse:
    """One answer of the vendor, checked against the schema but not yet for completeness.

    Attributes:
        interval: The interval of the query.
        rows: Its rows in the report's schema, in the vendor's order.
        watermark: The instant up to which they are complete, by the vendor's word or the report's finality delay.
        fetched_at: When the query was sent.
        calls: The number of requests it took.
        seconds: Time from submit to the last page.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    calls: int
    seconds: float

    def without_rows(self) -> AnsweredQuery:
        """Return what the completeness rules need of it."""
        return AnsweredQuery(
            self.interval, self.rows.tallies, self.watermark, self.rows.num_rows, self.calls, self.seconds
        )


async def read_response(
    adapter: VendorAdapter, report: Report, interval: Interval, finished: FinishedJob
) -> VendorResponse:
    """Read the answer to a query (G12), with at most one page and one block of rows in memory.

    Args:
        adapter: The vendor's adapter.
        report: The declaration.
        interval: The interval of the query.
        finished: The vendor's job.

    Raises:
        UpstreamError: The vendor refused or failed the job, or cannot be reached.
        SchemaMismatch: The rows are not what the report declares, or a page or a group comes twice.
        DiskUnwritable: There are too many rows for memory, and the disk has no space for them.
    """
    check, spool = RowCheck(report, interval), Spool(arrow_schema(adapter.columns(report)))
    seen: dict[tuple[tuple[datetime, RowTally], ...], int] = {}
    watermarks: list[datetime] = []
    pages = 0
    async for page in adapter.pages(finished.job, report):
        pages += 1
        check(page.rows)
        content = tuple(tally_by_bucket(page.rows).items())
        if content and seen.setdefault(content, pages) != pages:
            raise SchemaMismatch(f"page {pages} of {report.name} {interval} repeats page {seen[content]}")
        spool.append(page.rows)
        if page.watermark is not None:
            watermarks.append(page.watermark)
    rows = spool.rows()
    check_groups(rows, report)
    return VendorResponse(
        interval,
        rows,
        # A vendor whose clock is ahead may call an interval complete that has not begun.
        min(*watermarks, finished.fetched_at) if watermarks else finished.fetched_at - report.freshness.finality_delay,
        finished.fetched_at,
        finished.calls + (pages if finished.job.answer is None else 0),
        time.monotonic() - finished.started,
    )
