"""Waits for a job: sleeps, asks, and sleeps again, as the policy says."""

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
    """`guide` keeps the guide's schedule to the letter (G3); `adaptive` never asks more often, and leaves out futile polls."""

    adaptive = "adaptive"
    guide = "guide"


class ReportsProgress(Protocol):
    """What one poll says."""

    @property
    def done(self) -> bool:
        """Whether the job is finished."""
        ...

    @property
    def percent(self) -> float | None:
        """How far it is, 0 to 100; None where the vendor does not say."""
        ...


P = TypeVar("P", bound=ReportsProgress)


class DurationMemory(Protocol):
    """Where it is kept how long jobs of a kind took; it never raises."""

    async def of(self, kind: str) -> DurationEstimates:
        """What is known of jobs of this kind."""
        ...

    async def learn(self, kind: str, *, after: float, by: float) -> None:
        """Adds a job that took more than `after` and at most `by` seconds."""
        ...


def _ignore(_percent: float | None) -> None:
    return


class JobPoller:
    """When the jobs of one platform are asked for.

    Args:
        policy: How far to go below the guide's schedule.
        memory: How long jobs took; without it only percentages are gone by.
        guide: The schedule that is never exceeded.
        sleep: Waits so many seconds.
        clock: Seconds that only grow.
        deadline_seconds: Seconds after its submit at which a job is overdue; by default longer than any is known to take.
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
        self._adaptive = policy is PollPolicy.adaptive
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
        """Waits, asks, and waits again until the job is done, and gives what the last poll said.

        Args:
            kind: What takes about equally long: the series and the length of the interval, say.
            check: Asks once; raises when the job failed, which ends the loop at once (G3).
            deadline_seconds: Seconds from now. The wait that would pass it is cut short and followed by one last ask.
            age_seconds: Seconds since the job was submitted, for one that another process submitted.
            on_progress: Hears the percentage of every poll.

        Raises:
            UpstreamJobOverdue: The last ask at the deadline still found the job unfinished.
        """
        started = self._clock()
        learned = await self._memory.of(kind) if self._memory and self._adaptive else DurationEstimates()
        sightings: list[JobSighting] = []
        unfinished_at, asking = 0.0, 0.0
        while True:
            waited = self._clock() - started
            wait = self._wait(age_seconds + waited, age_seconds + asking, sightings, learned)
            await self._sleep(max(0.0, min(wait, deadline_seconds - waited)))
            asked = self._clock()
            progress = await check()
            answered = self._clock()
            on_progress(progress.percent)
            if progress.done:
                # What another process saw of the job is not known, so a first look says nothing of its length.
                if self._memory and (sightings or age_seconds == 0):
                    await self._memory.learn(kind, after=unfinished_at, by=age_seconds + answered - started)
                return progress
            sightings.append(JobSighting(age_seconds + answered - started, progress.percent))
            unfinished_at, asking = age_seconds + asked - started, asking + answered - asked
            if answered - started >= deadline_seconds:
                raise UpstreamJobOverdue(waited_seconds=age_seconds + answered - started, polls=len(sightings))

    def _wait(self, now: float, since: float, sightings: list[JobSighting], learned: DurationEstimates) -> float:
        if not self._adaptive:
            return self._guide.wait(len(sightings) + 1)
        return next_poll(self._guide, since, sightings, learned) - now
