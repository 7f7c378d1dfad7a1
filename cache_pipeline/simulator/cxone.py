"""Another vendor: NICE CXone's Data Extraction, a dump of one entity by dates, as one CSV behind a signed URL.

Fixed by the vendor's documents: the login by access key, discovery, the paths, a job id that is a JSON string, the five states,
CSV in UTF-8 with a byte order mark, results kept a day behind a URL that lives 30 s and wants no token, one call every 30 s
for a tenant, no percentage, no watermark, no cursor, no cancel. The simulator's own choices:
- what a call too early is answered (`cxone_busy_status`; a third party tells of 403), and that it is told with an ErrorBody;
- the columns but for Segment ID, Start Date, ANI, DNIS and Disposition; dates are UTC;
- `endDate` is included in the answer, or not (`cxone_end_date_included`).
The URL names another host, `localhost`, so that a client can tell that its token is not wanted there.
"""

import csv
import hashlib
import hmac
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import jobs
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.broken_responses import broken_answer
from cache_pipeline.simulator.calls import Calls, Sight
from cache_pipeline.simulator.cxone_login import login_routes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.intervals import from_ms, midnight_ms
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.rate_limit import SlidingWindow
from cache_pipeline.simulator.request_gate import Gate, Layer
from cache_pipeline.simulator.state import Simulator

PATH = "/data-extraction/v1/jobs"
_FILES = "/data-extraction-files"
_UTC = ZoneInfo("UTC")
_LONGEST = timedelta(days=14)
_URL_SECONDS = 30
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
    *("Segment ID", "Start Date", "End Date", "Media Type", "Direction", "Skill ID", "Agent ID", "ANI", "DNIS"),
    *("Disposition", "Talk Time", "Handle Time"),
)


class ExtractionBody(BaseModel):
    """The JSON body of a job."""

    model_config = ConfigDict(extra="forbid")

    entity: str = Field(alias="entityName")
    version: str
    first: date = Field(alias="startDate")
    last: date = Field(alias="endDate")


class _Lines(Protocol):
    """What writes lines of CSV."""

    def writerow(self, row: Sequence[object], /) -> object:
        """Write one."""
        ...


def _time(instant_ms: int) -> str:
    return from_ms(instant_ms).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _write_day(lines: _Lines, calls: Calls, first: int, last: int, sight: Sight, simulator: Simulator) -> None:
    values = simulator.organisation.values
    # A segment is told of once it has ended.
    inside = (calls.start_ms >= first) & (calls.start_ms < last) & calls.seen(calls.ended_ms, sight)
    for row in np.flatnonzero(inside).tolist():
        talked, abandoned = int(calls.talk_ms[row]), bool(calls.abandoned[row])
        voice = MEDIA[calls.media[row]] == "voice"
        lines.writerow(
            [
                calls.conversation_id(row),
                _time(int(calls.start_ms[row])),
                _time(int(calls.ended_ms[row])),
                MEDIA[calls.media[row]],
                "inbound",
                values["queueId"][int(calls.queue[row])],
                "" if abandoned else values["userId"][int(calls.agent[row])],
                f"+4930{int(calls.id_words[row][0]) % 10_000_000:07}" if voice else "",
                "+49305550100" if voice else "",
                "Abandoned" if abandoned else "Handled, by an agent",
                talked / 1000,
                (talked + int(calls.held_ms[row]) + int(calls.acw_ms[row])) / 1000,
            ]
        )


def _csv(simulator: Simulator, body: ExtractionBody, sight: Sight) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(_COLUMNS)
    after = body.last + timedelta(days=1 if simulator.settings.cxone_end_date_included else 0)
    first, last = midnight_ms(body.first, _UTC), midnight_ms(after, _UTC)
    if last > first:
        margin = timedelta(minutes=1) // timedelta(milliseconds=1)
        for calls in simulator.truth.days_touching(first, last + margin):
            _write_day(lines, calls, first, last, sight, simulator)
    return text.getvalue().encode("utf-8-sig")


@dataclass(frozen=True)
class Cxone:
    """The endpoints over one simulator."""

    simulator: Simulator
    store: jobs.JobStore[bytes]
    key: bytes

    def routes(self) -> list[Route]:
        """Return the routes of login, discovery, jobs and files."""
        settings = self.simulator.settings
        layer = Layer(SlidingWindow(1, settings.cxone_call_seconds), 1, "data-extraction", shared=True)
        gate = Gate(self.simulator, (layer,), tells_remaining=False, refuse=self._busy)
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
        if not timedelta(0) <= body.last - body.first <= _LONGEST:
            raise bad_request(f"endDate: from startDate to {_LONGEST.days} days after it")
        now = simulator.clock.now()
        sight = simulator.sight(now)
        job = self.store.submit(
            simulator.start(lambda: _csv(simulator, body, sight)),
            now,
            jobs.job_seconds(simulator.settings, 0, body.model_dump_json().encode()),
            0,
            simulator.faults.take_fate(),
        )
        return JSONResponse(job.id, status_code=202)

    async def _list(self, _: Request) -> Response:
        now = self.simulator.clock.now()
        told = [
            {"id": job.id, "status": _STATE[(await jobs.progress_of(job, now)).state]} for job in self.store.remembered
        ]
        return JSONResponse({"jobs": told})

    async def _status(self, request: Request) -> Response:
        now = self.simulator.clock.now()
        job = self.store.find(request.path_params["id"], now)
        progress = await jobs.progress_of(job, now)
        result: dict[str, str] = {}
        if progress.state is JobState.DONE:
            expires = int(now) + _URL_SECONDS
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
        right = expires.isdigit() and hmac.compare_digest(signature, self._signature(job_id, int(expires)))
        if not right or self.simulator.clock.now() > int(expires):
            return Response("Request has expired", 403)
        job = self.store.find(job_id, self.simulator.clock.now())
        faults = self.simulator.faults
        failed = faults.take("server_errors")
        status = faults.current.server_error_status if failed else 200
        self.simulator.counters.count(f"GET {_FILES}/{{id}}", "file", None, status)
        if failed:
            return Response("We encountered an internal error. Please try again.", status)
        return broken_answer(Response(jobs.finished_result(job), media_type="text/csv"), faults)

    def _signature(self, job_id: str, expires: int) -> str:
        return hmac.new(self.key, f"{job_id}/{expires}".encode(), hashlib.sha256).hexdigest()


def cxone_of(simulator: Simulator) -> Cxone:
    """Return the vendor, of whom nobody has asked anything yet; results are kept a day."""
    return Cxone(simulator, jobs.JobStore(timedelta(days=1).total_seconds()), secrets.token_bytes(32))
