"""NICE CXone's Data Extraction: an export of one entity by date range, as one CSV behind a signed URL.

The vendor documents: the login by access key, discovery, the paths, a job id that is a JSON string, the five states, CSV in UTF-8
with a byte order mark, results kept for a day behind a URL that is valid for 30 s and takes no token, one call every 30 s for a
tenant, no percentage, no watermark, no cursor, no cancel. The simulator's own choices:
- the response to a call that comes too early (`cxone_busy_status`; a third party reports 403), and that it is an ErrorBody;
- the columns Direction, Skill ID, Talk Time and Handle Time; the others are documented or were seen;
- dates are UTC, and select lines by their own start;
- a transferred call has two lines, of the same agent, because the simulated calls have only one;
- whether `endDate` is included (`cxone_end_date_included`).
The URL has another host, `localhost`, so that a client can see that it must not send its token there.
"""

import csv
import hashlib
import hmac
import io
import secrets
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import jobs
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.broken_responses import apply_response_faults
from cache_pipeline.simulator.calls import Calls, Visibility
from cache_pipeline.simulator.cxone_login import login_routes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.intervals import Interval, from_ms, midnight_ms
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.rate_limit import SlidingWindow
from cache_pipeline.simulator.request_gate import Gate, RateLimit
from cache_pipeline.simulator.state import Simulator

PATH = "/data-extraction/v1/jobs"
_FILES = "/data-extraction-files"
_UTC = ZoneInfo("UTC")
_DAY = timedelta(days=1)
_MAX_INTERVAL = timedelta(days=14)
_URL_LIFETIME_SECONDS = 30
_VERSIONS = ("7", "8", "9", "10")
_ENTITY = "recording-interaction-metadata"
_STATE = {
    JobState.QUEUED: "RUNNING",
    JobState.RUNNING: "RUNNING",
    JobState.DONE: "SUCCEEDED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "CANCELLED",
    JobState.EXPIRED: "EXPIRED",
}
_COLUMNS = (
    *("ACD Call ID", "Segment ID", "Start Date", "End Date", "Direction", "Channel Type", "Skill ID", "Agent 1 ACD ID"),
    *("ANI", "DNIS", "Disposition", "Talk Time", "Handle Time"),
)


class ExtractionBody(BaseModel):
    """The JSON body of a job."""

    model_config = ConfigDict(extra="forbid")

    entity: str = Field(alias="entityName")
    version: str
    first: date = Field(alias="startDate")
    last: date = Field(alias="endDate")


class _CsvWriter(Protocol):
    """The part of `csv.writer` that is used here."""

    def writerow(self, row: Sequence[object], /) -> object:
        """Write one row."""
        ...


def _time(instant_ms: int) -> str:
    return from_ms(instant_ms).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _write_day(
    writer: _CsvWriter, calls: Calls, first: int, last: int, visibility: Visibility, simulator: Simulator
) -> None:
    values = simulator.organisation.values
    # A segment is exported once it has ended.
    # The recording of a thread is that of its first exchange.
    ended_ms = calls.ended_ms - calls.thread_ms
    selected = (ended_ms >= first) & (calls.start_ms < last) & calls.visible(ended_ms, visibility)
    for row in np.flatnonzero(selected).tolist():
        talk_ms, is_abandoned = int(calls.talk_ms[row] - calls.thread_ms[row]), bool(calls.abandoned[row])
        handle_ms = talk_ms + int(calls.held_ms[row]) + int(calls.acw_ms[row])
        is_voice = MEDIA[calls.media[row]] == "voice"
        start, end, identity = int(calls.start_ms[row]), int(ended_ms[row]), calls.conversation_id(row)
        # The first segment ends before the last one begins; their durations add up.
        middle = (start + end) // 2
        parts = [(start, middle, 0, 0), (middle, end, talk_ms, handle_ms)] if calls.transferred[row] else None
        for number, (begin, finish, talk, handle) in enumerate(parts or [(start, end, talk_ms, handle_ms)], start=1):
            if not first <= begin < last:
                continue
            writer.writerow(
                [
                    identity,
                    f"{identity}-{number}",
                    _time(begin),
                    _time(finish),
                    "inbound",
                    MEDIA[calls.media[row]],
                    values["queueId"][int(calls.queue[row])],
                    "" if is_abandoned else values["userId"][int(calls.agent[row])],
                    f"\\+4930{int(calls.id_words[row][0]) % 10_000_000:07}" if is_voice else "",
                    "\\+49305550100" if is_voice else "",
                    "Abandoned" if is_abandoned else "Handled, by an agent",
                    talk / 1000,
                    handle / 1000,
                ]
            )


def _csv(simulator: Simulator, body: ExtractionBody, visibility: Visibility, max_rows: int | None) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    end_day = body.last + (_DAY if simulator.settings.cxone_end_date_included else timedelta(0))
    first, last = midnight_ms(body.first, _UTC), midnight_ms(end_day, _UTC)
    if last > first:
        margin = timedelta(minutes=1) // timedelta(milliseconds=1)
        for calls in simulator.truth.days_overlapping(first, last + margin):
            _write_day(writer, calls, first, last, visibility, simulator)
    return _truncated(text.getvalue().encode("utf-8-sig"), max_rows, simulator.faults.current.max_bytes)


