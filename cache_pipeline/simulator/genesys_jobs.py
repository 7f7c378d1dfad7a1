"""The life of a job on the vendor's platform, the same for every family: submit, status, results, DELETE.

Fixed by the vendor's documents: paths, methods, 202 with `{jobId}` alone, 200, 204, the six states, `cursor` absent on the
last page. The simulator's own choices:
- DELETE cancels a job that is not done (its state is CANCELLED from then on) and removes one that is;
- results before FULFILLED and after EXPIRED answer the status that the settings name;
- every client of the organisation may read every job.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator import jobs
from cache_pipeline.simulator.errors import ApiError, too_many_requests
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.jobs import JobState
from cache_pipeline.simulator.pages import Pages
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
_BUSY_SECONDS = 5


@dataclass(frozen=True)
class Prepared:
    """A query that has been read and found good.

    Attributes:
        work: Works out its answer, in a worker thread.
        cells: How much it asks for, which is what its duration follows.
        meaning: What is equal for equal queries.
        page_size: Entries on a page, where the query says it; 0 where the results call does.
    """

    work: Callable[[], Pages]
    cells: int
    meaning: bytes
    page_size: int = 0


@dataclass
class JobDesk:
    """The jobs of all families, and the limits that they share."""

    simulator: Simulator
    store: jobs.JobStore[Pages]
    submits: SlidingWindow | None = field(init=False)

    def __post_init__(self) -> None:
        rate = self.simulator.settings.genesys_submits_per_second
        self.submits = None if rate is None else SlidingWindow(rate, 1.0)

    def admit(self, now: float) -> None:
        """Raise a 429 if one job more is one too many."""
        settings = self.simulator.settings
        most = settings.genesys_concurrent_jobs
        if most is not None and self.store.running(now) >= most:
            raise self._refusal(_BUSY_SECONDS, "details.jobs.concurrent.access.max", most)
        if self.submits is not None and not (verdict := self.submits.ask("", now)).accepted:
            limit = settings.genesys_submits_per_second
            raise self._refusal(verdict.retry_after, "details.jobs.rate.per.second", limit)

    def _refusal(self, retry_after: int, key: str, value: int | None) -> ApiError:
        limit = {"key": key, "namespace": "analytics", "value": value}
        return too_many_requests(retry_after, limit if self.simulator.settings.tells_limit else None)


@dataclass(frozen=True)
class JobRoutes:
    """The job endpoints of one family.

    Attributes:
        desk: Where the jobs are.
        path: Of the collection of jobs.
        permissions: Of which any one opens it.
        prepare: Reads the body of a submit.
        in_lake: Whether the answers come from the data lake, and say until when it is complete; page sizes are then the
            results call's own.
    """

    desk: JobDesk
    path: str
    permissions: Sequence[str]
    prepare: Callable[[Request], Awaitable[Prepared]]
    in_lake: bool

    def routes(self, gate: Gate) -> list[Route]:
        """Return the guarded routes."""
        one = f"{self.path}/{{jobId}}"
        return [
            gate.route("POST", self.path, "submit", self._submit, self.permissions),
            gate.route("GET", one, "poll", self._status, self.permissions),
            gate.route("DELETE", one, "delete", self._delete, self.permissions),
            gate.route("GET", f"{one}/results", "results", self._results, self.permissions),
        ]

    @property
    def _simulator(self) -> Simulator:
        return self.desk.simulator

    async def _submit(self, request: Request) -> Response:
        prepared = await self.prepare(request)
        simulator = self._simulator
        now = simulator.clock.now()
        self.desk.admit(now)
        job = self.desk.store.submit(
            simulator.start(prepared.work),
            now,
            jobs.job_seconds(simulator.settings, prepared.cells, prepared.meaning),
            simulator.details_watermark_ms(now) if self.in_lake else simulator.watermark_ms(now),
            simulator.faults.take_fate(),
            prepared.page_size,
            self.path,
        )
        return JSONResponse({"jobId": job.id}, status_code=202)

    async def _find(self, request: Request) -> tuple[jobs.Job[Pages], jobs.Progress]:
        now = self._simulator.clock.now()
        job = self.desk.store.find(request.path_params["jobId"], now)
        return job, await jobs.progress_of(job, now)

    async def _status(self, request: Request) -> Response:
        job, progress = await self._find(request)
        told = self._simulator.told_time
        answer = {
            "state": GENESYS_STATES[progress.state],
            "submissionDate": told(job.submitted_at),
            "expirationDate": told(job.expires_at),
        }
        if progress.state in (JobState.DONE, JobState.FAILED, JobState.EXPIRED):
            answer["completionDate"] = told(job.completes_at)
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
        size = job.page_size or jobs.page_size_of(
            request.query_params.get("pageSize"), settings.details_default_page_size, settings.details_max_page_size
        )
        offset = jobs.offset_of(job.id, request.query_params.get("cursor"))
        pages = jobs.finished_result(job)

        def work() -> Response:
            answer = pages.page(offset, size)
            if offset + size < len(pages):
                answer["cursor"] = jobs.cursor_after(job.id, offset + size)
            if self.in_lake:
                answer["dataAvailabilityDate"] = iso(job.watermark_ms)
            # Written out as JSON here too: a large answer would hold up the event loop.
            return JSONResponse(answer)

        return await self._simulator.run(work)

    async def _delete(self, request: Request) -> Response:
        job, progress = await self._find(request)
        if progress.state in (JobState.QUEUED, JobState.RUNNING):
            job.cancelled = True
        elif progress.state is not JobState.CANCELLED:
            self.desk.store.remove(job)
        return Response(status_code=204)
