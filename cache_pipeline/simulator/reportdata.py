"""The guide's platform `reportdata` (G1, G2, G17): submit a report query, poll its status, read its rows in pages.

The guide specifies the paths, the submit body's `reportId`, `timeGrouping`, `interval` and `filters`, the submit response, the four
states, `percentComplete` and `resultUrl`, and the rate limit with its headers. The rest is the simulator's own choice:
- `timeZone` (IANA, default UTC) determines where buckets begin; they are calendar buckets, truncated at the interval's ends;
- `groupBy` and `columns` select from the report's dimensions and columns, default all; unknown fields are refused;
- operators are `in` and `notIn`; a predicate on a dimension that a row lacks is false for `in` and true for `notIn`;
- a bucket and group in which no selected column has an event has no row; durations are sums of whole milliseconds;
- a result has pages with an opaque `cursor`, absent on the last page, and `dataAvailabilityDate`, the watermark at submission;
- errors are ErrorBodies: 404 for an unknown or expired job, 400 for results before `completed`;
- a job belongs to the organisation: every client's token may read it;
- a result with too many rows is silently truncated in time order and still `completed` (the client's answer is G22).
"""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import intervals, jobs
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import ApiError, bad_request
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.pages import json_length, most_that_fit
from cache_pipeline.simulator.reportdata_query import ReportBody, Rows, build_query, limit_rows
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator

PATH = "/api/v2/analytics/reportdata/query"
_DEFAULT_PAGE_SIZE = 500
_MAX_PAGE_SIZE = 1000
_STATUS = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "processing",
    JobState.DONE: "completed",
    JobState.FAILED: "failed",
}


class ReportData:
    """The three endpoints of the platform."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._jobs: jobs.JobStore[Rows] = jobs.JobStore(simulator.settings.job_lifetime_seconds)

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes, and one that answers 404 to all other paths of the platform."""
        return [
            gate.route("POST", f"{PATH}/async", "submit", self._submit),
            gate.route("GET", f"{PATH}/{{id}}", "poll", self._status),
            gate.route("GET", f"{PATH}/{{id}}/results", "results", self._results),
            gate.unknown_route("/api/v2/analytics/reportdata/{rest:path}"),
        ]

    async def _submit(self, request: Request) -> Response:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, ReportBody, settings.max_body_bytes)
        query = build_query(body, simulator.organisation, settings.max_buckets)
        now = simulator.clock.now()
        visibility = simulator.visibility(now)
        max_rows, faults = simulator.max_rows(), simulator.faults.current

        def work() -> Rows:
            aggregate = simulator.aggregate(query.aggregate, visibility)
            rows = limit_rows(
                aggregate,
                query.figures,
                settings.reportdata_max_rows if max_rows is None else max_rows,
                by_group=faults.order == "groups",
            )
            if faults.max_bytes is None:
                return rows
            organisation = simulator.organisation
            count = most_that_fit(
                len(rows.cells), faults.max_bytes, lambda size: json_length(rows.page(0, size, organisation))
            )
            return replace(rows, cells=rows.cells[:count])

        cells = simulator.possible_cells(query.aggregate)
        interval = intervals.whole_interval(query.aggregate.edges)
        job = self._jobs.submit(
            simulator.start_job(work, interval),
            now,
            jobs.job_seconds(settings, cells, body.model_dump_json().encode()),
            simulator.watermark_ms(now),
            simulator.faults.take_job_fault(interval),
        )
        answer = {"id": job.id, "status": "queued", "percentComplete": 0, "createdTime": simulator.vendor_time(now)}
        return JSONResponse(answer)

    async def _find(self, request: Request) -> tuple[jobs.Job[Rows], jobs.Progress]:
        now = self._simulator.clock.now()
        job = self._jobs.find(request.path_params["id"], now)
        progress = await jobs.job_progress(job, now)
        if progress.state not in _STATUS:
            raise ApiError(404, "not.found", f"The query job {job.id} has expired")
        return job, progress

    async def _status(self, request: Request) -> Response:
        job, progress = await self._find(request)
        answer: dict[str, Any] = {
            "id": job.id,
            "status": _STATUS[progress.state],
            "percentComplete": progress.percent,
            "createdTime": self._simulator.vendor_time(job.submitted_at),
        }
        if progress.state is JobState.DONE:
            answer["resultUrl"] = f"{PATH}/{job.id}/results"
        if progress.state is JobState.FAILED:
            answer["errorMessage"] = progress.error_message
        return JSONResponse(answer)

    async def _results(self, request: Request) -> Response:
        job, progress = await self._find(request)
        if progress.state is not JobState.DONE:
            raise bad_request(f"The query job {job.id} is {_STATUS[progress.state]}, not completed: it has no results")
        result = jobs.finished_result(job)
        size = jobs.parse_page_size(request.query_params.get("pageSize"), _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        offset = jobs.decode_cursor(job.id, request.query_params.get("cursor"))
        answer: dict[str, Any] = {"id": job.id, "rows": result.page(offset, size, self._simulator.organisation)}
        if offset + size < len(result.cells):
            answer["cursor"] = jobs.encode_cursor(job.id, offset + size)
        answer["dataAvailabilityDate"] = intervals.iso(job.watermark_ms)
        return JSONResponse(answer)
