"""Asynchronous jobs of the simulated vendor: their duration, their state at an instant, and their results.

A job sees the data of the instant at which it was submitted. A worker thread computes its result from then on, while the job
is reported as queued and then as running. The state follows the clock and not the machine's speed, unless the machine is
slower than the simulated duration.
"""

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar
from uuid import uuid4

from cache_pipeline.simulator.errors import ApiError, bad_request, not_found
from cache_pipeline.simulator.faults import JobFault
from cache_pipeline.simulator.settings import SimulatorSettings

Result = TypeVar("Result")

_QUEUED_SHARE = 0.2
_RESULT_TIMEOUT_SECONDS = 2.0
_MAX_JOBS = 10_000


class JobTooLargeError(Exception):
    """A job fails because its result would be too large."""

    def __init__(self) -> None:
        super().__init__("the result of the query is too large: reduce the interval")


class JobState(Enum):
    """The state of a job; each platform has its own words for these states."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass
class Job(Generic[Result]):
    """A submitted query. Times are in seconds since the epoch; `result` is dropped when the job expires."""

    id: str
    submitted_at: float
    duration: float
    expires_at: float
    watermark_ms: int
    result: "Future[Result] | None"
    job_fault: JobFault | None
    page_size: int
    path: str = ""
    is_cancelled: bool = False
    pages_read: int = 0

    @property
    def completes_at(self) -> float:
        """The instant at which it is done."""
        return self.submitted_at + self.duration


@dataclass(frozen=True)
class Progress:
    """A job's state and its progress, 0 to 100."""

    state: JobState
    percent: int
    error_message: str | None = None


def job_seconds(settings: SimulatorSettings, cells: int, fingerprint: bytes) -> float:
    """Return the duration of a query for `cells` group-buckets; queries with equal `fingerprint` take equally long."""
    digest = hashlib.sha256(str(settings.seed).encode() + fingerprint).digest()
    variation = int.from_bytes(digest[:8], "big") / 2**63 - 1.0
    base = settings.job_seconds_base + settings.job_seconds_per_1000_cells * cells / 1000
    return base * (1.0 + settings.job_seconds_variation * variation)


class JobStore(Generic[Result]):
    """The jobs of one platform; every client of the organisation may read every job."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._jobs: OrderedDict[str, Job[Result]] = OrderedDict()

    def submit(
        self,
        result: "Future[Result]",
        now: float,
        duration: float,
        watermark_ms: int,
        job_fault: JobFault | None,
        page_size: int = 0,
        path: str = "",
    ) -> Job[Result]:
        """Store a new job.

        Args:
            result: The result, computed in a worker.
            now: Seconds since the epoch.
            duration: Simulated duration in seconds.
            watermark_ms: The watermark at the submission.
            job_fault: The fault of the job, if any.
            page_size: Page size, if the platform takes it from the query and not from the results call.
            path: Path at which it was submitted.
        """
        expires_at = now + max(self._lifetime, duration)
        job = Job(str(uuid4()), now, duration, expires_at, watermark_ms, result, job_fault, page_size, path)
        if job_fault is not JobFault.VANISHES:
            self._jobs[job.id] = job
        self._expire(now)
        return job

    def find(self, job_id: str, now: float) -> Job[Result]:
        """Return the job with this id.

        Raises:
            ApiError: 404; the id is unknown.
        """
        self._expire(now)
        if job_id not in self._jobs:
            raise not_found(f"Unable to find a query job with id {job_id}")
        return self._jobs[job_id]

    def count_running(self, now: float) -> int:
        """Return how many jobs are queued or running at `now`."""
        return sum(now < job.completes_at and not job.is_cancelled for job in self._jobs.values())

    @property
    def jobs(self) -> tuple[Job[Result], ...]:
        """All jobs that are not yet forgotten, oldest first."""
        return tuple(self._jobs.values())

    def remove(self, job: Job[Result]) -> None:
        """Remove a job."""
        if job.result is not None:
            job.result.cancel()
        self._jobs.pop(job.id, None)

    def _expire(self, now: float) -> None:
        for job in self._jobs.values():
            if now >= job.expires_at:
                job.result = None
        while len(self._jobs) > _MAX_JOBS:
            self._jobs.popitem(last=False)


async def job_progress(job: Job[Result], now: float) -> Progress:
    """Return the progress of `job` at `now`; wait briefly for a result that is due by the clock."""
    share = (now - job.submitted_at) / job.duration if job.duration else 1.0
    if job.is_cancelled:
        return Progress(JobState.CANCELLED, 0)
    if job.result is None or (job.job_fault is JobFault.EXPIRES and job.pages_read):
        return Progress(JobState.EXPIRED, 100)
    if share < 1.0:
        state = JobState.QUEUED if share < _QUEUED_SHARE else JobState.RUNNING
        return Progress(state, 0 if state is JobState.QUEUED else int(share * 100))
    if job.job_fault is JobFault.HANGS:
        return Progress(JobState.RUNNING, 99)
    if job.job_fault is JobFault.FAILS:
        return Progress(JobState.FAILED, 100, "the query failed: a fault on demand")
    result = asyncio.wrap_future(job.result)
    done, _ = await asyncio.wait([result], timeout=_RESULT_TIMEOUT_SECONDS)
    if not done:
        return Progress(JobState.RUNNING, 99)
    if isinstance(error := result.exception(), JobTooLargeError):
        return Progress(JobState.FAILED, 100, str(error))
    if error is not None:
        return Progress(JobState.FAILED, 100, "the query could not be computed")
    return Progress(JobState.DONE, 100)


def finished_result(job: Job[Result]) -> Result:
    """Return the result of a job whose progress is DONE."""
    if job.result is None:
        raise not_found(f"The results of query job {job.id} have expired")
    job.pages_read += 1
    return job.result.result()


def encode_cursor(job_id: str, offset: int) -> str:
    """Return an opaque cursor to the entries of a job from `offset`."""
    return base64.urlsafe_b64encode(f"{job_id}:{offset}".encode()).decode()


def decode_cursor(job_id: str, cursor: str | None) -> int:
    """Return the offset in `cursor`; 0 without a cursor.

    Raises:
        ApiError: 400; it is not a cursor of this job.
    """
    if not cursor:
        return 0
    try:
        owner, _, offset = base64.urlsafe_b64decode(cursor.encode()).decode().rpartition(":")
        if owner != job_id:
            raise ValueError(owner)
        return int(offset)
    except (binascii.Error, ValueError):
        raise bad_request("cursor: not a cursor of this job") from None


def parse_page_size(text: str | None, default: int, largest: int) -> int:
    """Return the page size in a query parameter.

    Raises:
        ApiError: 400; it is not a whole number from 1 to `largest`.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= largest):
        raise ApiError(
            400, "invalid.query.param.value", f"pageSize: [{text}] is not a whole number from 1 to {largest}"
        )
    return int(text)
