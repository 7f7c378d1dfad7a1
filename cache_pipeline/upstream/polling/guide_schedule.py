"""The guide's own poll schedule: 1, 2, 4, 8, 15, 15, ... seconds of waiting (G3)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuideSchedule:
    """Waits that double from `first_seconds` up to `max_seconds`; instants count from the beginning of the first wait."""

    first_seconds: float = 1.0
    max_seconds: float = 15.0

    def wait(self, poll: int) -> float:
        """Return the wait before the first (1), second (2), ... poll."""
        # The exponent is bounded because a much higher power of two does not fit into a float; the maximum is reached long before.
        return min(self.first_seconds * 2 ** min(poll - 1, 60), self.max_seconds)

    def instant(self, poll: int) -> float:
        """Return when that poll is due."""
        doubling = 1
        while doubling < poll and self.wait(doubling) < self.max_seconds:
            doubling += 1
        return sum(self.wait(each) for each in range(1, doubling + 1)) + (poll - doubling) * self.max_seconds

    def wait_at(self, instant: float) -> float:
        """Return the wait in progress at an instant: the longest time for which a job done then stays unnoticed."""
        poll, due = 1, self.first_seconds
        while due <= instant:
            if self.wait(poll) >= self.max_seconds:
                return self.max_seconds
            poll += 1
            due += self.wait(poll)
        return self.wait(poll)
