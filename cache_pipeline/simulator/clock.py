"""What time it is: injected everywhere, so that tests move time instead of waiting for it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time; the simulator asks nothing else of it."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01T00:00:00Z."""
        ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01T00:00:00Z."""
        return time.time()
