"""The guide's own poll schedule: 1, 2, 4, 8, 15, 15, ... seconds of waiting (G3)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuideSchedule:
    """Waits that double from `first_seconds` up to `max_seconds`, in seconds; instants count from the first wait's beginning."""

    first_seconds: float = 1.0
    max_seconds: float = 15.0

    def wait(self, poll: int) -> float:
        """The wait before the first (1), second (2), ... poll."""
        # Beyond any cap that makes sense, two to so high a power is no float any more.
        return min(self.first_seconds * 2 ** min(poll - 1, 60), self.max_seconds)

    def instant(self, poll: int) -> float:
        """When that poll is due."""
        doubling = 1
        while doubling < poll and self.wait(doubling) < self.max_seconds:
            doubling += 1
        return sum(self.wait(each) for each in range(1, doubling + 1)) + (poll - doubling) * self.max_seconds

    def wait_at(self, instant: float) -> float:
        """The wait that is under way at an instant, which is the longest that a job done then is left unnoticed."""
        poll, due = 1, self.first_seconds
        while due <= instant:
            if self.wait(poll) >= self.max_seconds:
                return self.max_seconds
            poll += 1
            due += self.wait(poll)
        return self.wait(poll)
