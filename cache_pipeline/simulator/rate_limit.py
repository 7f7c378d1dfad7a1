"""Windows: at most `limit` accepted requests in any stretch of `window` seconds, exactly (G17), or by the clock's minutes."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Verdict:
    """What became of a request.

    Attributes:
        accepted: It may go on.
        remaining: Requests left in the window after this one.
        retry_after: Whole seconds, rounded up, until a slot is free; 0 where accepted.
    """

    accepted: bool
    remaining: int
    retry_after: int


class Window(Protocol):
    """A budget for each key."""

    def ask(self, key: str, now: float) -> Verdict:
        """Accept or reject a request at `now`."""
        ...

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        ...

    def wait(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 where one is."""
        ...


class FixedWindow:
    """A budget for each key that is whole again whenever the clock passes a multiple of `window`."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._used: dict[str, tuple[int, int]] = {}

    def ask(self, key: str, now: float) -> Verdict:
        """Accept or reject a request at `now`; a rejected one does not count."""
        left = self.remaining(key, now)
        if not left:
            return Verdict(accepted=False, remaining=0, retry_after=self.wait(key, now))
        self._used[key] = int(now // self._window), self._limit - left + 1
        return Verdict(accepted=True, remaining=left - 1, retry_after=0)

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        window, used = self._used.get(key, (0, 0))
        return self._limit - (used if window == int(now // self._window) else 0)

    def wait(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 where one is."""
        if self.remaining(key, now):
            return 0
        return max(1, math.ceil((now // self._window + 1) * self._window - now))


class SlidingWindow:
    """The accepted instants of one budget for each key; a rejected request does not count."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._accepted: dict[str, deque[float]] = {}

    def ask(self, key: str, now: float) -> Verdict:
        """Accept or reject a request at `now`; `now` never falls."""
        accepted = self._living(key, now)
        if len(accepted) >= self._limit:
            return Verdict(accepted=False, remaining=0, retry_after=self._wait(accepted[0], now))
        accepted.append(now)
        return Verdict(accepted=True, remaining=self._limit - len(accepted), retry_after=0)

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        return self._limit - len(self._living(key, now))

    def wait(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 where one is."""
        accepted = self._living(key, now)
        return self._wait(accepted[0], now) if len(accepted) >= self._limit else 0

    def _wait(self, oldest: float, now: float) -> int:
        seconds = max(1, math.ceil(self._window - (now - oldest)))
        # Sums of floats may round down: after the told wait a slot must be free.
        while now + seconds - oldest < self._window:
            seconds += 1
        return seconds

    def _living(self, key: str, now: float) -> deque[float]:
        accepted = self._accepted.setdefault(key, deque())
        while accepted and now - accepted[0] >= self._window:
            accepted.popleft()
        return accepted
