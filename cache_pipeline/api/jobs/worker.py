"""The worker: takes jobs by their rows, answers them with the one engine, many side by side on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.api.jobs.job import ApiJob, JobState
from cache_pipeline.api.jobs.job_events import JobEvents
from cache_pipeline.api.jobs.job_progress import JobProgress
from cache_pipeline.api.jobs.job_store import JobStore, JobTiming
from cache_pipeline.api.jobs.queue import Delivery, JobQueue
from cache_pipeline.api.monitoring.counters import FIRST_ANSWERS, JOBS, WAITS, ProcessCounters
from cache_pipeline.api.parsing import REFRESH, read_overrides
from cache_pipeline.api.problems import Problem, problem_for
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import JobSettings
from cache_pipeline.storage.known_errors import known_error
from cache_pipeline.telemetry.propagation import resume_context
from cache_pipeline.telemetry.spans import span

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0
_SWEEP_SECONDS = 2.0
#: Before a job is tried again; doubled each time, up to the longest.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 60.0
#: A job's last worker is given up after so many leases more: to take a job over too early costs a little, to park it a job.
_SILENT_LEASES = 3
#: A message that a worker could have had and that still has not come was lost; or all workers are busy, and then
#: nobody sweeps.
_LOST_AFTER = timedelta(seconds=10)
_STORE_AWAY = (psycopg.OperationalError, PoolTimeout)
T = TypeVar("T")


@dataclass
class Worker:
    """One worker process's jobs.

    A message says that a job waits, not which is next: that the rows decide, so that whoever waits in front of a screen
    comes first and no tenant keeps out another. A job whose message was lost, or whose worker died, is found by sweeping
    the rows, so that a broker that is away stops nothing.

    Attributes:
        name: of this process, different from every other's.
        service: the engine.
        reports: the declarations.
        jobs, queue, events: rows, messages, and word of changes.
        leases: the rows again, by a connection that no other work keeps waiting.
        meter: counts what was done.
        settings: how many at once, and how patient.
    """

    name: str
    service: ReportService
    reports: Mapping[str, Report]
    jobs: JobStore
    leases: JobStore
    queue: JobQueue
    events: JobEvents
    meter: ProcessCounters
    settings: JobSettings
    _running: dict[UUID, asyncio.Task[None]] = field(default_factory=dict[UUID, "asyncio.Task[None]"])
    _working: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])
    _unwanted: set[UUID] = field(default_factory=set[UUID])
    _stopping: bool = False
    _handing_back: bool = False

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.settings.at_once)
        self._lease = timedelta(seconds=self.settings.lease_seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then end what was begun, or hand it back where it takes too long."""
        deliveries = self.queue.consume()
        self.service.single_flight.on_wait = self.meter.flew
        working = [
            asyncio.create_task(each)
            for each in (self._take(deliveries), self._sweep(), self._hold(), self.meter.run())
        ]
        taking, sweeping, holding, counting = working
        told = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([told, *working], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            await cancel_and_wait([told, sweeping])
            await self._drain()
            # Only now, for what was finished must still be acknowledged.
            await cancel_and_wait([taking, holding, counting])
            await deliveries.aclose()
        for task in done:
            # None of them ends by itself but by a fault, and a worker that takes nothing must not look alive.
            task.result()

    async def _drain(self) -> None:
        if self._working:
            await asyncio.wait(self._working, timeout=self.settings.drain_seconds)
        self._handing_back = True
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _take(self, deliveries: AsyncGenerator[Delivery]) -> None:
        async for delivery in deliveries:
            await self._slots.acquire()
            if self._stopping:
                # Not acknowledged, so another worker gets it.
                return
            self._begin(self._deliver(delivery))

    def _begin(self, work: Awaitable[None]) -> None:
        """Do something in a slot that is held already."""

        async def done() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 - logged, and the worker goes on
                _LOG.exception("a job could not be booked; it will be taken again when its lease has run out")
            finally:
                self._slots.release()

        task = asyncio.create_task(done())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            UUID(delivery.body.decode("ascii"))
        except ValueError:
            await _patiently(lambda: self.jobs.park_message(delivery.body, "it is no job's id"))
        else:
            job = await _patiently(lambda: self.jobs.claim(self.name, self._lease, self.settings.attempts))
            if job is not None:
                await self._work(job)
        await delivery.ack()

    async def _sweep(self) -> None:
        given_up = Problem(
            "given-up", 500, f"{self.settings.attempts} workers ended in the middle of this job; it is not begun again"
        )
        while True:
            with suppress(*_STORE_AWAY):
                silence = _SILENT_LEASES * self._lease
                for parked in await self.jobs.sweep(self.settings.attempts, given_up.document(), silence):
                    _LOG.error("job %s is parked: workers ended in the middle of it again and again", parked)
                    await self.events.announce(parked)
                while not self._slots.locked():
                    job = await self.jobs.claim(self.name, self._lease, self.settings.attempts, _LOST_AFTER)
                    if job is None:
                        break
                    await self._slots.acquire()
                    self._begin(self._work(job))
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _hold(self) -> None:
        """Keep the leases, and stop what is no longer ours: cancelled, or taken over while we slept."""
        while True:
            await asyncio.sleep(self.settings.lease_seconds / 5)
            held = list(self._running)
            if not held:
                continue
            with suppress(*_STORE_AWAY):
                lost = set(held) - await self.leases.hold(self.name, held, self._lease)
                self._unwanted |= await self.leases.cancelled(lost) if lost else set()
                for job_id in lost:
                    if task := self._running.get(job_id):
                        task.cancel()

    async def _work(self, job: ApiJob) -> None:
        # Under the names of who asked for it first.
        with resume_context(job.context):
            await self._worked(job)

    async def _worked(self, job: ApiJob) -> None:
        task = asyncio.create_task(self._answer(job))
        self._running[job.id] = task
        await self.events.announce(job.id)
        try:
            await asyncio.wait([task])
        finally:
            if self._running.get(job.id) is task:
                del self._running[job.id]
                self._unwanted.discard(job.id)
        await _patiently(lambda: self._book(job, task))
        await self.events.announce(job.id)

    async def _book(self, job: ApiJob, task: asyncio.Task[None]) -> None:
        """Write down how a job ended."""
        if task.cancelled():
            if self._handing_back:
                await self.jobs.give_back(job, after=timedelta(0), uncounted=True)
            return
        error = task.exception()
        if error is None:
            self._timed(job, JobState.done, await self.jobs.finish(job))
        elif (known := known_error(error)) and known.retryable and job.attempts < self.settings.attempts:
            _LOG.warning("job %s: %s; it is tried again", job.id, error)
            self.meter.retried()
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (job.attempts - 1))
            await self.jobs.give_back(job, after=timedelta(seconds=pause))
        else:
            problem = problem_for(error)
            if problem.kind == "internal":
                _LOG.error("job %s", job.id, exc_info=error)
            self._timed(job, JobState.failed, await self.jobs.finish(job, problem.document()))

    def _timed(self, job: ApiJob, state: JobState, took: JobTiming | None) -> None:
        if took is None:
            return
        self.meter.time(WAITS, (job.lane,), took.waited)
        self.meter.time(JOBS, (job.lane, state), took.worked)
        if state is JobState.done:
            self.meter.time(FIRST_ANSWERS, (job.lane,), took.waited + took.worked)

    async def _answer(self, job: ApiJob) -> None:
        with span("job", job=str(job.id), report=job.report, lane=job.lane, attempt=job.attempts):
            await self._answered(job)

    async def _answered(self, job: ApiJob) -> None:
        report = find_report(dict(self.reports), job.report)
        # Handed back or taken over, the job goes on elsewhere; the vendor's is given up only where nobody waits any more.
        service = replace(self.service, tenant=job.tenant, has_other_requesters=lambda: job.id not in self._unwanted)
        query = service.query(report, job.request["interval"], read_overrides(job.request))
        progress = JobProgress(query.source_series.report, query.available_interval)
        told = asyncio.create_task(self._tell(job, progress))
        try:
            await service.answer_query(
                query, job.lane, on_chunk=progress.judged, on_percent=progress.polled, refresh=REFRESH in job.request
            )
        finally:
            await cancel_and_wait([told])
        with suppress(*_STORE_AWAY):
            await self._told(job, progress)

    async def _tell(self, job: ApiJob, progress: JobProgress) -> None:
        while True:
            await progress.moved()
            with suppress(*_STORE_AWAY):
                await self._told(job, progress)
                await self.events.announce(job.id)

    async def _told(self, job: ApiJob, progress: JobProgress) -> None:
        await self.jobs.progress(job, progress.percent, progress.done, progress.total)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """The same again until PostgreSQL is there: what waits for it here must neither be lost nor acknowledged."""
    while True:
        try:
            return await attempt()
        except _STORE_AWAY as error:
            _LOG.warning("PostgreSQL is away (%s); waiting", type(error).__name__)
            await asyncio.sleep(_PAUSE_SECONDS)
