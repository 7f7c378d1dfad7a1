"""The guide's own poll schedule: 1, 2, 4, 8, 15, 15, ... seconds of waiting (G3)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuideSchedule:
    """Waits that double from `first` up to `cap`, in seconds; instants count from the first wait's beginning."""

    first: float = 1.0
    cap: float = 15.0

    def wait(self, poll: int) -> float:
        """The wait before the first (1), second (2), ... poll."""
        # Beyond any cap that makes sense, two to so high a power is no float any more.
        return min(self.first * 2 ** min(poll - 1, 60), self.cap)

    def instant(self, poll: int) -> float:
        """When that poll is due."""
        doubling = 1
        while doubling < poll and self.wait(doubling) < self.cap:
            doubling += 1
        return sum(self.wait(each) for each in range(1, doubling + 1)) + (poll - doubling) * self.cap

    def wait_at(self, instant: float) -> float:
        """The wait that is under way at an instant, which is the longest that a job done then is left unnoticed."""
        poll, due = 1, self.first
        while due <= instant:
            if self.wait(poll) >= self.cap:
                return self.cap
            poll += 1
            due += self.wait(poll)
        return self.wait(poll)
