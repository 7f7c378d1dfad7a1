"""Genesys Cloud CX: aggregates, in one request or by job, and details by job.

Paths, fields and states are those of the vendor's public API; aggregate jobs are marked preview there and may change.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import ClassVar

from cache_pipeline.errors import SchemaMismatch, UpstreamJobFailed, UpstreamJobGone
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.genesys.aggregates import (
    PAGE_SIZE,
    aggregate_body,
    aggregate_columns,
    aggregate_table,
    aggregates_path,
    review_aggregates,
)
from cache_pipeline.vendors.genesys.details import RowReader, review_rows, row_body, row_columns, row_kind
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.genesys.vendor_filter import review_filters
from cache_pipeline.vendors.http_jobs import as_submitted, cursor_pages, get_object
from cache_pipeline.vendors.json_body import (
    read_incrementally,
    read_instant,
    read_object,
    read_optional_text,
    read_text,
)

_log = logging.getLogger(__name__)

_DEAD_STATES = {"FAILED": UpstreamJobFailed, "CANCELLED": UpstreamJobFailed, "EXPIRED": UpstreamJobGone}
_LIVING_STATES = ("QUEUED", "PENDING", "FULFILLED")
#: What an organisation without the preview of aggregate jobs is taken to answer; the vendor does not say.
_NO_SUCH_ENDPOINT = (404, 405)
#: Parts a row-level job's path from the interval it was asked for, which its pages are held against.
_ASKED = "?interval="


class GenesysAdapter:
    """Platform ``genesys``; ``query_type`` is an aggregates family, or with ``rows`` that of the details."""

    name: ClassVar[str] = "genesys"
    #: 300 requests a minute for each client-credentials token; no header tells what is left, only Retry-After on 429.
    #: Details carry a watermark; how long results live is told job by job.
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=300,
        window_seconds=60,
        sends_remaining=False,
        reports_percent=False,
        has_watermark=False,
        omits_empty=True,
        max_body_bytes=512_000,
    )

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @staticmethod
    def review(report: Report) -> Iterable[tuple[str, str]]:
        """What the vendor does not have."""
        yield from review_filters(report.filters)
        yield from review_aggregates(report) if report.rows is None else review_rows(report)

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Dimensions or keys first; durations are in milliseconds."""
        return aggregate_columns(report) if report.rows is None else row_columns(report)

    async def submit(self, report: Report, interval: Interval, lane: Lane) -> VendorJob:
        """Send the query; a synchronous one comes back with its answer.

        Raises:
            PermissionMissing: the client's role lacks what the report needs.
        """
        if report.rows is not None:
            return await self._submit_rows(report, interval, lane)
        base = aggregates_path(report)
        body = aggregate_body(report, interval)
        if report.delivery == "async":
            response = await self._post(f"{base}/jobs", {**body, "pageSize": PAGE_SIZE}, {"lane": lane})
            if response.status_code not in _NO_SUCH_ENDPOINT:
                return self._taken(response, f"{base}/jobs", lane)
            _log.warning("%s: no aggregate jobs of %s here; asked in one request", self.name, report.query_type)
        # A query changes nothing at the vendor, so a repeat costs quota but does no harm.
        response = await self._post(f"{base}/query", body, {"lane": lane, "idempotent": True})
        raise_for_permission(response)
        return VendorJob("", response.extensions["oauth_client"], lane, answer=read_object(response))

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """FULFILLED is done; FAILED, CANCELLED and EXPIRED are failures; no percentage exists."""
        if job.answer is not None:
            return VendorJobStatus(done=True)
        answer = await get_object(self._client, job, _path(job))
        state = read_text(answer, "state")
        if state in _DEAD_STATES:
            raise _DEAD_STATES[state](_name(job), read_optional_text(answer, "errorMessage") or f"it is {state}")
        if state not in _LIVING_STATES:
            raise SchemaMismatch(f"job {_name(job)} is {state!r}, which is none of {', '.join(_LIVING_STATES)}")
        return VendorJobStatus(done=state == "FULFILLED")

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Follow the cursor; the last page has none."""
        if job.answer is not None:
            yield ResultPage(aggregate_table(job.answer, report), watermark=None)
            return
        results = f"{_path(job)}/results"
        if report.rows is None:
            async for answer in cursor_pages(self._client, job, results, {}):
                yield ResultPage(aggregate_table(answer, report), watermark=None)
            return
        kind, reader = row_kind(report), RowReader(report, Interval.parse(job.id.partition(_ASKED)[2]))
        watermark: datetime | None = None

        def read(response: httpx.Response) -> Mapping[str, object]:
            return read_incrementally(response, kind.entries, reader.take)

        async for told in cursor_pages(self._client, job, results, {"pageSize": str(kind.page_size)}, read):
            watermark = await self._watermark(told, job, report, watermark)
            yield ResultPage(reader.table(watermark), reader.complete_until(watermark))

    async def cancel(self, job: VendorJob) -> None:
        """Delete the job, which frees its place among the vendor's concurrent ones."""
        if job.answer is None:
            raise_for_permission(await self._client.delete(_path(job), extensions=as_submitted(job)))

    async def probe(self, report: Report, interval: Interval, lane: Lane, oauth_client: str | None = None) -> None:
        """Ask for as little as there is, to learn whether the client may ask for a report.

        Args:
            report: the declaration.
            interval: a short one, in the past.
            lane: who asks.
            oauth_client: the one that shall ask; any, if None.

        Raises:
            PermissionMissing: naming the permissions of which any one would do.
            UpstreamError: anything else that keeps the report from being fetched.
        """
        extensions: dict[str, object] = {"lane": lane, "idempotent": True}
        if oauth_client is not None:
            extensions["oauth_client"] = oauth_client
        if report.rows is not None:
            # A query and not the watermark: that wants another permission.
            body = {"interval": str(interval), "paging": {"pageSize": 1, "pageNumber": 1}}
            response = await self._post(f"{row_kind(report).path}/query", body, extensions)
        else:
            body = {"interval": str(interval), "metrics": list(report.metrics)}
            response = await self._post(f"{aggregates_path(report)}/query", body, extensions)
        raise_for_permission(response)

    async def _submit_rows(self, report: Report, interval: Interval, lane: Lane) -> VendorJob:
        path = f"{row_kind(report).path}/jobs"
        job = self._taken(await self._post(path, row_body(report, interval), {"lane": lane}), path, lane)
        return VendorJob(f"{job.id}{_ASKED}{interval}", job.oauth_client, lane)

    async def _post(self, path: str, body: Mapping[str, object], extensions: Mapping[str, object]) -> httpx.Response:
        return await self._client.post(path, json=body, extensions=dict(extensions))

    def _taken(self, response: httpx.Response, path: str, lane: Lane) -> VendorJob:
        raise_for_permission(response)
        job_id = read_text(read_object(response), "jobId")
        return VendorJob(f"{path}/{job_id}", response.extensions["oauth_client"], lane)

    async def _watermark(
        self, answer: Mapping[str, object], job: VendorJob, report: Report, known: datetime | None
    ) -> datetime:
        """Until when the data lake is complete: by the page, else by an earlier one, else asked for."""
        if read_optional_text(answer, "dataAvailabilityDate"):
            return read_instant(answer, "dataAvailabilityDate")
        if known is not None:
            return known
        told = await get_object(self._client, job, f"{row_kind(report).path}/jobs/availability")
        return read_instant(told, "dataAvailabilityDate")


def _path(job: VendorJob) -> str:
    return job.id.partition(_ASKED)[0]


def _name(job: VendorJob) -> str:
    return _path(job).rpartition("/")[2]
