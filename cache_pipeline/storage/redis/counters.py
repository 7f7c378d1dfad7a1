"""Counts that all processes of the API add to: those of the metrics, and each key's requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import Redis

from cache_pipeline.redis_errors import translated_failures

_METRICS_KEY = "cache_pipeline:metrics:counters"


class RedisMetricCounts:
    """The counts of the metrics, in one hash."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add to the counts and sums of seconds with these names, all or none of them."""
        with translated_failures():
            async with self._redis.pipeline(transaction=True) as pipeline:
                for name, count in counts.items():
                    pipeline.hincrby(_METRICS_KEY, name, count)
                for name, amount in seconds.items():
                    pipeline.hincrbyfloat(_METRICS_KEY, name, amount)
                await pipeline.execute()

    async def read(self) -> dict[str, float]:
        """Return the counts and sums by name."""
        with translated_failures():
            found = cast("dict[bytes, bytes]", await cast("Any", self._redis.hgetall(_METRICS_KEY)))
        return {name.decode(): float(value) for name, value in found.items()}


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
