"""Progress of a run: how many partitions are done and how long the rest will take."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

#: Receives one record for each staged partition, with ``done`` and ``total`` as extra fields.
progress_logger = logging.getLogger("cache_pipeline.progress")

#: At most one line for every tenth of a run, so that a run of thousands of partitions logs no more than a run of ten.
_MAX_LINES = 10


def format_duration(seconds: float) -> str:
    """Format seconds as ``40 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class RunProgress:
    """Turns the number of finished partitions into a log line, at most once for every tenth of the run.

    Attributes:
        total: Number of partitions to do.
        clock: Monotonic clock, in seconds.
    """

    total: int
    clock: Callable[[], float]
    _started: float = field(init=False)
    _reported_tenth: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def report(self, done: int) -> str | None:
        """Return ``37 of 100 partitions in 2 min, about 4 min left``, or None if the next tenth is not reached yet."""
        tenth = done * _MAX_LINES // self.total if self.total else 0
        if tenth <= self._reported_tenth:
            return None
        self._reported_tenth = tenth
        elapsed = self.clock() - self._started
        remaining = elapsed / done * (self.total - done)
        suffix = f", about {format_duration(remaining)} left" if done < self.total else ""
        return f"{done} of {self.total} partitions in {format_duration(elapsed)}{suffix}"
