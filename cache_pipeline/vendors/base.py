"""What every vendor's API looks like from above: submit, status, pages, cancel, and what it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Protocol

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column


@dataclass(frozen=True)
class Capabilities:
    """What a vendor can do, frozen into one description.

    Attributes:
        requests: requests allowed in each window for each OAuth client.
        window_seconds: length of that window.
        sends_remaining: whether answers carry the remaining quota, so that ours can be corrected by it.
        reports_percent: whether a job tells how far it is.
        has_watermark: whether answers say until when their data is complete.
        omits_empty: whether groups and buckets without events are left out, not filled with zeros.
        additive: whether a figure belongs to the one bucket in which it arose, so that sums and counts of finer buckets
            are those of a coarser one.
        by_cursor: whether a long result is read in pages.
        cancels: whether a job can be given up, which frees its place at the vendor.
        result_life: how long a finished result is kept; None where the vendor says it job by job, or not at all.
        longest_interval: the longest interval of one query; None where none is documented.
        max_body_bytes: a longer request body is refused; None where no limit is documented.
    """

    requests: int
    window_seconds: float
    sends_remaining: bool
    reports_percent: bool
    has_watermark: bool
    omits_empty: bool
    additive: bool = True
    by_cursor: bool = True
    cancels: bool = True
    result_life: timedelta | None = None
    longest_interval: timedelta | None = None
    max_body_bytes: int | None = None


@dataclass(frozen=True)
class VendorJob:
    """One query that the vendor holds.

    Attributes:
        id: the vendor's own id, or empty for an answer that came at once.
        oauth_client: the client that submitted it; polls and pages are sent as the same one.
        lane: who asks.
        answer: the answer itself where it came with the submit.
    """

    id: str
    oauth_client: str
    lane: Lane
    answer: Mapping[str, object] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class VendorJobStatus:
    """How far a job is; percent is 0 to 100 and None where the vendor does not say."""

    done: bool
    percent: float | None = None


@dataclass(frozen=True)
class ResultPage:
    """One page of rows in the platform's schema, and the vendor's watermark where the page carried one."""

    rows: pa.Table
    watermark: datetime | None


class VendorAdapter(Protocol):
    """One vendor's API. The only place that knows its paths, words and shapes (G14).

    Attributes:
        name: as reports name it.
        capabilities: what this vendor can do.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @staticmethod
    def review(report: Report) -> Iterable[tuple[str, str]]:
        """Mistakes that only the platform can see, as (field, problem)."""
        ...

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """The columns of a report's answers, dimensions first."""
        ...

    async def submit(self, report: Report, interval: Interval, lane: Lane) -> VendorJob:
        """Send one query.

        Raises:
            UpstreamError: refused, unreachable, or maybe taken.
        """
        ...

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """Ask how far a job is.

        Raises:
            JobGone: the vendor no longer knows it, or no longer has its result.
            JobFailed: the vendor gave it up.
        """
        ...

    def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Read a finished job's rows, page by page; at least one page, maybe empty.

        Raises:
            JobGone: the vendor no longer has them.
            SchemaMismatch: rows that are not what the declaration says.
        """
        ...

    async def cancel(self, job: VendorJob) -> None:
        """Tell the vendor that nobody wants the answer any more, where it can be told."""
        ...
