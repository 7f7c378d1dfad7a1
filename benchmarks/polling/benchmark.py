"""`polling`: number of polls for jobs of 2 s to 12 min, and the lag until their end is noticed.

Ours is the product's `JobPoller` with its default policy and learned durations in a real Redis. The peers are the guide's schedule,
implemented from G3, and a fixed interval. All wait for the same jobs on a simulated clock, so that hours take seconds; a poll takes
no time.

Jobs come in kinds, such as a report's chunks of one length. The usual durations of the kinds are spread evenly on a logarithmic
scale between 2 s and 12 min. Assumptions:

* Jobs of one kind vary uniformly within 20 %, as the simulator's do. Separate rows show log-normal variation of 30 %, without a target.
* Percentages are integers: 0 for the first fifth of a job, then the elapsed share of its time. With a vendor whose percentages speed
  up at the end, ours notices later than the guide. Rows without percentages show the learned durations alone, which is what a vendor
  without percentages gets.
* Each kind has thirty jobs. Nothing is known before the first; first jobs are counted, and also shown separately.

Not measured: slow answers to polls, and vendors whose durations drift within the thirty jobs.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from benchmarks.polling.jobs import (
    Job,
    Variation,
    WaitResult,
    fixed_intervals,
    guide_intervals,
    make_jobs,
    vary_log_normally,
    vary_uniformly,
    wait_by_schedule,
)
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.upstream.polling import JobPoller, PollPolicy
from cache_pipeline.upstream.polling.duration_store import DurationStore

_KINDS, _JOBS_OF_A_KIND = 60, 30
_FIXED_SECONDS = 5.0
_HALF_THE_POLLS = Target("ratio", "<=", 0.5)
_NO_MORE_LAG = Target("ratio", "<=", 1.0)
_GUIDE = "guide"


@dataclass(frozen=True)
class _Case:
    """One set of assumptions about the jobs."""

    name: str
    vary: Variation
    has_percent: bool
    targeted: bool


_CASES = (
    _Case("percentages, uniform variation", vary_uniformly, has_percent=True, targeted=True),
    _Case("no percentages, uniform variation", vary_uniformly, has_percent=False, targeted=True),
    _Case("percentages, log-normal variation", vary_log_normally, has_percent=True, targeted=False),
    _Case("no percentages, log-normal variation", vary_log_normally, has_percent=False, targeted=False),
)


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Redis did not start, or ours polled a job more often than the guide.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # PostgreSQL is not needed; with a URL given, none is started.
            embedded_servers(Path(folder) / "servers", postgres_url="postgresql://none") as servers,
        ):
            rows = [row for case in _CASES for row in _rows(case, servers.redis_url, progress)]
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error
    return Result("polling", tuple(rows))


def _rows(case: _Case, redis_url: str, progress: ProgressCallback) -> list[Row]:
    progress(case.name)
    jobs = make_jobs(_KINDS, _JOBS_OF_A_KIND, case.vary)
    ours = asyncio.run(_poll_with_ours(case, jobs, redis_url))
    by_guide = [wait_by_schedule(job, guide_intervals()) for job in jobs]
    by_fixed_interval = [wait_by_schedule(job, fixed_intervals(_FIXED_SECONDS)) for job in jobs]
    for mine, guide in zip(ours, by_guide, strict=True):
        if mine.polls > guide.polls:
            raise BenchmarkError(
                f"a job of {mine.job.seconds:.1f} s was polled {mine.polls} times; the guide polls {guide.polls} times"
            )

    def row(what: str, unit: str, figure: Callable[[Sequence[WaitResult]], float], target: Target) -> Row:
        peers = {_GUIDE: figure(by_guide)}
        return Row(f"{case.name}: {what}", figure(ours), unit, peers, target=target if case.targeted else None)

    found = [
        row("polls per job", "polls", _mean_polls, _HALF_THE_POLLS),
        row("lag, mean", "s", _mean_lag, _NO_MORE_LAG),
        row("lag, 95th percentile", "s", _lag_p95, _NO_MORE_LAG),
    ]
    first = [[each for each in waits if each.job.number == 0] for waits in (ours, by_guide)]
    found.append(
        Row(f"{case.name}: polls, first job of a kind", _mean_polls(first[0]), "polls", {_GUIDE: _mean_polls(first[1])})
    )
    if case is _CASES[0]:
        name = f"every {_FIXED_SECONDS:g} s"
        found.append(
            Row(
                "polls per job, compared with a fixed interval",
                _mean_polls(ours),
                "polls",
                {name: _mean_polls(by_fixed_interval)},
            )
        )
        found.append(
            Row("lag, mean, compared with a fixed interval", _mean_lag(ours), "s", {name: _mean_lag(by_fixed_interval)})
        )
    return found


async def _poll_with_ours(case: _Case, jobs: Sequence[Job], redis_url: str) -> list[WaitResult]:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async with redis.asyncio.Redis.from_url(redis_url) as shared:
        await shared.flushall()
        poller = JobPoller(PollPolicy.adaptive, DurationStore(shared, "bench"), sleep=sleep, clock=lambda: now)
        found: list[WaitResult] = []
        for job in jobs:
            vendor, began = _Vendor(job, case.has_percent), now
            await poller.wait_until_done(
                job.kind, lambda vendor=vendor, began=began: vendor.status(now - began), deadline_seconds=3600
            )
            found.append(WaitResult(job, vendor.polls, now - began - job.seconds))
    return found


@dataclass(frozen=True)
class _Status:
    is_done: bool
    percent: float | None


@dataclass
class _Vendor:
    """A vendor that answers for one job."""

    job: Job
    has_percent: bool
    polls: int = 0

    async def status(self, age: float) -> _Status:
        """Return the status of the job at an age in seconds."""
        self.polls += 1
        return _Status(age >= self.job.seconds, self.job.percent(age) if self.has_percent else None)


def _mean_polls(waits: Sequence[WaitResult]) -> float:
    return statistics.mean(each.polls for each in waits)


def _mean_lag(waits: Sequence[WaitResult]) -> float:
    return statistics.mean(each.lag for each in waits)


def _lag_p95(waits: Sequence[WaitResult]) -> float:
    return statistics.quantiles([each.lag for each in waits], n=20)[-1]
