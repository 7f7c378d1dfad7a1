"""The job of the HTTP API: one query that the stores cannot answer yet, and its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from cache_pipeline.query.lane import Lane

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
