"""Adapter for NICE CXone Data Extraction: an export of one entity by date range, as one CSV behind a signed URL.

There is no filter except the dates, no watermark, no cursor and no cancel, and a tenant may make one call in 30 seconds. Rows
and columns have the same names as those of other vendors, so that changing a report's ``platform`` moves it here.

The vendor does not document the following, so we assume it: a 403 to a submit means that the tenant is busy (known from a third
party); that dates are UTC, and may select segments by their own start. Which column has what is in `extract.KNOWN_COLUMNS`, and the
account's `columns` replace them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, ClassVar

from cache_pipeline.aio import run_in_thread
from cache_pipeline.errors import (
    SchemaMismatch,
    SettingsError,
    UpstreamJobCancelled,
    UpstreamJobFailed,
    UpstreamJobGone,
    UpstreamUnreachable,
)
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.cxone.extract import KNOWN_COLUMNS, check_extract, cxone_columns, read_extract
from cache_pipeline.vendors.http_jobs import get_object
from cache_pipeline.vendors.json_body import (
    read_json,
    read_mapping,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
)

if TYPE_CHECKING:
    from cache_pipeline.upstream.config import OAuthClient

_JOBS_PATH = "/data-extraction/v1/jobs"
#: Entity and version of each query type; the oldest of the known versions (7 to 10).
_ENTITIES = {"conversations": ("recording-interaction-metadata", "7")}
_FAILED_STATES = {"FAILED": UpstreamJobFailed, "CANCELLED": UpstreamJobCancelled, "EXPIRED": UpstreamJobGone}
_MAX_INTERVAL = timedelta(days=14)
#: Days requested around an interval. The contacts that begin there are dropped, but a contact across midnight has segments on both
#: days, and would otherwise be counted again by its later ones. The vendor does not document whether the end date is included.
_DAYS_BEFORE, _DAYS_AFTER = timedelta(days=1), timedelta(days=2)
#: The vendor says that data can be this late; younger data is provisional.
_DATA_DELAY = timedelta(minutes=30)
#: A signed URL is valid for 30 s; one older than this is requested again.
_MAX_URL_AGE_SECONDS = 20.0
_FORBIDDEN = 403
_MAX_SUBMITS = 4
_MAX_DOWNLOADS = 2
#: A larger file is buffered on disk.
_MAX_BYTES_IN_MEMORY = 8 * 2**20


def access_key_login(login_url: str, client: OAuthClient) -> httpx.Request:
    """Build the login request for an access key: its id and secret in a JSON body."""
    key = {"accessKeyId": client.client_id, "accessKeySecret": client.client_secret.get_secret_value()}
    return httpx.Request("POST", login_url, json=key)


class CxoneAdapter:
    """Platform ``cxone``; ``query_type`` is ``conversations``: one row for each interaction, or counts and sums."""

    name: ClassVar[str] = "cxone"
    #: One call in 30 s; no header reports it.
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=1,
        window_seconds=30,
        has_remaining_header=False,
        has_cancel=False,
        # A query names days.
        shortest_query=timedelta(days=1),
    )

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._columns = dict(columns or {})
        if unknown := sorted(self._columns.keys() - KNOWN_COLUMNS.keys()):
            raise SettingsError(
                f"columns of {self.name}: unknown {', '.join(unknown)}; expected some of {', '.join(KNOWN_COLUMNS)}"
            )
        self._now = now
        self._clock = clock
        self._urls: dict[str, tuple[str, float]] = {}

    @staticmethod
    def check_declaration(report: Report) -> Iterable[tuple[str, str]]:
        """Yield what an extraction does not support, and intervals that are too long for it."""
        if report.query_type not in _ENTITIES:
            yield "query_type", f"unknown query type {report.query_type!r}; expected one of {', '.join(_ENTITIES)}"
        if Step.parse(report.fetch.max_query_interval).nominal_length > _MAX_INTERVAL - _DAYS_BEFORE - _DAYS_AFTER:
            yield (
                "fetch.max_query_interval",
                f"one extraction covers at most two weeks; use P1W instead of {report.fetch.max_query_interval}",
            )
        yield from check_extract(report)

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Return the columns that the same report has on another vendor."""
        return cxone_columns(report)

    @staticmethod
    def end_column(report: Report) -> str | None:
        """Return None: no row is open when it is sent."""
        return None

    async def submit(self, report: Report, interval: Interval, lane: RequestLane) -> VendorJob:
        """Request an extraction of the days that an interval touches.

        Raises:
            UpstreamRefused: The vendor refused the query; also if the tenant stays busy or lacks the permission.
        """
        entity, version = _ENTITIES[report.query_type]
        submitted_at = self._now()
        first, last = (
            each.astimezone(UTC).date() for each in (interval.start, interval.end - timedelta(microseconds=1))
        )
        body = {
            "entityName": entity,
            "version": version,
            "startDate": (first - _DAYS_BEFORE).isoformat(),
            "endDate": min(last + _DAYS_AFTER, submitted_at.astimezone(UTC).date() + timedelta(days=1)).isoformat(),
        }
        response = await self._submit_until_free(body, lane)
        job_id = read_json(response)
        if not isinstance(job_id, str) or not job_id:
            raise SchemaMismatch(f"{_JOBS_PATH} answered with {type(job_id).__name__} where a job's id was expected")
        handle = f"{job_id}?interval={interval}&at={submitted_at.isoformat()}"
        return VendorJob(handle, response.extensions["oauth_client"], lane)

    async def _submit_until_free(self, body: Mapping[str, str], lane: RequestLane) -> httpx.Response:
        attempt = 1
        # The shared quota already spaces the attempts as the vendor requires.
        while (response := await self._post(body, lane)).status_code == _FORBIDDEN and attempt < _MAX_SUBMITS:
            attempt += 1
        raise_for_refusal(response)
        return response

    async def _post(self, body: Mapping[str, str], lane: RequestLane) -> httpx.Response:
        return await self._client.post(_JOBS_PATH, json=dict(body), extensions={"lane": lane})

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """Poll the job. SUCCEEDED is done; FAILED, CANCELLED and EXPIRED are failures; the vendor reports no percentage."""
        return VendorJobStatus(is_done=await self._result_url(job) is not None)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Download the file completely, without our token, then read it page by page."""
        interval_text, _, submitted_at = job.id.partition("?interval=")[2].partition("&at=")
        interval = Interval.parse(interval_text)
        complete_until = parse_instant(submitted_at) - max(_DATA_DELAY, report.freshness.finality_delay)
        with tempfile.SpooledTemporaryFile(max_size=_MAX_BYTES_IN_MEMORY) as file:
            await self._download(job, file)
            file.seek(0)
            tables = read_extract(file, report, interval, self._columns)
            # Seconds for a large file, in which the leases of this process must be renewed.
            while (rows := await run_in_thread(lambda: next(tables, None))) is not None:
                yield ResultPage(rows, complete_until)

    async def cancel(self, job: VendorJob) -> None:
        """Do nothing: the vendor has no cancel, and the job ends by itself."""

    async def probe(self, lane: Lane) -> int:
        """Return how many jobs the vendor lists: one call, to check whether the access key may use the API at all.

        Raises:
            UpstreamError: The access key may not use the API, or the API is unavailable.
        """
        response = await self._client.get(_JOBS_PATH, extensions={"lane": lane})
        raise_for_refusal(response)
        return len(read_mappings(read_object(response), "jobs"))

    async def _result_url(self, job: VendorJob) -> str | None:
        """Return the signed URL of a finished job, or None while the job runs."""
        job_id = _id(job)
        answer = read_mapping(await get_object(self._client, job, f"{_JOBS_PATH}/{job_id}"), "jobStatus")
        state, result = read_optional_text(answer, "status"), read_mapping(answer, "result")
        if state is None:
            # A job that was just accepted may have no status yet.
            return None
        if state in _FAILED_STATES:
            raise _FAILED_STATES[state](job_id, read_optional_text(result, "errorMessage") or f"its state is {state}")
        if state == "RUNNING":
            return None
        if state != "SUCCEEDED":
            raise SchemaMismatch(
                f"job {job_id} has unknown state {state!r}; expected one of RUNNING, SUCCEEDED, "
                f"{', '.join(_FAILED_STATES)}"
            )
        url = read_text(result, "url")
        self._urls[job_id] = url, self._clock()
        return url

    async def _fresh_url(self, job: VendorJob) -> str:
        url, received_at = self._urls.pop(_id(job), ("", 0.0))
        if url and self._clock() - received_at < _MAX_URL_AGE_SECONDS:
            return url
        fresh_url = await self._result_url(job)
        self._urls.pop(_id(job), None)
        if fresh_url is None:
            raise SchemaMismatch(f"job {_id(job)} was finished and is now reported as running")
        return fresh_url

    async def _download(self, job: VendorJob, file: IO[bytes]) -> None:
        # Imported here: it takes the HTTP library, which the rules for declarations need not.
        from cache_pipeline.upstream.response_body import iterate_body

        for attempt in range(1, _MAX_DOWNLOADS + 1):
            url = await self._fresh_url(job)
            try:
                async with self._client.stream("GET", url, extensions={"lane": job.lane, "streamed": True}) as response:
                    if response.status_code == _FORBIDDEN and attempt < _MAX_DOWNLOADS:
                        # The URL expired after we received it.
                        continue
                    raise_for_refusal(response)
                    async for chunk in iterate_body(response):
                        file.write(chunk)
                return
            except UpstreamUnreachable:
                if attempt == _MAX_DOWNLOADS:
                    raise
                file.seek(0)
                file.truncate()


def _id(job: VendorJob) -> str:
    return job.id.partition("?")[0]
