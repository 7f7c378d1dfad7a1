"""The jobs that are waited for, and the peers' ways of waiting for them."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SHORTEST, LONGEST = 2.0, 720.0
_QUEUED_SHARE = 0.2

Vary = Callable[[random.Random], float]
"""A factor by which one job takes longer, or less long, than is usual for its kind."""


@dataclass(frozen=True)
class WaitedFor:
    """One job: its kind, how many of its kind came before it, and the seconds it takes."""

    kind: str
    number: int
    seconds: float

    def percent(self, age: float) -> float:
        """Whole percent as the simulator tells it: 0 in the queue, then the share of its time that has passed."""
        share = age / self.seconds
        return 0.0 if share < _QUEUED_SHARE else min(100.0, math.floor(100 * share))


@dataclass(frozen=True)
class Waited:
    """What waiting for one job came to: polls, and seconds from its end to the poll that found it done."""

    job: WaitedFor
    polls: int
    lag: float


def by_a_fifth(dice: random.Random) -> float:
    """Evenly within 20 %, as the simulator's jobs."""
    return dice.uniform(0.8, 1.2)


def widely(dice: random.Random) -> float:
    """Log-normally: one in six takes 35 % longer or more, one in forty 80 %."""
    return math.exp(dice.gauss(0.0, 0.3))


def jobs_of(kinds: int, each: int, vary: Vary) -> list[WaitedFor]:
    """Jobs of kinds whose usual durations lie evenly, by ratio, between the shortest and the longest; the same at every call."""
    dice = random.Random(7)  # noqa: S311 - no secret, and to be the same at every run
    found: list[WaitedFor] = []
    for kind in range(kinds):
        usual = SHORTEST * (LONGEST / SHORTEST) ** ((kind + 0.5) / kinds)
        for number in range(each):
            seconds = min(max(usual * vary(dice), SHORTEST), LONGEST)
            found.append(WaitedFor(f"kind-{kind}", number, seconds))
    return found


def guides_waits() -> Iterator[float]:
    """1, 2, 4, 8, then 15 seconds again and again (G3)."""
    wait = 1.0
    while True:
        yield wait
        wait = min(2 * wait, 15.0)


def every(seconds: float) -> Iterator[float]:
    """Return always the same wait."""
    while True:
        yield seconds


def waited(job: WaitedFor, waits: Iterator[float]) -> Waited:
    """Return what a schedule without any information makes of a job."""
    age, polls = 0.0, 0
    while age < job.seconds:
        age, polls = age + next(waits), polls + 1
    return Waited(job, polls, age - job.seconds)
