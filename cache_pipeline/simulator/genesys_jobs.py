"""Job endpoints of the Genesys platform, the same for every family: submit, status, results, DELETE.

The vendor documents: paths, methods, 202 with only `{jobId}`, 200, 204, the six states, `cursor` absent on the last page. The
simulator's own choices:
- DELETE cancels an unfinished job (its state is CANCELLED from then on) and removes a finished one;
- results before FULFILLED and after EXPIRED have the status in the settings;
- every client of the organisation may read every job.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import jobs
from cache_pipeline.simulator.errors import ApiError, too_many_requests
from cache_pipeline.simulator.intervals import Interval, iso
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.pages import PagedResult
from cache_pipeline.simulator.rate_limit import SlidingWindow
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator

GENESYS_STATES = {
    JobState.QUEUED: "QUEUED",
    JobState.RUNNING: "PENDING",
    JobState.DONE: "FULFILLED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "CANCELLED",
    JobState.EXPIRED: "EXPIRED",
}
_BUSY_RETRY_SECONDS = 5


@dataclass(frozen=True)
class PreparedQuery:
    """A parsed and validated query.

    Attributes:
        work: Computes the answer, in a worker thread.
        cells: Number of group-buckets, which determines the duration.
        fingerprint: Bytes that are equal for equal queries.
        interval: The interval.
        page_size: Entries on a page if the query has it; 0 if the results call has it.
    """

    work: Callable[[], PagedResult]
    cells: int
    fingerprint: bytes
    interval: Interval
    page_size: int = 0


@dataclass
class JobService:
    """The jobs of all families, and their shared limits."""

    simulator: Simulator
    store: jobs.JobStore[PagedResult]
    submits: SlidingWindow | None = field(init=False)

    def __post_init__(self) -> None:
        rate = self.simulator.settings.genesys_submits_per_second
        self.submits = None if rate is None else SlidingWindow(rate, 1.0)

    def check_limits(self, now: float) -> None:
        """Raise a 429 if another job would exceed a limit."""
        settings = self.simulator.settings
        max_jobs = settings.genesys_concurrent_jobs
        if max_jobs is not None and self.store.count_running(now) >= max_jobs:
            raise self._refusal(_BUSY_RETRY_SECONDS, "details.jobs.concurrent.access.max", max_jobs)
        if self.submits is not None and not (decision := self.submits.acquire("", now)).is_accepted:
            limit = settings.genesys_submits_per_second
            raise self._refusal(decision.retry_after, "details.jobs.rate.per.second", limit)

    def _refusal(self, retry_after: int, key: str, value: int | None) -> ApiError:
        limit = {"key": key, "namespace": "analytics", "value": value}
        return too_many_requests(retry_after, limit if self.simulator.settings.report_limit_in_429 else None)


@dataclass(frozen=True)
class JobRoutes:
    """The job endpoints of one family.

    Attributes:
        job_service: The jobs.
        path: Path of the collection of jobs.
        permissions: Permissions of which any one is sufficient.
        prepare: Parses the body of a submit.
        from_data_lake: Whether the answers come from the data lake and carry its watermark; the results call then has the
            page size.
    """

    job_service: JobService
    path: str
    permissions: Sequence[str]
    prepare: Callable[[Request], Awaitable[PreparedQuery]]
    from_data_lake: bool

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        job_path = f"{self.path}/{{jobId}}"
        return [
            gate.route("POST", self.path, "submit", self._submit, self.permissions),
            gate.route("GET", job_path, "poll", self._status, self.permissions),
            gate.route("DELETE", job_path, "delete", self._delete, self.permissions),
            gate.route("GET", f"{job_path}/results", "results", self._results, self.permissions),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.job_service.simulator

    async def _submit(self, request: Request) -> Response:
        prepared = await self.prepare(request)
        simulator = self._simulator
        now = simulator.clock.now()
        self.job_service.check_limits(now)
        job = self.job_service.store.submit(
            simulator.start_job(prepared.work, prepared.interval),
            now,
            jobs.job_seconds(simulator.settings, prepared.cells, prepared.fingerprint),
            simulator.details_watermark_ms(now) if self.from_data_lake else simulator.watermark_ms(now),
            simulator.faults.take_job_fault(prepared.interval),
            prepared.page_size,
            self.path,
        )
        return JSONResponse({"jobId": job.id}, status_code=202)

    async def _find(self, request: Request) -> tuple[jobs.Job[PagedResult], jobs.Progress]:
        now = self._simulator.clock.now()
        job = self.job_service.store.find(request.path_params["jobId"], now)
        return job, await jobs.job_progress(job, now)

    async def _status(self, request: Request) -> Response:
        job, progress = await self._find(request)
        vendor_time = self._simulator.vendor_time
        answer = {
            "state": GENESYS_STATES[progress.state],
            "submissionDate": vendor_time(job.submitted_at),
            "expirationDate": vendor_time(job.expires_at),
        }
        if progress.state in (JobState.DONE, JobState.FAILED, JobState.EXPIRED):
            answer["completionDate"] = vendor_time(job.completes_at)
        if progress.error_message is not None:
            answer["errorMessage"] = progress.error_message
        return JSONResponse(answer)

    async def _results(self, request: Request) -> Response:
        job, progress = await self._find(request)
        settings = self._simulator.settings
        if progress.state is JobState.EXPIRED:
            raise ApiError(settings.genesys_expired_status, "not.found", f"The results of job {job.id} have expired")
        if progress.state is not JobState.DONE:
            message = f"Job {job.id} is {GENESYS_STATES[progress.state]}, not FULFILLED: it has no results"
            raise ApiError(settings.genesys_not_ready_status, "bad.request", message)
        size = job.page_size or jobs.parse_page_size(
            request.query_params.get("pageSize"), settings.details_default_page_size, settings.details_max_page_size
        )
        offset = jobs.decode_cursor(job.id, request.query_params.get("cursor"))
        result = jobs.finished_result(job)

        def work() -> Response:
            answer = _page(result, offset, size, self._simulator.faults.current.repeat_records)
            if offset + size < len(result):
                answer["cursor"] = jobs.encode_cursor(job.id, offset + size)
            if self.from_data_lake:
                answer["dataAvailabilityDate"] = iso(job.watermark_ms)
            # Serialize in the worker too: a large answer would block the event loop.
            return JSONResponse(answer)

        return await self._simulator.run(work)

    async def _delete(self, request: Request) -> Response:
        job, progress = await self._find(request)
        if progress.state in (JobState.QUEUED, JobState.RUNNING):
            job.is_cancelled = True
        elif progress.state is not JobState.CANCELLED:
            self.job_service.store.remove(job)
        return Response(status_code=204)


def _page(result: PagedResult, offset: int, size: int, repeats: int) -> dict[str, Any]:
    """Return a page of a result; it begins with the last `repeats` entries of the page before, and the last page repeats its own."""
    page = result.page(max(0, offset - repeats), size + min(offset, repeats))
    if repeats and offset + size >= len(result):
        last = result.page(max(offset, len(result) - repeats), repeats)
        return page | {name: [*page[name], *entries] for name, entries in last.items() if isinstance(entries, list)}
    return page
