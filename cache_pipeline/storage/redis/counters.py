"""Counts that all processes of the API add to: those of the metrics, and each key's requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from redis.asyncio import Redis

from cache_pipeline.redis_errors import translated_failures

#: Both keys of the metrics are in one hash slot of a cluster.
_METRICS_KEY = "cache_pipeline:metrics:{counters}"
_DAY_SECONDS = 86_400

# KEYS: all time, the present day. ARGV: lifetime of the day in seconds, number of counts, name and count of each, then name and
# amount of each sum of seconds.
_ADD = """
local at = 3
for _ = 1, tonumber(ARGV[2]) do
    redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
    redis.call('HINCRBY', KEYS[2], ARGV[at], ARGV[at + 1])
    at = at + 2
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
while at < #ARGV do
    redis.call('HINCRBYFLOAT', KEYS[1], ARGV[at], ARGV[at + 1])
    at = at + 2
end
return redis.status_reply('OK')
"""


class RedisMetricCounts:
    """The counts of the metrics, in one hash, and those of each day in UTC in another.

    Args:
        redis: The server.
        clock: The current time in UTC.
    """

    def __init__(self, redis: Redis, clock: Callable[[], datetime]) -> None:
        self._redis = redis
        self._clock = clock
        self._add = redis.register_script(_ADD)

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add to the counts and sums of seconds with these names, all or none of them."""
        fields = [part for each in (counts, seconds) for pair in each.items() for part in pair]
        with translated_failures():
            await self._add(keys=[_METRICS_KEY, self._today_key()], args=[2 * _DAY_SECONDS, len(counts), *fields])

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
        return f"{_METRICS_KEY}:{self._clock():%Y-%m-%d}"


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
