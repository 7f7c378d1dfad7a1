"""How many requests a key may make in a minute, over all processes of the gateway.

Counted here and told to Redis once a second: a hot read is not to cost a second round trip. So a key may exceed its
limit by what it sends within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cache_pipeline.api.auth import Principal
from cache_pipeline.api.problems import Problem

_WINDOW_SECONDS = 60
_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class RateAllowance:
    """What is left to a key in this minute.

    Attributes:
        limit: requests in a minute.
        remaining: of them.
        reset_seconds: until the minute is over.
    """

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has them; it is a draft still."""
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={_WINDOW_SECONDS}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_seconds}',
        }


class RateLimiter:
    """Counts requests by key in whole minutes."""

    def __init__(self, redis: Redis, per_minute: int, now: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._per_minute = per_minute
        self._now = now
        self._window = 0
        self._untold = Counter[str]()
        self._everywhere = Counter[str]()

    def take(self, principal: Principal) -> RateAllowance:
        """Count one request.

        Raises:
            Problem: 429, with Retry-After; this request is one too many.
        """
        now = self._now()
        window = int(now // _WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            for counter in (self._untold, self._everywhere):
                counter.clear()
        limit = principal.requests_per_minute or self._per_minute
        used = self._everywhere[principal.id] + self._untold[principal.id]
        left = RateAllowance(limit, max(0, limit - used - 1), int(_WINDOW_SECONDS - now % _WINDOW_SECONDS) + 1)
        if used >= limit:
            raise Problem(
                "too-many-requests",
                429,
                f"this key may make {limit} requests a minute: wait, or ask for one answer less often",
                headers={"Retry-After": str(left.reset_seconds), **left.headers()},
            )
        self._untold[principal.id] += 1
        return left

    async def tell(self) -> None:
        """Tell Redis what was counted here, and hear what was counted everywhere."""
        window, untold = self._window, dict(self._untold)
        if not untold:
            return
        keys = list(untold)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                name = f"cache_pipeline:rate_limit:{key}:{window}"
                pipeline.incrby(name, untold[key])
                pipeline.expire(name, 2 * _WINDOW_SECONDS)
            answers = cast("list[int]", await pipeline.execute())
        if window == self._window:
            for key, total in zip(keys, answers[0::2], strict=True):
                self._everywhere[key] = total
                self._untold[key] -= untold[key]

    async def run(self) -> None:
        """Tell once a second, for ever. Without Redis each process counts by itself."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            with suppress(RedisError):
                await self.tell()