def _truncated(content: bytes, max_rows: int | None, max_bytes: int | None) -> bytes:
    """Return the header and the first lines; no cell contains a line break."""
    header, *lines = content.splitlines(keepends=True)
    lines = lines[:max_rows]
    if max_bytes is not None:
        sizes = list(accumulate(map(len, lines), initial=len(header)))
        lines = lines[: max(0, bisect_right(sizes, max_bytes) - 1)]
    return b"".join((header, *lines))


@dataclass(frozen=True)
class Cxone:
    """The endpoints of CXone."""

    simulator: Simulator
    store: jobs.JobStore[bytes]
    key: bytes

    def routes(self) -> list[Route]:
        """Return the routes of login, discovery, jobs and files."""
        settings = self.simulator.settings
        limit = RateLimit(SlidingWindow(1, settings.cxone_call_seconds), 1, "data-extraction", is_shared=True)
        gate = Gate(self.simulator, (limit,), reports_remaining=False, refuse=self._busy)
        return [
            *login_routes(self.simulator),
            gate.route("POST", PATH, "submit", self._submit),
            gate.route("GET", PATH, "poll", self._list),
            gate.route("GET", f"{PATH}/{{id}}", "poll", self._status),
            Route(f"{_FILES}/{{id}}", self._file, methods=["GET"]),
        ]

    def _busy(self, _wait: int) -> ApiError:
        status = self.simulator.settings.cxone_busy_status
        return ApiError(
            status, "tenant.busy", "Another extraction call of this tenant was made less than 30 seconds ago"
        )

    async def _submit(self, request: Request) -> Response:
        simulator = self.simulator
        body = await read_json(request, ExtractionBody, simulator.settings.max_body_bytes)
        if body.entity != _ENTITY:
            raise invalid_value(body.entity, "entityName", _ENTITY)
        if body.version not in _VERSIONS:
            raise invalid_value(body.version, "version", ", ".join(_VERSIONS))
        if not timedelta(0) <= body.last - body.first <= _MAX_INTERVAL:
            raise bad_request(f"endDate: must be from startDate to {_MAX_INTERVAL.days} days after it")
        now = simulator.clock.now()
        visibility, max_rows = simulator.visibility(now), simulator.max_rows()
        interval = Interval(midnight_ms(body.first, _UTC), midnight_ms(body.last + _DAY, _UTC))
        job = self.store.submit(
            simulator.start_job(lambda: _csv(simulator, body, visibility, max_rows), interval),
            now,
            jobs.job_seconds(simulator.settings, 0, body.model_dump_json().encode()),
            0,
            simulator.faults.take_job_fault(interval),
        )
        return JSONResponse(job.id, status_code=202)

    async def _list(self, _: Request) -> Response:
        now = self.simulator.clock.now()
        entries = [
            {"id": job.id, "status": _STATE[(await jobs.job_progress(job, now)).state]} for job in self.store.jobs
        ]
        return JSONResponse({"jobs": entries})

    async def _status(self, request: Request) -> Response:
        now = self.simulator.clock.now()
        job = self.store.find(request.path_params["id"], now)
        progress = await jobs.job_progress(job, now)
        result: dict[str, str] = {}
        if progress.state is JobState.DONE:
            expires = int(now) + _URL_LIFETIME_SECONDS
            query = f"expires={expires}&signature={self._signature(job.id, expires)}"
            port = f":{request.url.port}" if request.url.port else ""
            result["url"] = f"{request.url.scheme}://localhost{port}{_FILES}/{job.id}?{query}"
        if progress.error_message is not None:
            result["errorMessage"] = progress.error_message
        return JSONResponse({"jobStatus": {"id": job.id, "status": _STATE[progress.state], "result": result}})

    async def _file(self, request: Request) -> Response:
        job_id, expires = request.path_params["id"], request.query_params.get("expires", "")
        signature = request.query_params.get("signature", "")
        if "authorization" in request.headers:
            return Response("Only one auth mechanism is allowed", 400)
        is_valid = expires.isdigit() and hmac.compare_digest(signature, self._signature(job_id, int(expires)))
        if not is_valid or self.simulator.clock.now() > int(expires):
            return Response("Request has expired", 403)
        job = self.store.find(job_id, self.simulator.clock.now())
        faults = self.simulator.faults
        failed = faults.take("server_errors")
        status = faults.current.server_error_status if failed else 200
        self.simulator.counters.count(f"GET {_FILES}/{{id}}", "file", None, status)
        if failed:
            return Response("We encountered an internal error. Please try again.", status)
        return apply_response_faults(Response(jobs.finished_result(job), media_type="text/csv"), faults)

    def _signature(self, job_id: str, expires: int) -> str:
        return hmac.new(self.key, f"{job_id}/{expires}".encode(), hashlib.sha256).hexdigest()


def create_cxone(simulator: Simulator) -> Cxone:
    """Return a new CXone simulation; results are kept for a day."""
    return Cxone(simulator, jobs.JobStore(timedelta(days=1).total_seconds()), secrets.token_bytes(32))
