"""The interface that every vendor's adapter implements: submit a query, poll it, read its pages, cancel it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.request_lane import RequestLane


@dataclass(frozen=True)
class Capabilities:
    """What a vendor's API offers.

    Attributes:
        requests: Requests allowed in each window for each OAuth client.
        window_seconds: Length of that window.
        has_remaining_header: Whether responses carry the remaining quota, so that our own count can be corrected by it.
        has_cancel: Whether a job can be cancelled, which frees its slot at the vendor.
        shortest_query: Length of the shortest interval of a query; a shorter one brings the same answer.
    """

    requests: int
    window_seconds: float
    has_remaining_header: bool
    has_cancel: bool = True
    shortest_query: timedelta = timedelta(0)


@dataclass(frozen=True)
class VendorJob:
    """One query that the vendor has accepted.

    Attributes:
        id: The vendor's own id, or empty for a query that was answered synchronously.
        oauth_client: The OAuth client that submitted it; polls and page reads are sent as the same client.
        lane: Priority lane of the request.
        answer: The answer itself, if it came with the response to the submit.
        answer_size: The length of that answer in bytes.
    """

    id: str
    oauth_client: str
    lane: RequestLane
    answer: Mapping[str, object] | None = field(default=None, repr=False)
    answer_size: int = 0


@dataclass(frozen=True)
class VendorJobStatus:
    """Progress of a job.

    Attributes:
        is_done: Whether the job has finished.
        percent: Progress from 0 to 100, or None if the vendor does not report it.
    """

    is_done: bool
    percent: float | None = None


@dataclass(frozen=True)
class EndedRow:
    """A row that began before the interval of a query, and has ended.

    Attributes:
        bucket: The bucket in which it began.
        key: The value of its first dimension.
    """

    bucket: Interval
    key: str


@dataclass(frozen=True)
class ResultPage:
    """One page of a result.

    Attributes:
        rows: The rows, in the report's schema.
        watermark: The instant up to which the vendor says its data is complete, or None if the page carries none.
        delay: The least age from which the figures are final if the page carries no watermark.
        split: For each row the group keys that the vendor added without being asked, as ``name=value`` lines; null for a
            row without any. None if no row has any. Rows that differ in nothing else belong to one group, and are folded.
        ended: The rows of earlier buckets that have ended, with which history may have to catch up.
        size: The length of the page in bytes, as the vendor's limits may count it; 0 if it is not known.
    """

    rows: pa.Table
    watermark: datetime | None
    delay: timedelta = timedelta(0)
    split: pa.Array[Any] | None = None
    ended: tuple[EndedRow, ...] = ()
    size: int = 0


class VendorAdapter(Protocol):
    """One vendor's API. Only the adapter knows its paths, field names and shapes (G14).

    Attributes:
        name: The vendor's name, as reports and settings write it.
        capabilities: What this vendor's API offers.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        """Yield the mistakes that only this vendor can detect, as (field, problem)."""
        ...

    @staticmethod
    def end_column(report: Report) -> str | None:
        """Return the column with the end of a row; None if the rows of the report have none."""
        ...

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Return the columns of a report's answers, dimensions first."""
        ...

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        """Send one query.

        Raises:
            UpstreamError: The query was refused, the vendor could not be reached, or it may have accepted the query.
        """
        ...

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """Poll a job.

        Raises:
            UpstreamJobGone: The vendor no longer knows the job, or no longer has its result.
            UpstreamJobFailed: The job failed at the vendor.
        """
        ...

    def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Read a finished job's rows, page by page; there is at least one page, possibly empty.

        Raises:
            UpstreamJobGone: The vendor no longer has the rows.
            SchemaMismatch: The rows do not match the declaration.
        """
        ...

    async def cancel(self, job: VendorJob) -> None:
        """Cancel a job that is no longer needed, if the vendor supports that."""
        ...
