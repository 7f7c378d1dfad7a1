"""One query of the vendor, from submit to a job that is done: its rows are ready to be read."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.upstream.errors import UpstreamError
from cache_pipeline.upstream.platforms.base import Job, JobStatus, Platform
from cache_pipeline.upstream.polling import Pacing
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


OnPercent = Callable[[Interval, float | None], None]


def _ignore(_interval: Interval, _percent: float | None) -> None:
    return


def _kind_of(report: Report, interval: Interval) -> str:
    """What takes a vendor about equally long: one series, and intervals of lengths within a fifth of each other."""
    return f"{Series(report).id}:{round(4 * math.log2((interval.end - interval.start).total_seconds()))}"


@dataclass(frozen=True)
class Jobs:
    """The upstream queries of one report in one lane.

    Attributes:
        platform: the vendor.
        report: the declaration.
        lane: who asks.
        clock: the time, in UTC.
        pacing: when to ask for a job.
        on_percent: hears, at every poll, how far the query of an interval is; None where the vendor does not say.
    """

    platform: Platform
    report: Report
    lane: Lane
    clock: Callable[[], datetime]
    pacing: Pacing = field(default_factory=Pacing)
    on_percent: OnPercent = _ignore

    @asynccontextmanager
    async def finished(self, interval: Interval) -> AsyncGenerator[FinishedJob]:
        """Submit a query and poll it until it is done (G1 to G3); read its pages inside the block.

        Raises:
            UpstreamError: the vendor refused, failed the job or cannot be reached.
        """
        started, fetched_at = time.monotonic(), self.clock()
        job = await self.platform.submit(self.report, interval, self.lane)
        try:
            polls = 0 if job.answer is not None else await self._polled(job, interval)
            yield FinishedJob(job, fetched_at, 1 + polls, started)
        except BaseException:
            await self._cancelled(job)
            raise

    async def _polled(self, job: Job, interval: Interval) -> int:
        polls = 0

        async def check() -> JobStatus:
            nonlocal polls
            polls += 1
            return await self.platform.status(job)

        await self.pacing.finished(
            _kind_of(self.report, interval),
            check,
            deadline=_JOB_DEADLINE_SECONDS,
            heard=lambda percent: self.on_percent(interval, percent),
        )
        return polls

    async def _cancelled(self, job: Job) -> None:
        """Free the vendor's job; what went wrong before matters more than a cancel that fails."""
        try:
            await self.platform.cancel(job)
        except UpstreamError:
            return
