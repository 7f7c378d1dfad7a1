"""Counts what gateways and workers did, over all their processes: here first, and once a second in Redis.

So any gateway tells all of it: a worker needs no port to be asked at, and what a worker counted outlives it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

_KEY = "cache_pipeline:metrics:counters"
_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TimingDefinition:
    """A histogram of seconds.

    Attributes:
        name: of the metric, without its prefix.
        told: what it says, for people.
        labels: names, few and bounded in what they can be; never a key, a query or a tenant.
        buckets: upper bounds.
    """

    name: str
    told: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]


_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_JOB_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
REQUESTS = TimingDefinition(
    "request_seconds", "From a request's first byte to its answer's last", ("tier",), _REQUEST_BUCKETS
)
WAITS = TimingDefinition(
    "job_wait_seconds", "From a job's being queued to a worker's beginning with it", ("lane",), _JOB_BUCKETS
)
JOBS = TimingDefinition(
    "job_seconds", "From a worker's beginning with a job to the job's end", ("lane", "result"), _JOB_BUCKETS
)
FIRST_ANSWERS = TimingDefinition(
    "first_answer_seconds",
    "From the first question that nothing kept could answer to its answer",
    ("lane",),
    _JOB_BUCKETS,
)
#: What a flight is of: a whole answer, or one chunk that the vendor is asked for.
FLIGHTS = ("answer", "chunk")
FLIGHT_WAITS = TimingDefinition(
    "flight_wait_seconds",
    "From a worker's finding that another process or job fetches the same to what that fetched, or to its own turn",
    ("what",),
    _JOB_BUCKETS,
)
TIMED = (REQUESTS, WAITS, JOBS, FIRST_ANSWERS, FLIGHT_WAITS)


@dataclass(frozen=True)
class Distribution:
    """What a histogram counted under one set of labels: seconds in all, and how many up to each bound, the last beyond all."""

    seconds: float
    counts: tuple[float, ...]


@dataclass(frozen=True)
class CounterDefinition:
    """What all processes have counted.

    Attributes:
        requests: by tier and result.
        joined: requests that joined the job of another of the same meaning.
        retries: of jobs, after failures that may pass.
        timed: by histogram, then by the values of its labels.
    """

    requests: Mapping[tuple[str, str], float]
    joined: float
    retries: float
    timed: Mapping[TimingDefinition, Mapping[tuple[str, ...], Distribution]]


class ProcessCounters:
    """Counters by few and bounded labels."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._untold = Counter[str]()
        self._seconds = dict[str, float]()

    def observe(self, tier: str, result: str, seconds: float) -> None:
        """Count one request."""
        self._untold[f"requests|{tier}|{result}"] += 1
        self.time(REQUESTS, (tier,), seconds)

    def time(self, timed: TimingDefinition, labels: Sequence[str], seconds: float) -> None:
        """Count something that took so long."""
        place = f"{timed.name}|{'|'.join(labels)}"
        self._untold[f"bucket|{place}|{bisect_left(timed.buckets, seconds)}"] += 1
        self._seconds[f"seconds|{place}"] = self._seconds.get(f"seconds|{place}", 0.0) + seconds

    def joined(self) -> None:
        """Count a request that joined the job of another of the same meaning (G20)."""
        self._untold["joined"] += 1

    def flew(self, seconds: float, *, is_whole: bool) -> None:
        """Count a wait for somebody else's flight, of a whole answer or of a chunk (G20)."""
        self.time(FLIGHT_WAITS, (FLIGHTS[0] if is_whole else FLIGHTS[1],), seconds)

    def retried(self) -> None:
        """Count a job that failed of what may pass, and is tried again."""
        self._untold["retries"] += 1

    async def tell(self) -> None:
        """Add what was counted here to what is in Redis."""
        untold, seconds = self._untold, self._seconds
        if not untold:
            return
        self._untold, self._seconds = Counter(), {}
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for name, count in untold.items():
                    pipeline.hincrby(_KEY, name, count)
                for name, amount in seconds.items():
                    pipeline.hincrbyfloat(_KEY, name, amount)
                await pipeline.execute()
        except RedisError:
            self._untold.update(untold)
            for name, amount in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + amount
            raise

    async def run(self) -> None:
        """Tell once a second, for ever; and at the end what is left."""
        try:
            while True:
                await asyncio.sleep(_EVERY_SECONDS)
                with suppress(RedisError):
                    await self.tell()
        finally:
            with suppress(RedisError):
                await self.tell()

    async def read(self) -> CounterDefinition:
        """What all processes have counted."""
        found = cast("dict[bytes, bytes]", await cast("Any", self._redis.hgetall(_KEY)))
        numbers = {name.decode(): float(value) for name, value in found.items()}
        return CounterDefinition(
            requests={
                (tier, result): count for (kind, tier, result), count in _split(numbers, parts=3) if kind == "requests"
            },
            joined=numbers.get("joined", 0.0),
            retries=numbers.get("retries", 0.0),
            timed={timed: _distributions(timed, numbers) for timed in TIMED},
        )


def _split(numbers: Mapping[str, float], parts: int) -> list[tuple[tuple[str, ...], float]]:
    return [(split, count) for name, count in numbers.items() if len(split := tuple(name.split("|"))) == parts]


def _distributions(timed: TimingDefinition, numbers: Mapping[str, float]) -> dict[tuple[str, ...], Distribution]:
    counts: dict[tuple[str, ...], list[float]] = {}
    for (kind, name, *labels), count in _split(numbers, parts=3 + len(timed.labels)):
        if kind == "bucket" and name == timed.name:
            counts.setdefault(tuple(labels[:-1]), [0.0] * (len(timed.buckets) + 1))[int(labels[-1])] = count
    return {
        labels: Distribution(numbers.get(f"seconds|{timed.name}|{'|'.join(labels)}", 0.0), tuple(each))
        for labels, each in sorted(counts.items())
    }
