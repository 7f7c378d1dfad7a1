"""NICE CXone: Data Extraction, a dump of one entity by dates, as one CSV behind a signed URL.

There is no filter but the dates, no watermark, no cursor and no cancel, and a tenant may make one call in 30 seconds. Rows and
columns are given the names that Genesys's have, so that a report can be moved from one vendor to the other by its ``platform``.

Assumed, and not documented by the vendor: that 403 to a submit means that the tenant is busy (a third party's knowledge); the
column names but for Segment ID, Start Date, ANI, DNIS and Disposition; that dates are UTC.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, ClassVar

from cache_pipeline.errors import SchemaMismatch, UpstreamJobFailed, UpstreamJobGone, UpstreamUnreachable
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.upstream.config import OAuthClient
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.base import Capabilities, ResultPage, VendorJob, VendorJobStatus
from cache_pipeline.vendors.cxone.extract import cxone_columns, read_extract, review_extract
from cache_pipeline.vendors.http_jobs import get_object
from cache_pipeline.vendors.json_body import (
    read_json,
    read_mapping,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
)

_PATH = "/data-extraction/v1/jobs"
#: Entity and version by query type; of the versions that are told of (7 to 10) the oldest.
_ENTITIES = {"conversations": ("recording-interaction-metadata", "7")}
_DEAD_STATES = {"FAILED": UpstreamJobFailed, "CANCELLED": UpstreamJobFailed, "EXPIRED": UpstreamJobGone}
_LONGEST = timedelta(days=14)
#: Data may be so old, by the vendor's word; what is younger is provisional.
_FRESHNESS = timedelta(minutes=30)
#: A signed URL lives 30 s; one that is older than this is asked for anew.
_URL_SECONDS = 20.0
_BUSY = 403
_BUSY_ATTEMPTS = 4
_DOWNLOADS = 2
#: What is larger is kept on disk.
_IN_MEMORY_BYTES = 8 * 2**20


def access_key_login(login_url: str, client: OAuthClient) -> httpx.Request:
    """Builds the login by access key: its id and secret in a JSON body."""
    key = {"accessKeyId": client.client_id, "accessKeySecret": client.client_secret.get_secret_value()}
    return httpx.Request("POST", login_url, json=key)


class CxoneAdapter:
    """Platform ``cxone``; ``query_type`` is ``conversations``: a row for each interaction, or counts and sums of them."""

    name: ClassVar[str] = "cxone"
    #: One call in 30 s, and no header that tells of it; results are kept a day.
    capabilities: ClassVar[Capabilities] = Capabilities(
        requests=1,
        window_seconds=30,
        sends_remaining=False,
        reports_percent=False,
        has_watermark=False,
        omits_empty=True,
        by_cursor=False,
        cancels=False,
        result_life=timedelta(days=1),
        longest_interval=_LONGEST,
    )

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._now = now
        self._clock = clock
        self._urls: dict[str, tuple[str, float]] = {}

    @staticmethod
    def review(report: Report) -> Iterable[tuple[str, str]]:
        """What the dump does not hold, and intervals that are too long for it."""
        if report.query_type not in _ENTITIES:
            yield "query_type", f"{report.query_type!r} is not extracted: use {', '.join(_ENTITIES)}"
        # The day after is asked for too.
        if Step.parse(report.chunk).nominal_length > _LONGEST - timedelta(days=1):
            yield "chunk", f"at most two weeks are extracted at once: use P1W in place of {report.chunk}"
        yield from review_extract(report)

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        """Those that the same report has of Genesys."""
        return cxone_columns(report)

    async def submit(self, report: Report, interval: Interval, lane: Lane) -> VendorJob:
        """Order the days that an interval touches.

        Raises:
            UpstreamRefused: also where the tenant is busy still, or after all lacks the permission.
        """
        entity, version = _ENTITIES[report.query_type]
        asked_at = self._now()
        # Whether the end date is part of the answer is not documented: a day too many is left out again.
        body = {
            "entityName": entity,
            "version": version,
            "startDate": interval.start.astimezone(UTC).date().isoformat(),
            "endDate": (
                (interval.end - timedelta(microseconds=1)).astimezone(UTC).date() + timedelta(days=1)
            ).isoformat(),
        }
        response = await self._order(body, lane)
        job_id = read_json(response)
        if not isinstance(job_id, str) or not job_id:
            raise SchemaMismatch(f"{_PATH} answered with {type(job_id).__name__} where a job's id was expected")
        asked = f"{job_id}?interval={interval}&at={asked_at.isoformat()}"
        return VendorJob(asked, response.extensions["oauth_client"], lane)

    async def _order(self, body: Mapping[str, str], lane: Lane) -> httpx.Response:
        attempt = 1
        # The quota waits between attempts for as long as the vendor wants between calls.
        while (response := await self._post(body, lane)).status_code == _BUSY and attempt < _BUSY_ATTEMPTS:
            attempt += 1
        raise_for_refusal(response)
        return response

    async def _post(self, body: Mapping[str, str], lane: Lane) -> httpx.Response:
        return await self._client.post(_PATH, json=dict(body), extensions={"lane": lane})

    async def status(self, job: VendorJob) -> VendorJobStatus:
        """SUCCEEDED is done; FAILED, CANCELLED and EXPIRED are failures; no percentage exists."""
        return VendorJobStatus(done=await self._ask(job) is not None)

    async def pages(self, job: VendorJob, report: Report) -> AsyncIterator[ResultPage]:
        """Fetch the file at once, without our token, and read it bit by bit."""
        asked, _, at = job.id.partition("?interval=")[2].partition("&at=")
        interval = Interval.parse(asked)
        complete_until = parse_instant(at) - max(_FRESHNESS, report.settle)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
            await self._download(job, file)
            file.seek(0)
            for rows in read_extract(file, report, interval):
                yield ResultPage(rows, complete_until)

    async def cancel(self, job: VendorJob) -> None:
        """The vendor has no cancel; the job ends by itself."""

    async def probe(self, lane: Lane) -> int:
        """How many jobs the vendor remembers: one call, to learn whether the access key may use the API at all.

        Raises:
            UpstreamError: it may not, or not at the moment.
        """
        response = await self._client.get(_PATH, extensions={"lane": lane})
        raise_for_refusal(response)
        return len(read_mappings(read_object(response), "jobs"))

    async def _ask(self, job: VendorJob) -> str | None:
        """The signed URL of a finished job; None while it runs."""
        job_id = _id(job)
        answer = read_mapping(await get_object(self._client, job, f"{_PATH}/{job_id}"), "jobStatus")
        state, result = read_text(answer, "status"), read_mapping(answer, "result")
        if state in _DEAD_STATES:
            raise _DEAD_STATES[state](job_id, read_optional_text(result, "errorMessage") or f"it is {state}")
        if state == "RUNNING":
            return None
        if state != "SUCCEEDED":
            raise SchemaMismatch(
                f"job {job_id} is {state!r}, which is none of RUNNING, SUCCEEDED, {', '.join(_DEAD_STATES)}"
            )
        url = read_text(result, "url")
        self._urls[job_id] = url, self._clock()
        return url

    async def _fresh_url(self, job: VendorJob) -> str:
        url, since = self._urls.pop(_id(job), ("", 0.0))
        if url and self._clock() - since < _URL_SECONDS:
            return url
        asked_anew = await self._ask(job)
        self._urls.pop(_id(job), None)
        if asked_anew is None:
            raise SchemaMismatch(f"job {_id(job)} was done and now is not")
        return asked_anew

    async def _download(self, job: VendorJob, file: IO[bytes]) -> None:
        for attempt in range(1, _DOWNLOADS + 1):
            url = await self._fresh_url(job)
            try:
                async with self._client.stream("GET", url, extensions={"lane": job.lane, "streamed": True}) as response:
                    if response.status_code == _BUSY and attempt < _DOWNLOADS:
                        # The URL has outlived its 30 seconds on the way.
                        continue
                    raise_for_refusal(response)
                    async for chunk in response.aiter_bytes():
                        file.write(chunk)
                return
            except UpstreamUnreachable:
                if attempt == _DOWNLOADS:
                    raise
                file.seek(0)
                file.truncate()


def _id(job: VendorJob) -> str:
    return job.id.partition("?")[0]
