"""Polls a vendor's job until it is done: sleeps, checks, and sleeps again, as the policy says."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol, TypeVar

from cache_pipeline.errors import UpstreamJobOverdue
from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.polling.guide_schedule import GuideSchedule
from cache_pipeline.upstream.polling.poll_times import JobSighting, next_poll


class PollPolicy(StrEnum):
    """`guide` follows the guide's schedule exactly (G3); `adaptive` never polls more often, and omits futile polls."""

    adaptive = "adaptive"
    guide = "guide"


class ReportsProgress(Protocol):
    """The result of one poll."""

    @property
    def is_done(self) -> bool:
        """Whether the job is finished."""
        ...

    @property
    def percent(self) -> float | None:
        """Reported progress, 0 to 100; None if the vendor reports none."""
        ...


P = TypeVar("P", bound=ReportsProgress)


class DurationMemory(Protocol):
    """Stores how long jobs of a kind took; it never raises."""

    async def get(self, kind: str) -> DurationEstimates:
        """Return what is known about jobs of this kind."""
        ...

    async def record(self, kind: str, *, after: float, by: float) -> None:
        """Add a job that took more than `after` and at most `by` seconds."""
        ...


def _ignore(_percent: float | None) -> None:
    return


class JobPoller:
    """Polls the jobs of one account.

    Args:
        policy: Whether to omit polls of the guide's schedule.
        memory: How long jobs took; without it the adaptive policy uses percentages only.
        guide: The schedule that is never exceeded.
        sleep: Waits for the given seconds.
        clock: Monotonic seconds.
        deadline_seconds: Age at which a job is overdue; by default longer than any job is known to take.
    """

    def __init__(
        self,
        policy: PollPolicy = PollPolicy.adaptive,
        memory: DurationMemory | None = None,
        guide: GuideSchedule | None = None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        deadline_seconds: float = 1800.0,
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self._is_adaptive = policy is PollPolicy.adaptive
        self._memory = memory
        self._guide = guide or GuideSchedule()
        self._sleep = sleep
        self._clock = clock

    async def wait_until_done(
        self,
        kind: str,
        check: Callable[[], Awaitable[P]],
        *,
        deadline_seconds: float,
        age_seconds: float = 0.0,
        on_progress: Callable[[float | None], None] = _ignore,
    ) -> P:
        """Poll until the job is done, and return the result of the last poll.

        Args:
            kind: Groups jobs that take about equally long, such as those of one series and interval length.
            check: Polls once; it raises if the job failed, which ends the loop at once (G3).
            deadline_seconds: Seconds from now. The wait that would exceed it is shortened, and one last poll follows.
            age_seconds: Seconds since the job was submitted, for a job that another process submitted.
            on_progress: Receives the percentage of every poll.

        Raises:
            UpstreamJobOverdue: The last poll, at the deadline, still found the job unfinished.
        """
        started = self._clock()
        estimates = await self._memory.get(kind) if self._memory and self._is_adaptive else DurationEstimates()
        sightings: list[JobSighting] = []
        unfinished_at, seconds_in_checks = 0.0, 0.0
        while True:
            elapsed = self._clock() - started
            wait = self._wait(age_seconds + elapsed, age_seconds + seconds_in_checks, sightings, estimates)
            await self._sleep(max(0.0, min(wait, deadline_seconds - elapsed)))
            asked = self._clock()
            progress = await check()
            answered = self._clock()
            on_progress(progress.percent)
            if progress.is_done:
                # What another process observed of the job is not known, so a first poll does not show the job's duration.
                if self._memory and (sightings or age_seconds == 0):
                    await self._memory.record(kind, after=unfinished_at, by=age_seconds + answered - started)
                return progress
            sightings.append(JobSighting(age_seconds + answered - started, progress.percent))
            unfinished_at, seconds_in_checks = age_seconds + asked - started, seconds_in_checks + answered - asked
            if answered - started >= deadline_seconds:
                raise UpstreamJobOverdue(waited_seconds=age_seconds + answered - started, polls=len(sightings))

    def _wait(self, now: float, since: float, sightings: list[JobSighting], estimates: DurationEstimates) -> float:
        if not self._is_adaptive:
            return self._guide.wait(len(sightings) + 1)
        return next_poll(self._guide, since, sightings, estimates) - now
