"""The API worker: claims jobs from the job table and runs many of them concurrently on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.api.jobs.job_progress import JobProgress
from cache_pipeline.api.jobs.queue import Delivery, JobQueue
from cache_pipeline.api.monitoring.counters import FIRST_ANSWERS, JOB_WAITS, JOBS, ProcessCounters
from cache_pipeline.api.parsing import AD_HOC, REFRESH, read_overrides
from cache_pipeline.api.problems import Problem, problem_for
from cache_pipeline.errors import HistoryUnavailable, InvalidQuery, UpstreamRefused
from cache_pipeline.fair_slots import may_take
from cache_pipeline.query.ad_hoc import read_ad_hoc
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.lane import Priority
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import JobSettings
from cache_pipeline.storage.known_errors import known_error
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesRegister
from cache_pipeline.storage.ports.jobs import ApiJob, JobEvents, JobState, JobStore, JobTiming
from cache_pipeline.telemetry.propagation import resume_context
from cache_pipeline.telemetry.spans import span

logger = logging.getLogger(__name__)
_POSTGRES_RETRY_SECONDS = 1.0
_SWEEP_SECONDS = 2.0
#: Pause between two looks at the slots of a worker that stops.
_DRAIN_LOOK_SECONDS = 1.0
#: The pause before a job is retried; doubled with each attempt, up to the maximum.
_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS = 2.0, 60.0
#: Missed leases before a job is dead-lettered. Reassigning a live job is cheap; dead-lettering one loses it.
_DEAD_LETTER_LEASES = 3
#: A message that has not arrived within this time was lost. Where all workers are busy instead, none of them sweeps.
_LOST_AFTER = timedelta(seconds=10)
T = TypeVar("T")


@dataclass
class Worker:
    """The jobs of one worker process.

    Queue messages are only wake-ups. The job table decides what runs next: interactive first, then round-robin over
    tenants and keys. A key never holds all slots. A job whose message was lost, or whose worker died, is found by sweeping the table, so jobs still run while
    the message broker is unavailable.

    Attributes:
        name: Name of this process, unique among all workers.
        service: Answers the queries.
        reports: The declared reports by name.
        jobs: The job table.
        leases: The job table again, on a connection of its own, so that no other work delays the renewal of leases.
        queue: The message queue.
        events: Publishes changes of jobs.
        counters: Counts for the metrics.
        settings: How many jobs run at once, their leases and retries.
        ad_hoc_series: The series of queries that no declared report holds.
        max_ad_hoc_series: The most of them for a tenant.
        ad_hoc_keep: How long they are kept after the last request.
    """

    name: str
    service: ReportService
    reports: Mapping[str, Report]
    jobs: JobStore
    leases: JobStore
    queue: JobQueue
    events: JobEvents
    counters: ProcessCounters
    settings: JobSettings
    ad_hoc_series: AdHocSeriesRegister
    max_ad_hoc_series: int
    ad_hoc_keep: timedelta
    _query_tasks: dict[UUID, asyncio.Task[None]] = field(default_factory=dict[UUID, "asyncio.Task[None]"])
    _priorities: dict[UUID, Priority] = field(default_factory=dict[UUID, Priority])
    _slot_tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])
    _cancelled_jobs: set[UUID] = field(default_factory=set[UUID])
    _is_stopping: bool = False
    _is_requeueing: bool = False

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.settings.concurrency)
        self._claiming = asyncio.Lock()
        self._lease = timedelta(seconds=self.settings.lease_seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Run jobs until `stop` is set. Then finish the running jobs, and requeue those that take too long."""
        deliveries = self.queue.consume()
        self.service.single_flight.on_wait = self.counters.count_single_flight_wait
        tasks = [
            asyncio.create_task(each)
            for each in (self._consume(deliveries), self._sweep(), self._renew_leases(), self.counters.run())
        ]
        consuming, sweeping, renewing, counting = tasks
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_stopping = True
            await cancel_and_wait([stopping, sweeping])
            await self._drain()
            # The consumer must outlive the jobs, because their messages are still to be acknowledged.
            await cancel_and_wait([consuming, renewing, counting])
            await deliveries.aclose()
        for task in done:
            # These tasks end only with an error, and a worker that takes no jobs must not look alive.
            task.result()

    async def _drain(self) -> None:
        if self._slot_tasks:
            await asyncio.wait(self._slot_tasks, timeout=self.settings.drain_seconds)
        self._is_requeueing = True
        while self._slot_tasks:
            await cancel_and_wait(self._query_tasks.values())
            # A slot may have claimed one more job meanwhile, whose query is then cancelled too.
            await asyncio.wait(self._slot_tasks, timeout=_DRAIN_LOOK_SECONDS)

    async def _consume(self, deliveries: AsyncGenerator[Delivery]) -> None:
        async for delivery in deliveries:
            await self._slots.acquire()
            if self._is_stopping:
                # The message is not acknowledged, so another worker receives it.
                return
            self._start(self._handle_delivery(delivery))

    def _start(self, work: Awaitable[None]) -> None:
        """Start work in a slot that has already been acquired."""

        async def run() -> None:
            try:
                await work
            except Exception:
                logger.exception("the outcome of a job could not be stored; the job runs again when its lease expires")
            finally:
                self._slots.release()

        task = asyncio.create_task(run())
        self._slot_tasks.add(task)
        task.add_done_callback(self._slot_tasks.discard)

    async def _handle_delivery(self, delivery: Delivery) -> None:
        try:
            UUID(delivery.body.decode("ascii"))
        except ValueError:
            await _retry_until_available(lambda: self.jobs.dead_letter_message(delivery.body, "not the id of a job"))
        else:
            job = await _retry_until_available(self._claim)
            if job is not None:
                await self._run_job(job)
        await delivery.ack()
        # A job that had to leave its slot to other keys has no message any more.
        while not self._is_stopping and (job := await _retry_until_available(self._claim)):
            await self._run_job(job)

    async def _claim(self, lost_after: timedelta | None = None) -> ApiJob | None:
        """Claim the next job, but none of a key that holds as many slots of this worker as are free: others could get none."""
        async with self._claiming:
            held = Counter(key for priority in self._priorities.values() for key in priority.callers)
            free = self.settings.concurrency - len(self._priorities)
            busy = [key for key, count in held.items() if not may_take(count, free)]
            job = await self.jobs.claim(self.name, self._lease, self.settings.max_attempts, lost_after, busy)
            if job is not None:
                self._priorities[job.id] = job.priority
            return job

    async def _sweep(self) -> None:
        dead_lettered = Problem(
            "dead-lettered",
            500,
            f"{self.settings.max_attempts} workers ended while running this job; it is not run again",
        )
        while True:
            with suppress(HistoryUnavailable):
                grace = _DEAD_LETTER_LEASES * self._lease
                for job_id in await self.jobs.dead_letter_stale(
                    self.settings.max_attempts, dead_lettered.document(), grace
                ):
                    logger.error("job %s is dead-lettered: each of its workers ended while running it", job_id)
                    await self.events.publish(job_id)
                while not self._slots.locked():
                    job = await self._claim(_LOST_AFTER)
                    if job is None:
                        break
                    await self._slots.acquire()
                    self._start(self._run_job(job))
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _renew_leases(self) -> None:
        """Renew the leases, and stop the jobs that this worker has lost: cancelled, or claimed by another worker."""
        while True:
            await asyncio.sleep(self.settings.lease_seconds / 5)
            job_ids = list(self._query_tasks)
            if not job_ids:
                continue
            with suppress(HistoryUnavailable):
                renewed = await self.leases.renew_leases(self.name, job_ids, self._lease)
                # Other callers may have joined a job.
                self._priorities.update(
                    (job_id, each) for job_id, each in renewed.items() if job_id in self._query_tasks
                )
                lost = set(job_ids) - renewed.keys()
                self._cancelled_jobs |= await self.leases.cancelled(lost) if lost else set()
                for job_id in lost:
                    if task := self._query_tasks.get(job_id):
                        task.cancel()

    async def _run_job(self, job: ApiJob) -> None:
        # Logs and spans carry the correlation id and trace of the first request for the job.
        with resume_context(job.context):
            await self._run_in_context(job)

    async def _run_in_context(self, job: ApiJob) -> None:
        task = asyncio.create_task(self._run_query(job))
        self._query_tasks[job.id] = task
        await self.events.publish(job.id)
        try:
            await asyncio.wait([task])
        finally:
            if self._query_tasks.get(job.id) is task:
                del self._query_tasks[job.id], self._priorities[job.id]
                self._cancelled_jobs.discard(job.id)
        await _retry_until_available(lambda: self._store_outcome(job, task))
        await self.events.publish(job.id)

    async def _store_outcome(self, job: ApiJob, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if self._is_requeueing:
                await self.jobs.requeue(job, after=timedelta(0), uncounted=True)
            return
        error = task.exception()
        if error is None:
            self._record_timing(job, JobState.done, await self.jobs.finish(job))
        elif (known := known_error(error)) and known.retryable and job.attempts < self.settings.max_attempts:
            logger.warning("job %s: %s; the job is retried", job.id, error)
            self.counters.count_job_retry()
            pause = min(_MAX_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** (job.attempts - 1))
            await self.jobs.requeue(job, after=timedelta(seconds=pause))
        else:
            problem = problem_for(error)
            if problem.kind == "internal":
                logger.error("job %s failed with an unexpected error", job.id, exc_info=error)
            self._record_timing(job, JobState.failed, await self.jobs.finish(job, problem.document()))

    def _record_timing(self, job: ApiJob, state: JobState, timing: JobTiming | None) -> None:
        if timing is None:
            return
        self.counters.record_seconds(JOB_WAITS, (job.lane,), timing.waited)
        self.counters.record_seconds(JOBS, (job.lane, state), timing.worked)
        if state is JobState.done:
            self.counters.record_seconds(FIRST_ANSWERS, (job.lane,), timing.waited + timing.worked)

    async def _run_query(self, job: ApiJob) -> None:
        with span("job", job=str(job.id), report=job.report, lane=job.lane, attempt=job.attempts):
            await self._run_query_in_span(job)

    async def _run_query_in_span(self, job: ApiJob) -> None:
        report = await self._find_report(job)
        # A job that is requeued or claimed by another worker continues there. The vendor's job is cancelled only if no
        # caller waits for it any more.
        service = replace(
            self.service, tenant=job.tenant, has_other_requesters=lambda: job.id not in self._cancelled_jobs
        )
        query = service.query(report, job.request["interval"], read_overrides(job.request, report))
        progress = JobProgress(query.source_series.report, query.available_interval)

        async def current_priority() -> Priority:
            return self._priorities.get(job.id, job.priority)

        reporting = asyncio.create_task(self._report_progress(job, progress))
        try:
            await service.answer_query(
                query,
                current_priority,
                on_progress=progress.record,
                refresh=REFRESH in job.request,
            )
        except UpstreamRefused as error:
            if AD_HOC not in job.request or error.status != 400:
                raise
            # Names in the query of an undeclared report are the caller's own, and only the vendor knows them all.
            raise InvalidQuery("payload", f"is refused by the vendor: {error.vendor_message}") from error
        finally:
            await cancel_and_wait([reporting])
        with suppress(HistoryUnavailable):
            await self._store_progress(job, progress)

    async def _find_report(self, job: ApiJob) -> Report:
        """Return the report of a job, and see to it that the tables of one that is not declared exist."""
        declaration = job.request.get(AD_HOC)
        if declaration is None:
            return find_report(dict(self.reports), job.report)
        report = read_ad_hoc(declaration)
        for name in await self.ad_hoc_series.drop_expired(self.ad_hoc_keep):
            logger.info("dropped %s, which was not asked for in the last %d days", name, self.ad_hoc_keep.days)
        columns = self.service.columns(report)
        await self.ad_hoc_series.prepare(declaration, report, columns, job.tenant, self.max_ad_hoc_series)
        return report

    async def _report_progress(self, job: ApiJob, progress: JobProgress) -> None:
        while True:
            await progress.wait_for_change()
            with suppress(HistoryUnavailable):
                await self._store_progress(job, progress)
                await self.events.publish(job.id)

    async def _store_progress(self, job: ApiJob, progress: JobProgress) -> None:
        await self.jobs.update_progress(job, progress.percent, progress.chunks_done, progress.chunks_total)


async def _retry_until_available(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat `attempt` until PostgreSQL is available: this work must neither be lost nor acknowledged before."""
    while True:
        try:
            return await attempt()
        except HistoryUnavailable as error:
            logger.warning("%s; waiting for it", error)
            await asyncio.sleep(_POSTGRES_RETRY_SECONDS)
