"""The jobs of the HTTP API: each is one query that the stores cannot answer yet, and its progress."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from cache_pipeline.query.lane import Lane, Priority

#: How long a finished job is kept for its callers to look at.
JOB_RETENTION = timedelta(days=1)


class JobState(StrEnum):
    """The state of a job."""

    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self not in (JobState.queued, JobState.running)


@dataclass(frozen=True)
class NewJob:
    """A job to be queued.

    Attributes:
        key: The key of the query's meaning. At most one job per key is queued or running.
        tenant: The tenant whose data is read.
        report: Name of the declared report.
        request: The query in canonical form, for the worker to run.
        lane: Priority of the request.
        requested_by: Id of the API key.
        context: Correlation id and trace of the request.
    """

    key: str
    tenant: str
    report: str
    request: dict[str, Any]
    lane: Lane
    requested_by: str
    context: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class ApiJob:
    """A job as its row describes it.

    Attributes:
        id: Random, so that it cannot be guessed.
        tenant: The tenant whose data is read.
        report: Name of the declared report.
        request: The query in canonical form.
        lane: Priority: the highest of all requests that wait for the job.
        requested_by: Ids of the API keys that wait for it.
        state: The state of the job.
        created_at: When it was queued.
        started_at: When a worker first began it.
        finished_at: When it reached its final state.
        attempts: How often a worker has begun it.
        owner: The worker that runs it, or ran it last.
        percent: 0 to 100.
        chunks_done: Upstream queries that have finished.
        chunks_total: Upstream queries in all, or None until the number is known.
        problem: Why the job failed, as problem details (RFC 9457).
        context: Correlation id and trace of the first request for it.
    """

    id: UUID
    tenant: str
    report: str
    request: dict[str, Any]
    lane: Lane
    requested_by: tuple[str, ...]
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    owner: str | None
    percent: float
    chunks_done: int
    chunks_total: int | None
    problem: dict[str, Any] | None
    context: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def priority(self) -> Priority:
        """The priority of its upstream requests."""
        return Priority(self.lane, frozenset(self.requested_by))

    @property
    def expires_at(self) -> datetime | None:
        """When a finished job is deleted."""
        return self.finished_at + JOB_RETENTION if self.finished_at else None


@dataclass(frozen=True)
class JobOutlook:
    """What the job table suggests about when a job will be done.

    Attributes:
        jobs_before: Queued jobs that run before it.
        seconds: Median duration of the report's recent jobs, or None if there were none.
        jobs_per_second: Jobs of all reports that finished per second, over the last minute.
    """

    jobs_before: int
    seconds: float | None
    jobs_per_second: float


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended: done, or failed with a problem."""

    state: JobState
    problem: dict[str, Any] | None


@dataclass(frozen=True)
class Admission:
    """What became of a query that was to be queued.

    Attributes:
        job: The open job, or None because the same query ended a moment ago.
        is_created: Whether the job is new, and not that of an equivalent request.
        recent: How the same query ended, if it ended within the time given.
        outlook: When the job will be done.
    """

    job: ApiJob | None
    is_created: bool
    recent: JobOutcome | None
    outlook: JobOutlook


@dataclass(frozen=True)
class JobTiming:
    """How long a job took, in seconds by PostgreSQL's clock.

    Attributes:
        waited: From the time it was queued until a worker first began it.
        worked: From then until it finished.
    """

    waited: float
    worked: float


class JobStore(Protocol):
    """The jobs of all tenants. Each method is one complete change, so a job is never half changed."""

    async def admit(self, new: NewJob, within: timedelta = timedelta(0)) -> Admission:
        """Queue a job, or join the open job with the same key, unless a job with this key ended within a given time."""
        ...

    async def get(self, job_id: UUID, tenant: str) -> ApiJob | None:
        """Return a tenant's job, or None if there is none or it belongs to another tenant."""
        ...

    async def claim(
        self,
        owner: str,
        lease: timedelta,
        max_attempts: int,
        lost_after: timedelta | None = None,
        busy_keys: Collection[str] = (),
    ) -> ApiJob | None:
        """Claim the next job to run, including one whose worker died. Return None if there is none.

        Args:
            owner: The worker.
            lease: How long the job belongs to the worker before it must renew the lease.
            max_attempts: Leave alone jobs that were begun this often.
            lost_after: Claim only jobs of dead workers, and queued jobs older than this: their message must have been
                lost.
            busy_keys: Leave alone jobs that only these API keys wait for.
        """
        ...

    async def renew_leases(self, owner: str, jobs: Iterable[UUID], lease: timedelta) -> dict[UUID, Priority]:
        """Extend the leases of a worker's jobs and return the priorities of those renewed; it no longer owns the others."""
        ...

    async def cancelled(self, jobs: Iterable[UUID]) -> set[UUID]:
        """Return those of the jobs that were cancelled, because no caller waits for them any more."""
        ...

    async def update_progress(self, job: ApiJob, percent: float, chunks_done: int, chunks_total: int | None) -> None:
        """Store the progress of a job, unless its worker has lost the lease."""
        ...

    async def finish(self, job: ApiJob, problem: dict[str, Any] | None = None) -> JobTiming | None:
        """Mark a job done, or failed with a problem. Return its timing, or None if its worker lost the lease."""
        ...

    async def requeue(self, job: ApiJob, *, after: timedelta, uncounted: bool = False) -> None:
        """Put a running job back on the queue.

        Args:
            job: The job.
            after: How long no worker may begin it.
            uncounted: Whether to take the attempt off its count, because the worker was asked to shut down.
        """
        ...

    async def cancel(self, job_id: UUID, tenant: str, requested_by: str) -> ApiJob | None:
        """Take one API key off a job. The job itself is cancelled once no other key waits for it."""
        ...

    async def outlook(self, job: ApiJob) -> JobOutlook:
        """Return what the job table suggests about when a job will be done."""
        ...

    async def dead_letter_stale(self, max_attempts: int, problem: dict[str, Any], grace: timedelta) -> list[UUID]:
        """Fail the jobs whose workers died too often, and return their ids. Delete expired jobs as well.

        Args:
            max_attempts: The number of attempts after which a job is dead-lettered.
            problem: The problem that the job fails with.
            grace: How long its last worker must have been silent after its lease.
        """
        ...

    async def dead_letter_message(self, body: bytes, reason: str) -> None:
        """Store a message that names no job, for an operator to look at."""
        ...

    async def ping(self) -> None:
        """Check that the server answers."""
        ...

    async def counts(self) -> dict[JobState, int]:
        """Count the jobs by state: open jobs, and those that finished within a day."""
        ...


class JobEvents(Protocol):
    """Announces changes of jobs. An event only says that a job's row may have changed, and may be lost: read the row too."""

    async def publish(self, job_id: UUID) -> None:
        """Announce that a job's row has changed."""
        ...

    def subscribe(self, job_id: UUID) -> AbstractAsyncContextManager[asyncio.Event]:
        """Yield an event that is set whenever the job changes while the block lasts."""
        ...

    async def listen(self) -> None:
        """Pass events on to the subscribers of this process until cancelled."""
        ...
