"""One query of the vendor, from submit to a job that is done: its rows are ready to be read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.upstream.errors import UpstreamError
from cache_pipeline.upstream.platforms.base import Job, JobStatus, Platform
from cache_pipeline.upstream.poll import guide_delays, poll_until_done
from cache_pipeline.upstream.quota import Lane

#: Longer than any query is known to take; a job beyond it is reported, not awaited for ever.
_JOB_DEADLINE_SECONDS = 30 * 60.0


@dataclass(frozen=True)
class FinishedJob:
    """A job whose pages can be read.

    Attributes:
        job: the vendor's.
        fetched_at: when the query was sent: the figures are of then.
        calls: requests it took so far.
        started: on the monotonic clock, when this process began with it.
    """

    job: Job
    fetched_at: datetime
    calls: int
    started: float


@dataclass(frozen=True)
class Jobs:
    """The upstream queries of one report in one lane.

    Attributes:
        platform: the vendor.
        report: the declaration.
        lane: who asks.
        clock: the time, in UTC.
    """

    platform: Platform
    report: Report
    lane: Lane
    clock: Callable[[], datetime]

    @asynccontextmanager
    async def finished(self, interval: Interval) -> AsyncGenerator[FinishedJob]:
        """Submit a query and poll it until it is done (G1 to G3); read its pages inside the block.

        Raises:
            UpstreamError: the vendor refused, failed the job or cannot be reached.
        """
        started, fetched_at = time.monotonic(), self.clock()
        job = await self.platform.submit(self.report, interval, self.lane)
        try:
            polls = 0 if job.answer is not None else await self._polled(job)
            yield FinishedJob(job, fetched_at, 1 + polls, started)
        except BaseException:
            await self._cancelled(job)
            raise

    async def _polled(self, job: Job) -> int:
        polls = 0

        async def done() -> JobStatus | None:
            nonlocal polls
            polls += 1
            status = await self.platform.status(job)
            return status if status.done else None

        await poll_until_done(done, guide_delays(), deadline=_JOB_DEADLINE_SECONDS)
        return polls

    async def _cancelled(self, job: Job) -> None:
        """Free the vendor's job; what went wrong before matters more than a cancel that fails."""
        try:
            await self.platform.cancel(job)
        except UpstreamError:
            return
