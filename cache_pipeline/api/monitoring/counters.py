"""Counters of the API and its workers, summed over all processes in Redis.

Each process counts in memory and adds its counts to Redis once a second. So any API process can expose the metrics of the
whole deployment, a worker needs no port to be scraped, and a worker's counts outlive it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cache_pipeline.aio import finish
from cache_pipeline.errors import RedisUnavailable
from cache_pipeline.storage.ports.counters import MetricCounts

_FLUSH_SECONDS = 1.0
#: Why a request was refused with 401.
REFUSAL_REASONS = ("missing", "invalid")


@dataclass(frozen=True)
class TimingDefinition:
    """A histogram of seconds.

    Attributes:
        name: Name of the metric, without its prefix.
        help: Its description for people.
        labels: Label names. Their values must be few and bounded: never a key, a query or a tenant.
        buckets: Upper bounds.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]


_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_JOB_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
REQUESTS = TimingDefinition(
    "request_seconds",
    "Time from the first byte of a request to the last byte of its response",
    ("tier",),
    _REQUEST_BUCKETS,
)
JOB_WAITS = TimingDefinition(
    "job_wait_seconds", "Time a job waits in the queue before a worker begins it", ("lane",), _JOB_BUCKETS
)
JOBS = TimingDefinition("job_seconds", "Time a worker takes to run a job", ("lane", "result"), _JOB_BUCKETS)
FIRST_ANSWERS = TimingDefinition(
    "first_answer_seconds",
    "Time from the first request that stored data could not answer to its answer",
    ("lane",),
    _JOB_BUCKETS,
)
#: What callers wait for: a whole answer, or one chunk of an upstream query.
SINGLE_FLIGHT_SCOPES = ("answer", "chunk")
SINGLE_FLIGHT_WAITS = TimingDefinition(
    "single_flight_wait_seconds",
    "Time jobs wait because another job or process is already fetching the same data",
    ("scope",),
    _JOB_BUCKETS,
)
TIMINGS = (REQUESTS, JOB_WAITS, JOBS, FIRST_ANSWERS, SINGLE_FLIGHT_WAITS)


@dataclass(frozen=True)
class Distribution:
    """The counts of a histogram under one set of labels.

    Attributes:
        seconds: The sum of all observations.
        counts: Observations per bucket; the last count is of those beyond every bound.
    """

    seconds: float
    counts: tuple[float, ...]


@dataclass(frozen=True)
class CounterTotals:
    """The counts of all processes.

    Attributes:
        requests: Requests by tier and result.
        joined_requests: Requests that joined the job of an equivalent request.
        job_retries: Jobs retried after failures that may pass.
        refused_keys: Requests refused with 401, by whether they sent no key or one that does not work.
        timings: Distributions by histogram, then by label values.
    """

    requests: Mapping[tuple[str, str], float]
    joined_requests: float
    job_retries: float
    refused_keys: Mapping[str, float]
    timings: Mapping[TimingDefinition, Mapping[tuple[str, ...], Distribution]]


class ProcessCounters:
    """The counters of one process, shared once a second. Their labels are few and bounded."""

    def __init__(self, store: MetricCounts) -> None:
        self._store = store
        self._pending_counts = Counter[str]()
        self._pending_seconds = dict[str, float]()

    def count_request(self, tier: str, result: str, seconds: float) -> None:
        """Count one request and its duration."""
        self._pending_counts[f"requests|{tier}|{result}"] += 1
        self.record_seconds(REQUESTS, (tier,), seconds)

    def count_joined_request(self) -> None:
        """Count a request that joined the job of an equivalent request (G20)."""
        self._pending_counts["joined"] += 1

    def count_single_flight_wait(self, seconds: float, *, is_whole: bool) -> None:
        """Record how long a caller waited for a fetch elsewhere, of a whole answer or of one chunk (G20)."""
        self.record_seconds(SINGLE_FLIGHT_WAITS, (SINGLE_FLIGHT_SCOPES[0 if is_whole else 1],), seconds)

    def count_job_retry(self) -> None:
        """Count a job that is retried after a failure that may pass."""
        self._pending_counts["retries"] += 1

    def count_refused_key(self, reason: str) -> None:
        """Count a request that was refused with 401, by one of `REFUSAL_REASONS`."""
        self._pending_counts[f"refused|{reason}"] += 1

    def record_seconds(self, timing: TimingDefinition, labels: Sequence[str], seconds: float) -> None:
        """Record one duration in a histogram."""
        field = f"{timing.name}|{'|'.join(labels)}"
        self._pending_counts[f"bucket|{field}|{bisect_left(timing.buckets, seconds)}"] += 1
        self._pending_seconds[f"seconds|{field}"] = self._pending_seconds.get(f"seconds|{field}", 0.0) + seconds

    async def flush(self) -> None:
        """Share the pending counts. A caller that is cancelled leaves when they are shared or pending again.

        Raises:
            RedisUnavailable: The counts stay pending.
        """
        await finish(self._share_pending())

    async def _share_pending(self) -> None:
        counts, seconds = self._pending_counts, self._pending_seconds
        if not counts:
            return
        self._pending_counts, self._pending_seconds = Counter(), {}
        try:
            await self._store.add(counts, seconds)
        except RedisUnavailable:
            self._pending_counts.update(counts)
            for name, amount in seconds.items():
                self._pending_seconds[name] = self._pending_seconds.get(name, 0.0) + amount
            raise

    async def run(self) -> None:
        """Flush once a second until cancelled, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                with suppress(RedisUnavailable):
                    await self.flush()
        finally:
            with suppress(RedisUnavailable):
                await self.flush()

    async def read_requests_of_today(self) -> dict[tuple[str, str], int]:
        """Return the requests of the present day in UTC to all processes, by tier and result.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        return {labels: int(count) for labels, count in _requests(await self._store.read_today()).items()}

    async def read(self) -> CounterTotals:
        """Read the counts of all processes."""
        values = await self._store.read()
        return CounterTotals(
            requests=_requests(values),
            joined_requests=values.get("joined", 0.0),
            job_retries=values.get("retries", 0.0),
            refused_keys={reason: values.get(f"refused|{reason}", 0.0) for reason in REFUSAL_REASONS},
            timings={timing: _distributions(timing, values) for timing in TIMINGS},
        )


def _requests(values: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Return the requests by tier and result."""
    return {(tier, result): count for (kind, tier, result), count in _split(values, parts=3) if kind == "requests"}


def _split(values: Mapping[str, float], parts: int) -> list[tuple[tuple[str, ...], float]]:
    return [(split, count) for name, count in values.items() if len(split := tuple(name.split("|"))) == parts]


def _distributions(timing: TimingDefinition, values: Mapping[str, float]) -> dict[tuple[str, ...], Distribution]:
    counts: dict[tuple[str, ...], list[float]] = {}
    for (kind, name, *labels), count in _split(values, parts=3 + len(timing.labels)):
        if kind == "bucket" and name == timing.name:
            counts.setdefault(tuple(labels[:-1]), [0.0] * (len(timing.buckets) + 1))[int(labels[-1])] = count
    return {
        labels: Distribution(values.get(f"seconds|{timing.name}|{'|'.join(labels)}", 0.0), tuple(each))
        for labels, each in sorted(counts.items())
    }
