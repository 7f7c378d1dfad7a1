"""Adapter for Genesys Cloud CX: aggregates in one request or by job, and details by job.

Paths, fields and states are those of the vendor's public API. Aggregate jobs are marked as preview there and may change.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

from cache_pipeline.errors import SchemaMismatch, UpstreamJobCancelled, UpstreamJobFailed, UpstreamJobGone
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.genesys.aggregates import (
    AGGREGATES_PAGE_SIZE,
    aggregate_body,
    aggregate_columns,
    aggregate_page,
    aggregates_path,
    check_aggregates,
    split_by_users,
)
from cache_pipeline.vendors.genesys.details import RowReader, check_rows, row_body, row_columns, row_kind
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.genesys.vendor_filter import check_filters
from cache_pipeline.vendors.http_jobs import cursor_pages, get_object, job_extensions
from cache_pipeline.vendors.json_body import (
    read_incrementally,
    read_instant,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
)

logger = logging.getLogger(__name__)

_FAILED_STATES = {"FAILED": UpstreamJobFailed, "CANCELLED": UpstreamJobCancelled, "EXPIRED": UpstreamJobGone}
_LIVE_STATES = ("QUEUED", "PENDING", "FULFILLED")
#: Status codes that we take to mean an organisation without the preview of aggregate jobs; the vendor documents none.
_NO_SUCH_ENDPOINT = (404, 405)
#: Separates a row-level job's path from its query interval. The pages are compared with that interval.
_INTERVAL_MARK = "?interval="
#: Holds the answers of several queries for one.
_PARTS = "parts"


class GenesysAdapter:
    """Platform ``genesys``; ``query_type`` is a family of aggregates, or with ``rows`` a family of details."""

    name: ClassVar[str] = "genesys"
    #: 300 requests a minute for each client-credentials token. No header reports the remaining quota; a 429 has Retry-After.
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=300,
        window_seconds=60,
        has_remaining_header=False,
    )

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        """Yield filters, metrics and deliveries that the vendor does not support."""
        yield from check_filters(report.filters)
        yield from check_aggregates(report) if report.rows is None else check_rows(report)

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Return the columns, dimensions or keys first; durations are in milliseconds."""
        return aggregate_columns(report) if report.rows is None else row_columns(report)

    @staticmethod
    def end_column(report: Report) -> str | None:
        """Return the column with the end of a row; None for aggregates."""
        return None if report.rows is None else row_kind(report).end

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        """Send the query; a synchronous one returns with its answer.

        Raises:
            PermissionMissing: The client's role lacks a permission that the report needs.
        """
        if report.rows is not None:
            return await self._submit_rows(report, interval, lane)
        base = aggregates_path(report)
        if len(parts := split_by_users(report)) > 1:
            return await self._query_parts(parts, interval, lane)
        body = aggregate_body(report, interval)
        if report.fetch.delivery == "async":
            response = await self._post(f"{base}/jobs", {**body, "pageSize": AGGREGATES_PAGE_SIZE}, {"lane": lane})
            if response.status_code not in _NO_SUCH_ENDPOINT:
                return self._accepted(response, f"{base}/jobs", lane)
            logger.warning(
                "%s: this organisation has no aggregate jobs for %s; falling back to one synchronous request",
                self.name,
                report.query_type,
            )
        # A query changes nothing at the vendor, so a repeat costs quota but does no harm.
        response = await self._post(f"{base}/query", body, {"lane": lane, "idempotent": True})
        raise_for_permission(response)
        client = response.extensions["oauth_client"]
        return VendorJob("", client, lane, answer=read_object(response), answer_size=len(response.content))

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """Poll the job. FULFILLED is done; FAILED, CANCELLED and EXPIRED are failures; the vendor reports no percentage."""
        if job.answer is not None:
            return VendorJobStatus(is_done=True)
        answer = await get_object(self._client, job, _path(job))
        state = read_text(answer, "state")
        if state in _FAILED_STATES:
            raise _FAILED_STATES[state](
                _name(job), read_optional_text(answer, "errorMessage") or f"its state is {state}"
            )
        if state not in _LIVE_STATES:
            raise SchemaMismatch(
                f"job {_name(job)} has unknown state {state!r}; expected one of {', '.join(_LIVE_STATES)}"
            )
        return VendorJobStatus(is_done=state == "FULFILLED")

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Follow the cursor; the last page has none."""
        if job.answer is not None and _PARTS in job.answer:
            for number, part in enumerate(read_mappings(job.answer, _PARTS)):
                yield aggregate_page(part, report, number)
            return
        if job.answer is not None:
            yield replace(aggregate_page(job.answer, report), size=job.answer_size)
            return
        results = f"{_path(job)}/results"
        if report.rows is None:
            async for answer in cursor_pages(self._client, job, results, {}):
                yield replace(aggregate_page(answer.body, report), size=answer.size)
            return
        kind, reader = row_kind(report), RowReader(report, Interval.parse(job.id.partition(_INTERVAL_MARK)[2]))
        watermark: datetime | None = None

        def read(response: httpx.Response) -> Mapping[str, object]:
            return read_incrementally(response, kind.entries, reader.add)

        async for page in cursor_pages(self._client, job, results, {"pageSize": str(kind.page_size)}, read):
            watermark = await self._watermark(page.body, job, report, watermark)
            yield ResultPage(
                reader.table(watermark), reader.complete_until(watermark), ended=reader.ended(), size=page.size
            )

    async def cancel(self, job: VendorJob) -> None:
        """Delete the job, which frees its slot among the vendor's concurrent jobs."""
        if job.answer is None:
            raise_for_permission(await self._client.delete(_path(job), extensions=job_extensions(job)))

    async def probe(self, report: Report, interval: Interval, lane: Lane, oauth_client: str | None = None) -> None:
        """Send the smallest possible query, to check whether the client has permission for a report.

        Args:
            report: The report's declaration.
            interval: A short interval in the past.
            lane: Priority lane of the request.
            oauth_client: The OAuth client that sends the query; any client if None.

        Raises:
            PermissionMissing: The client lacks a permission; the error names those of which any one is sufficient.
            UpstreamError: The report cannot be fetched for another reason.
        """
        extensions: dict[str, object] = {"lane": lane, "idempotent": True}
        if oauth_client is not None:
            extensions["oauth_client"] = oauth_client
        if report.rows is not None:
            # Send a query and do not just read the watermark: that needs a different permission.
            body = {"interval": str(interval), "paging": {"pageSize": 1, "pageNumber": 1}}
            response = await self._post(f"{row_kind(report).path}/query", body, extensions)
        else:
            body = {"interval": str(interval), "metrics": list(report.metrics)}
            response = await self._post(f"{aggregates_path(report)}/query", body, extensions)
        raise_for_permission(response)

    async def _query_parts(self, parts: Iterable[Report], interval: Interval, lane: RequestLane) -> VendorJob:
        """Send one synchronous query for each part of the users, whatever the delivery: a job has one id and not several."""
        answers: list[Mapping[str, object]] = []
        client = ""
        for part in parts:
            body = aggregate_body(part, interval)
            response = await self._post(f"{aggregates_path(part)}/query", body, {"lane": lane, "idempotent": True})
            raise_for_permission(response)
            answers.append(read_object(response))
            client = response.extensions["oauth_client"]
        return VendorJob("", client, lane, answer={_PARTS: answers})

    async def _submit_rows(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        path = f"{row_kind(report).path}/jobs"
        job = self._accepted(await self._post(path, row_body(report, interval), {"lane": lane}), path, lane)
        return VendorJob(f"{job.id}{_INTERVAL_MARK}{interval}", job.oauth_client, lane)

    async def _post(self, path: str, body: Mapping[str, object], extensions: Mapping[str, object]) -> httpx.Response:
        return await self._client.post(path, json=body, extensions=dict(extensions))

    def _accepted(self, response: httpx.Response, path: str, lane: RequestLane) -> VendorJob:
        raise_for_permission(response)
        job_id = read_text(read_object(response), "jobId")
        return VendorJob(f"{path}/{job_id}", response.extensions["oauth_client"], lane)

    async def _watermark(
        self, page: Mapping[str, object], job: VendorJob, report: Report, known: datetime | None
    ) -> datetime:
        """Return the data lake's watermark: from the page, else from an earlier page, else from the vendor's endpoint."""
        if read_optional_text(page, "dataAvailabilityDate"):
            return read_instant(page, "dataAvailabilityDate")
        if known is not None:
            return known
        availability = await get_object(self._client, job, f"{row_kind(report).path}/jobs/availability")
        return read_instant(availability, "dataAvailabilityDate")


def _path(job: VendorJob) -> str:
    return job.id.partition(_INTERVAL_MARK)[0]


def _name(job: VendorJob) -> str:
    return _path(job).rpartition("/")[2]
