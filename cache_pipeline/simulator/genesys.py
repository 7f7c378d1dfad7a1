"""The vendor's platform: conversation aggregates, at once or as a job, and the watermark of conversation details.

Fixed by the vendor's documents: paths, methods, 200 / 202 / 204, `{jobId}`, the six states, `cursor` absent on the last page,
the ErrorBody, the 429, no header that tells what is left. The simulator's own choices:
- a page of job results holds `pageSize` groups with all their buckets;
- DELETE cancels a job that is not done (its state is CANCELLED from then on) and removes one that is;
- results before FULFILLED and after EXPIRED answer the status that the settings name;
- `dataAvailabilityDate` of details is the watermark of everything.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import intervals, jobs
from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import ApiError, invalid_value
from cache_pipeline.simulator.genesys_query import AggregationBody, Answer, answer_of, query_of
from cache_pipeline.simulator.guard import Gate
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.state import Simulator

CONVERSATIONS = "/api/v2/analytics/conversations"
AGGREGATES = f"{CONVERSATIONS}/aggregates"
_STATE = {
    JobState.QUEUED: "QUEUED",
    JobState.RUNNING: "PENDING",
    JobState.DONE: "FULFILLED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "CANCELLED",
    JobState.EXPIRED: "EXPIRED",
}


class Genesys:
    """The endpoints over one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._jobs: jobs.JobStore[Answer] = jobs.JobStore(simulator.settings.job_lifetime_seconds)

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes, and one that answers 404 to the rest of the API."""
        return [
            gate.route("POST", f"{AGGREGATES}/query", "sync_query", self._query),
            gate.route("POST", f"{AGGREGATES}/jobs", "submit", self._submit),
            gate.route("GET", f"{AGGREGATES}/jobs/{{jobId}}", "poll", self._status),
            gate.route("DELETE", f"{AGGREGATES}/jobs/{{jobId}}", "delete", self._delete),
            gate.route("GET", f"{AGGREGATES}/jobs/{{jobId}}/results", "results", self._results),
            gate.route("GET", f"{CONVERSATIONS}/details/jobs/availability", "availability", self._availability),
            gate.unknown_route("/api/v2/{rest:path}"),
        ]

    async def _query(self, request: Request) -> Response:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        if body.page_size is not None:
            raise ApiError(400, "invalid.property", "pageSize belongs to a job, not to a query")
        query = query_of(body, simulator.organisation, settings)
        sight = simulator.sight(simulator.clock.now())
        max_rows = simulator.faults.current.max_rows
        max_cells = settings.genesys_max_cells if max_rows is None else max_rows

        def work() -> Response:
            found = simulator.aggregate(query, sight)
            answer = answer_of(found, body.metrics, max_cells, settings.service_level_target)
            # Written out as JSON here too: a large answer would hold up the event loop.
            return JSONResponse({"results": answer.page(0, None, simulator.organisation)})

        return await simulator.run(work)

    async def _submit(self, request: Request) -> Response:
        simulator, settings = self._simulator, self._simulator.settings
        body = await read_json(request, AggregationBody, settings.max_body_bytes)
        largest = settings.genesys_max_page_size
        page_size = min(settings.genesys_default_page_size, largest) if body.page_size is None else body.page_size
        if not 1 <= page_size <= largest:
            raise invalid_value(page_size, "pageSize", f"1 to {largest}")
        query = query_of(body, simulator.organisation, settings)
        now = simulator.clock.now()
        sight = simulator.sight(now)
        max_rows = simulator.faults.current.max_rows

        def work() -> Answer:
            found = simulator.aggregate(query, sight)
            return answer_of(found, body.metrics, max_rows, settings.service_level_target)

        job = self._jobs.submit(
            simulator.start(work),
            now,
            jobs.job_seconds(settings, simulator.possible_cells(query), body.model_dump_json().encode()),
            simulator.watermark_ms(now),
            "the query failed: a fault on demand" if simulator.faults.take("fail_jobs") else None,
            page_size,
        )
        return JSONResponse({"jobId": job.id}, status_code=202)

    async def _find(self, request: Request) -> tuple[jobs.Job[Answer], jobs.Progress]:
        now = self._simulator.clock.now()
        job = self._jobs.find(request.path_params["jobId"], now)
        return job, await jobs.progress_of(job, now)

    async def _status(self, request: Request) -> Response:
        job, progress = await self._find(request)
        answer = {
            "state": _STATE[progress.state],
            "submissionDate": _time(job.submitted_at),
            "expirationDate": _time(job.expires_at),
        }
        if progress.state in (JobState.DONE, JobState.FAILED, JobState.EXPIRED):
            answer["completionDate"] = _time(job.completes_at)
        if progress.error_message is not None:
            answer["errorMessage"] = progress.error_message
        return JSONResponse(answer)

    async def _results(self, request: Request) -> Response:
        job, progress = await self._find(request)
        settings = self._simulator.settings
        if progress.state is JobState.EXPIRED:
            raise ApiError(settings.genesys_expired_status, "not.found", f"The results of job {job.id} have expired")
        if progress.state is not JobState.DONE:
            message = f"Job {job.id} is {_STATE[progress.state]}, not FULFILLED: it has no results"
            raise ApiError(settings.genesys_not_ready_status, "bad.request", message)
        result = jobs.finished_result(job)
        offset = jobs.offset_of(job.id, request.query_params.get("cursor"))
        end = offset + job.page_size

        def work() -> Response:
            answer: dict[str, Any] = {"results": result.page(offset, job.page_size, self._simulator.organisation)}
            if end < len(result.groups):
                answer["cursor"] = jobs.cursor_after(job.id, end)
            return JSONResponse(answer)

        return await self._simulator.run(work)

    async def _delete(self, request: Request) -> Response:
        job, progress = await self._find(request)
        if progress.state in (JobState.QUEUED, JobState.RUNNING):
            job.cancelled = True
        elif progress.state is not JobState.CANCELLED:
            self._jobs.remove(job)
        return Response(status_code=204)

    async def _availability(self, _: Request) -> Response:
        watermark = self._simulator.watermark_ms(self._simulator.clock.now())
        return JSONResponse({"dataAvailabilityDate": intervals.iso(watermark)})


def _time(now: float) -> str:
    return intervals.iso(int(now * 1000))
