"""The rate limit of API keys: requests per minute, summed over all API processes.

Each process counts in memory and adds its counts to Redis once a second, so that a hot read does not cost a second round
trip. A key may therefore exceed its limit by what it sends within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import RedisUnavailable
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.counters import RequestCounts

_WINDOW_SECONDS = 60
_FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class RateAllowance:
    """What a key may still send in this minute.

    Attributes:
        limit: Requests per minute.
        remaining: Requests that remain in this minute.
        reset_seconds: Seconds until the minute is over.
    """

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers, which is still a draft."""
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={_WINDOW_SECONDS}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_seconds}',
        }


class RateLimiter:
    """Counts the requests of each key in whole minutes."""

    def __init__(self, counts: RequestCounts, per_minute: int, now: Callable[[], float] = time.time) -> None:
        self._counts = counts
        self._per_minute = per_minute
        self._now = now
        self._window = 0
        self._pending = Counter[str]()
        self._shared = Counter[str]()

    def take(self, principal: Principal) -> RateAllowance:
        """Count one request and return what its key may still send.

        Raises:
            Problem: 429 with Retry-After if the key has reached its limit.
        """
        now = self._now()
        window = int(now // _WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            for counter in (self._pending, self._shared):
                counter.clear()
        limit = principal.requests_per_minute or self._per_minute
        used = self._shared[principal.id] + self._pending[principal.id]
        allowance = RateAllowance(limit, max(0, limit - used - 1), int(_WINDOW_SECONDS - now % _WINDOW_SECONDS) + 1)
        if used >= limit:
            raise Problem(
                "too-many-requests",
                429,
                f"this key may send {limit} requests per minute: wait for Retry-After, or poll less often",
                headers={"Retry-After": str(allowance.reset_seconds), **allowance.headers()},
            )
        self._pending[principal.id] += 1
        return allowance

    async def flush(self) -> None:
        """Share the pending counts, and read those of all processes.

        Raises:
            RedisUnavailable: The counts stay pending.
        """
        window, pending = self._window, dict(self._pending)
        if not pending:
            return
        totals = await self._counts.add(window, pending)
        if window == self._window:
            for key, total in totals.items():
                self._shared[key] = total
                self._pending[key] -= pending[key]

    async def run(self) -> None:
        """Flush once a second until cancelled. Without Redis each process counts by itself."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            with suppress(RedisUnavailable):
                await self.flush()
