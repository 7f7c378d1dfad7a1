"""Rate-limit windows: at most `limit` accepted requests in any `window` seconds (G17), or in each minute of the clock."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Decision:
    """Whether a request is accepted.

    Attributes:
        is_accepted: Whether the request may proceed.
        remaining: Requests remaining in the window after this one.
        retry_after: Whole seconds, rounded up, until a slot is free; 0 if accepted.
    """

    is_accepted: bool
    remaining: int
    retry_after: int


class Window(Protocol):
    """A rate-limit window for each key."""

    def acquire(self, key: str, now: float) -> Decision:
        """Accept or reject a request at `now`."""
        ...

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        ...

    def retry_after(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 if one is free."""
        ...


class FixedWindow:
    """A window for each key that restarts whenever the clock passes a multiple of `window`."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._used: dict[str, tuple[int, int]] = {}

    def acquire(self, key: str, now: float) -> Decision:
        """Accept or reject a request at `now`; a rejected one does not count."""
        remaining = self.remaining(key, now)
        if not remaining:
            return Decision(is_accepted=False, remaining=0, retry_after=self.retry_after(key, now))
        self._used[key] = int(now // self._window), self._limit - remaining + 1
        return Decision(is_accepted=True, remaining=remaining - 1, retry_after=0)

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        window, used = self._used.get(key, (0, 0))
        return self._limit - (used if window == int(now // self._window) else 0)

    def retry_after(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 if one is free."""
        if self.remaining(key, now):
            return 0
        return max(1, math.ceil((now // self._window + 1) * self._window - now))


class SlidingWindow:
    """A sliding window for each key; a rejected request does not count."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._accepted: dict[str, deque[float]] = {}

    def acquire(self, key: str, now: float) -> Decision:
        """Accept or reject a request at `now`; `now` never decreases."""
        accepted = self._recent(key, now)
        if len(accepted) >= self._limit:
            return Decision(is_accepted=False, remaining=0, retry_after=self._seconds_until_free(accepted[0], now))
        accepted.append(now)
        return Decision(is_accepted=True, remaining=self._limit - len(accepted), retry_after=0)

    def remaining(self, key: str, now: float) -> int:
        """Return how many requests would be accepted at `now`, without counting one."""
        return self._limit - len(self._recent(key, now))

    def retry_after(self, key: str, now: float) -> int:
        """Return the whole seconds, rounded up, until a slot is free; 0 if one is free."""
        accepted = self._recent(key, now)
        return self._seconds_until_free(accepted[0], now) if len(accepted) >= self._limit else 0

    def _seconds_until_free(self, oldest: float, now: float) -> int:
        seconds = max(1, math.ceil(self._window - (now - oldest)))
        # Floating-point sums may round down, but a slot must be free after the returned wait.
        while now + seconds - oldest < self._window:
            seconds += 1
        return seconds

    def _recent(self, key: str, now: float) -> deque[float]:
        accepted = self._accepted.setdefault(key, deque())
        while accepted and now - accepted[0] >= self._window:
            accepted.popleft()
        return accepted
