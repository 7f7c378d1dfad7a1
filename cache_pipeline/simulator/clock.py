"""The clock, injected everywhere so that tests move time instead of waiting for it."""

import time
from typing import Protocol


class Clock(Protocol):
    """The simulator's only source of the current time."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01T00:00:00Z."""
        ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01T00:00:00Z."""
        return time.time()
