"""Reads the pages of a finished upstream query, and checks its rows against the schema."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.upstream_jobs import FinishedJob
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.tallies import RowTally
from cache_pipeline.query.verification import AnsweredQuery
from cache_pipeline.rows.digest import tally_by_bucket
from cache_pipeline.rows.merge import CollectedRows
from cache_pipeline.rows.row_checks import RowCheck
from cache_pipeline.rows.rows import Rows
from cache_pipeline.vendors.base import EndedRow, VendorAdapter


@dataclass(frozen=True)
class VendorResponse:
    """One answer of the vendor, checked against the schema but not yet for completeness.

    Attributes:
        interval: The interval of the query.
        rows: Its rows in the report's schema, each record and each group once.
        watermark: The instant up to which they are complete, by the vendor's word or the report's finality delay.
        fetched_at: When the query was sent.
        calls: The number of requests it took.
        seconds: Time from submit to the last page.
        sent: The number of rows as the vendor sent them in each bucket, by its start, if it split the groups further than
            asked; empty if it did not.
        repeats: The number of rows that the vendor sent more than once.
        ended: The rows of earlier buckets that have ended.
        size: The length of its pages in bytes; 0 if it is not known.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    calls: int
    seconds: float
    sent: Mapping[datetime, int] = field(default_factory=dict[datetime, int])
    repeats: int = 0
    ended: frozenset[EndedRow] = frozenset()
    size: int = 0

    @property
    def length(self) -> int:
        """The number of rows that the vendor sent, which is what its limits count."""
        return (sum(self.sent.values()) if self.sent else self.rows.num_rows) + self.repeats

    def count_sent(self, bucket: Interval) -> int:
        """Return the number of rows that the vendor sent of a bucket."""
        return self.sent.get(bucket.start, 0) if self.sent else self.rows.count([bucket])

    def without_rows(self) -> AnsweredQuery:
        """Return what the completeness rules need of it."""
        return AnsweredQuery(
            self.interval,
            self.rows.tallies,
            self.watermark,
            self.length,
            self.calls,
            self.seconds,
            self.sent,
            self.size,
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
        SchemaMismatch: The rows are not what the report declares, two different records have one id, or a page comes twice.
        DiskUnwritable: There are too many rows for memory, and the disk has no space for them.
    """
    check, collected = RowCheck(report, interval), CollectedRows(report, adapter.columns(report))
    seen: dict[tuple[tuple[datetime, RowTally], ...], int] = {}
    watermarks: list[datetime] = []
    ended: set[EndedRow] = set()
    pages, size, delay = 0, 0, report.freshness.finality_delay
    async for page in adapter.pages(finished.job, report):
        pages += 1
        size += page.size
        check(page.rows)
        content = tuple(tally_by_bucket(page.rows).items())
        if page.rows.num_rows > 1 and seen.setdefault(content, pages) != pages:
            raise SchemaMismatch(f"page {pages} of {report.name} {interval} repeats page {seen[content]}")
        collected.append(page.rows, page.split)
        delay = max(delay, page.delay)
        ended.update(page.ended)
        if page.watermark is not None:
            watermarks.append(page.watermark)
    merged = collected.merge()
    return VendorResponse(
        interval,
        merged.rows,
        # A vendor whose clock is ahead may call an interval complete that has not begun.
        min(*watermarks, finished.fetched_at) if watermarks else finished.fetched_at - delay,
        finished.fetched_at,
        finished.calls + (pages if finished.job.answer is None else 0),
        time.monotonic() - finished.started,
        merged.sent,
        merged.repeats,
        frozenset(ended),
        size,
    )
