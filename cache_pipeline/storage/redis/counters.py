"""Counts that all processes of the API add to: those of the metrics, and each key's requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from redis.asyncio import Redis

from cache_pipeline.redis_errors import translated_failures

_METRICS_KEY = "cache_pipeline:metrics:counters"
_DAY_SECONDS = 86_400


class RedisMetricCounts:
    """The counts of the metrics, in one hash, and those of each day in UTC in another.

    Args:
        redis: The server.
        clock: The current time in UTC.
    """

    def __init__(self, redis: Redis, clock: Callable[[], datetime]) -> None:
        self._redis = redis
        self._clock = clock

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add to the counts and sums of seconds with these names, all or none of them."""
        with translated_failures():
            async with self._redis.pipeline(transaction=True) as pipeline:
                for name, count in counts.items():
                    pipeline.hincrby(_METRICS_KEY, name, count)
                    pipeline.hincrby(self._today_key(), name, count)
                pipeline.expire(self._today_key(), 2 * _DAY_SECONDS)
                for name, amount in seconds.items():
                    pipeline.hincrbyfloat(_METRICS_KEY, name, amount)
                await pipeline.execute()

    async def read(self) -> dict[str, float]:
        """Return the counts and sums by name."""
        return await self._read(_METRICS_KEY)

    async def read_today(self) -> dict[str, float]:
        """Return the counts of the present day by name."""
        return await self._read(self._today_key())

    async def _read(self, key: str) -> dict[str, float]:
        with translated_failures():
            found = cast("dict[bytes, bytes]", await cast("Any", self._redis.hgetall(key)))
        return {name.decode(): float(value) for name, value in found.items()}

    def _today_key(self) -> str:
        return f"cache_pipeline:metrics:counters:{self._clock():%Y-%m-%d}"


class RedisRequestCounts:
    """The requests of each API key in one minute; they expire with the next."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, minute: int, requests: Mapping[str, int]) -> dict[str, int]:
        """Add the requests of some keys, and return the totals of these keys."""
        with translated_failures():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, count in requests.items():
                    name = f"cache_pipeline:rate_limit:{key}:{minute}"
                    pipeline.incrby(name, count)
                    pipeline.expire(name, 120)
                replies = cast("list[int]", await pipeline.execute())
        return dict(zip(requests, replies[0::2], strict=True))
