"""Asynchronous jobs: how long one takes, what state it is in by the clock, and its result.

A job sees the data of the instant it was submitted. Its result is worked out in a worker thread from then on, while the
job pretends to be queued and then processed; the state follows the clock, never the machine's speed, unless the
machine is slower than the pretence.
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
from cache_pipeline.simulator.faults import Fate
from cache_pipeline.simulator.settings import SimulatorSettings

Result = TypeVar("Result")

_QUEUED_SHARE = 0.2
_PATIENCE_SECONDS = 2.0
_REMEMBERED_JOBS = 10_000


class JobState(Enum):
    """Where a job stands, in nobody's words; each platform has its own."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass
class Job(Generic[Result]):
    """A submitted query. Times in seconds since the epoch; `result` goes when the job expires."""

    id: str
    submitted_at: float
    duration: float
    expires_at: float
    watermark_ms: int
    result: "Future[Result] | None"
    fate: Fate | None
    page_size: int
    path: str = ""
    cancelled: bool = False
    pages_read: int = 0

    @property
    def completes_at(self) -> float:
        """When it is done."""
        return self.submitted_at + self.duration


@dataclass(frozen=True)
class Progress:
    """A job's state and how far it has come, 0 to 100."""

    state: JobState
    percent: int
    error_message: str | None = None


def job_seconds(settings: SimulatorSettings, cells: int, meaning: bytes) -> float:
    """Return how long a query for `cells` group-buckets takes; equal queries (`meaning`) take equally long."""
    digest = hashlib.sha256(str(settings.seed).encode() + meaning).digest()
    lean = int.from_bytes(digest[:8], "big") / 2**63 - 1.0
    base = settings.job_seconds_base + settings.job_seconds_per_1000_cells * cells / 1000
    return base * (1.0 + settings.job_seconds_variation * lean)


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
        fate: Fate | None,
        page_size: int = 0,
        path: str = "",
    ) -> Job[Result]:
        """Keep a new job; one with a `fate` will not end well.

        `page_size` is kept with the job where the platform has it in the query and not in the results call; `path` is where it
        was submitted.
        """
        expires_at = now + max(self._lifetime, duration)
        job = Job(str(uuid4()), now, duration, expires_at, watermark_ms, result, fate, page_size, path)
        if fate is not Fate.VANISHES:
            self._jobs[job.id] = job
        self._release(now)
        return job

    def find(self, job_id: str, now: float) -> Job[Result]:
        """Return a job.

        Raises:
            ApiError: 404; there is none of that id.
        """
        self._release(now)
        if job_id not in self._jobs:
            raise not_found(f"Unable to find a query job with id {job_id}")
        return self._jobs[job_id]

    def running(self, now: float) -> int:
        """Return how many jobs are queued or processed at `now`."""
        return sum(now < job.completes_at and not job.cancelled for job in self._jobs.values())

    @property
    def remembered(self) -> tuple[Job[Result], ...]:
        """Every job that can still be asked about, the oldest first."""
        return tuple(self._jobs.values())

    def remove(self, job: Job[Result]) -> None:
        """Forget a job."""
        if job.result is not None:
            job.result.cancel()
        self._jobs.pop(job.id, None)

    def _release(self, now: float) -> None:
        for job in self._jobs.values():
            if now >= job.expires_at:
                job.result = None
        while len(self._jobs) > _REMEMBERED_JOBS:
            self._jobs.popitem(last=False)


async def progress_of(job: Job[Result], now: float) -> Progress:
    """Return where `job` stands at `now`; waits a moment for a result that the clock says should be there."""
    share = (now - job.submitted_at) / job.duration if job.duration else 1.0
    if job.cancelled:
        return Progress(JobState.CANCELLED, 0)
    if job.result is None or (job.fate is Fate.EXPIRES and job.pages_read):
        return Progress(JobState.EXPIRED, 100)
    if share < 1.0:
        state = JobState.QUEUED if share < _QUEUED_SHARE else JobState.RUNNING
        return Progress(state, 0 if state is JobState.QUEUED else int(share * 100))
    if job.fate is Fate.HANGS:
        return Progress(JobState.RUNNING, 99)
    if job.fate is Fate.FAILS:
        return Progress(JobState.FAILED, 100, "the query failed: a fault on demand")
    result = asyncio.wrap_future(job.result)
    done, _ = await asyncio.wait([result], timeout=_PATIENCE_SECONDS)
    if not done:
        return Progress(JobState.RUNNING, 99)
    if result.exception() is not None:
        return Progress(JobState.FAILED, 100, "the query could not be worked out")
    return Progress(JobState.DONE, 100)


def finished_result(job: Job[Result]) -> Result:
    """Return the result of a job whose progress is DONE."""
    if job.result is None:
        raise not_found(f"The results of query job {job.id} have expired")
    job.pages_read += 1
    return job.result.result()


def cursor_after(job_id: str, offset: int) -> str:
    """Return an opaque cursor to the entries of a job from `offset` on."""
    return base64.urlsafe_b64encode(f"{job_id}:{offset}".encode()).decode()


def offset_of(job_id: str, cursor: str | None) -> int:
    """Return where `cursor` points; 0 without one.

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
        raise bad_request("cursor: not one that this job gave out") from None


def page_size_of(text: str | None, default: int, largest: int) -> int:
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
