"""`polling`: how often jobs of 2 s to 12 min are asked for, and how long their end goes unnoticed.

Ours is the product's `JobPoller` with its default policy and what it learns in a real Redis; the peers are the guide's schedule,
written afresh from G3, and a fixed interval. All wait for the same jobs on a clock that is moved instead of waited for, so
that hours take seconds; a poll takes no time.

Jobs come in kinds, as a report's chunks of one length do. The usual durations of the kinds lie evenly, by ratio, between 2 s
and 12 min. What is assumed:

* jobs of one kind vary evenly within 20 %, as the simulator's do; rows of their own show what comes of log-normal variation of
  30 %, for which no target is set;
* percentages are whole, 0 for the first fifth of a job and then true: the share of its time that has passed. A vendor whose
  percentages speed up at the end is found out later than by the guide; rows without percentages show what the learned durations
  do alone, which is all there is for a vendor that tells none;
* a kind is asked for thirty times, the first time with nothing known; those first times are counted, and shown alone too.

Not measured: polls in which the vendor is slow to answer, and vendors whose durations drift within the thirty jobs.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from benchmarks.polling.jobs import Vary, Waited, WaitedFor, by_a_fifth, every, guides_waits, jobs_of, waited, widely
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.upstream.polling import DurationStore, JobPoller, PollPolicy

_KINDS, _JOBS_OF_A_KIND = 60, 30
_FIXED_SECONDS = 5.0
_FEWER = Target("ratio", "<=", 0.5)
_NO_LATER = Target("ratio", "<=", 1.0)
_GUIDE = "guide"


@dataclass(frozen=True)
class _Case:
    """One assumption about the jobs."""

    name: str
    vary: Vary
    tells_percent: bool
    targeted: bool


_CASES = (
    _Case("percentages, jobs vary by a fifth", by_a_fifth, tells_percent=True, targeted=True),
    _Case("no percentages, jobs vary by a fifth", by_a_fifth, tells_percent=False, targeted=True),
    _Case("percentages, jobs vary widely", widely, tells_percent=True, targeted=False),
    _Case("no percentages, jobs vary widely", widely, tells_percent=False, targeted=False),
)


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Redis did not start, or a job was asked for more often than by the guide.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # No PostgreSQL is needed, and none is started where an address is given.
            embedded_servers(Path(folder) / "servers", postgres_url="postgresql://none") as servers,
        ):
            rows = [row for case in _CASES for row in _rows(case, servers.redis_url, tell)]
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error
    return Result("polling", tuple(rows))


def _rows(case: _Case, redis_url: str, tell: Tell) -> list[Row]:
    tell(case.name)
    jobs = jobs_of(_KINDS, _JOBS_OF_A_KIND, case.vary)
    ours = asyncio.run(_ours(case, jobs, redis_url))
    guides = [waited(job, guides_waits()) for job in jobs]
    fixed = [waited(job, every(_FIXED_SECONDS)) for job in jobs]
    for mine, guide in zip(ours, guides, strict=True):
        if mine.polls > guide.polls:
            raise BenchmarkError(
                f"a job of {mine.job.seconds:.1f} s was asked for {mine.polls} times, guide {guide.polls}"
            )

    def row(what: str, unit: str, figure: Callable[[Sequence[Waited]], float], target: Target) -> Row:
        peers = {_GUIDE: figure(guides)}
        return Row(f"{case.name}: {what}", figure(ours), unit, peers, target=target if case.targeted else None)

    found = [
        row("polls a job", "polls", _polls, _FEWER),
        row("lag, mean", "s", _lag, _NO_LATER),
        row("lag, 95th percentile", "s", _late, _NO_LATER),
    ]
    first = [[each for each in waits if each.job.number == 0] for waits in (ours, guides)]
    found.append(Row(f"{case.name}: polls, first job of a kind", _polls(first[0]), "polls", {_GUIDE: _polls(first[1])}))
    if case is _CASES[0]:
        name = f"every {_FIXED_SECONDS:g} s"
        found.append(Row("polls a job, against a fixed interval", _polls(ours), "polls", {name: _polls(fixed)}))
        found.append(Row("lag against a fixed interval, mean", _lag(ours), "s", {name: _lag(fixed)}))
    return found


async def _ours(case: _Case, jobs: Sequence[WaitedFor], redis_url: str) -> list[Waited]:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async with redis.asyncio.Redis.from_url(redis_url) as shared:
        await shared.flushall()
        pacing = JobPoller(PollPolicy.adaptive, DurationStore(shared, "bench"), sleep=sleep, clock=lambda: now)
        found: list[Waited] = []
        for job in jobs:
            vendor, began = _Vendor(job, case.tells_percent), now
            await pacing.wait_until_done(
                job.kind, lambda vendor=vendor, began=began: vendor.status(now - began), deadline_seconds=3600
            )
            found.append(Waited(job, vendor.polls, now - began - job.seconds))
    return found


@dataclass(frozen=True)
class _Status:
    done: bool
    percent: float | None


@dataclass
class _Vendor:
    """Answers for one job."""

    job: WaitedFor
    tells_percent: bool
    polls: int = 0

    async def status(self, age: float) -> _Status:
        """Return what the vendor says of a job of that age."""
        self.polls += 1
        return _Status(age >= self.job.seconds, self.job.percent(age) if self.tells_percent else None)


def _polls(waits: Sequence[Waited]) -> float:
    return statistics.mean(each.polls for each in waits)


def _lag(waits: Sequence[Waited]) -> float:
    return statistics.mean(each.lag for each in waits)


def _late(waits: Sequence[Waited]) -> float:
    return statistics.quantiles([each.lag for each in waits], n=20)[-1]
