"""How far a run is and when it will be done, from what it has done so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

#: A line for every tenth, so that a run of thousands of partitions says no more than one of ten.
_LINES = 10


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class RunProgress:
    """Turns how many of ``total`` are done into a line, now and then.

    Attributes:
        total: things to do.
        clock: seconds that never go back.
    """

    total: int
    clock: Callable[[], float]
    _started: float = field(init=False)
    _told: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def told(self, done: int) -> str | None:
        """``37 of 100 partitions in 2 min, about 4 min left``, or None where there is nothing new to say."""
        tenth = done * _LINES // self.total if self.total else 0
        if tenth <= self._told:
            return None
        self._told = tenth
        elapsed = self.clock() - self._started
        left = elapsed / done * (self.total - done)
        rest = f", about {duration(left)} left" if done < self.total else ""
        return f"{done} of {self.total} partitions in {duration(elapsed)}{rest}"
