"""The jobs of the benchmark, and the peers' polling schedules."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SHORTEST, LONGEST = 2.0, 720.0
_QUEUED_SHARE = 0.2

Variation = Callable[[random.Random], float]
"""Returns the factor between a job's duration and the usual duration of its kind."""


@dataclass(frozen=True)
class Job:
    """One job: its kind, its number among the jobs of that kind, and its duration in seconds."""

    kind: str
    number: int
    seconds: float

    def percent(self, age: float) -> float:
        """Return the percentage as the simulator reports it: 0 while queued, then the elapsed share of its time."""
        share = age / self.seconds
        return 0.0 if share < _QUEUED_SHARE else min(100.0, math.floor(100 * share))


@dataclass(frozen=True)
class WaitResult:
    """Cost of waiting for one job: polls, and seconds from its end to the poll that noticed it."""

    job: Job
    polls: int
    lag: float


def vary_uniformly(rng: random.Random) -> float:
    """Return a factor uniform within 20 %, as for the simulator's jobs."""
    return rng.uniform(0.8, 1.2)


def vary_log_normally(rng: random.Random) -> float:
    """Return a log-normal factor: one job in six takes 35 % longer or more, one in forty 80 %."""
    return math.exp(rng.gauss(0.0, 0.3))


def make_jobs(kinds: int, each: int, vary: Variation) -> list[Job]:
    """Return the same jobs at every call; usual durations of the kinds are evenly spaced on a logarithmic scale."""
    rng = random.Random(7)  # noqa: S311 - reproducible, not secret
    found: list[Job] = []
    for kind in range(kinds):
        usual = SHORTEST * (LONGEST / SHORTEST) ** ((kind + 0.5) / kinds)
        for number in range(each):
            seconds = min(max(usual * vary(rng), SHORTEST), LONGEST)
            found.append(Job(f"kind-{kind}", number, seconds))
    return found


def guide_intervals() -> Iterator[float]:
    """Yield 1, 2, 4, 8, then always 15 seconds (G3)."""
    wait = 1.0
    while True:
        yield wait
        wait = min(2 * wait, 15.0)


def fixed_intervals(seconds: float) -> Iterator[float]:
    """Yield the same interval each time."""
    while True:
        yield seconds


def wait_by_schedule(job: Job, intervals: Iterator[float]) -> WaitResult:
    """Return the cost of waiting for a job with a fixed schedule of intervals."""
    age, polls = 0.0, 0
    while age < job.seconds:
        age, polls = age + next(intervals), polls + 1
    return WaitResult(job, polls, age - job.seconds)
