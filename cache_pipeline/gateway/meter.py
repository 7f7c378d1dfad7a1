"""Counts what the gateway did, over all its processes: here first, and once a second in Redis."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

_KEY = "analytics-gateway-metrics"
_EVERY_SECONDS = 1.0
#: Upper bounds in seconds: from a hot read to the longest wait for a job.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Meter:
    """Counters by few and bounded labels: the tier that answered, and the kind of result; never a key or a query."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._untold = Counter[str]()
        self._seconds = Counter[str]()

    def observe(self, tier: str, result: str, seconds: float) -> None:
        """Count one request."""
        self._untold[f"requests|{tier}|{result}"] += 1
        self._untold[f"bucket|{tier}|{bisect_left(BUCKETS, seconds)}"] += 1
        self._seconds[f"seconds|{tier}"] += seconds  # pyright: ignore[reportArgumentType]

    def collapsed(self) -> None:
        """Count a request that joined the job of another of the same meaning (G20)."""
        self._untold["collapsed"] += 1

    async def tell(self) -> None:
        """Add what was counted here to what is in Redis."""
        untold, seconds = self._untold, self._seconds
        if not untold:
            return
        self._untold, self._seconds = Counter(), Counter()
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for name, count in untold.items():
                    pipeline.hincrby(_KEY, name, count)
                for name, amount in seconds.items():
                    pipeline.hincrbyfloat(_KEY, name, amount)
                await pipeline.execute()
        except RedisError:
            self._untold.update(untold)
            self._seconds.update(seconds)
            raise

    async def run(self) -> None:
        """Tell once a second, for ever."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            with suppress(RedisError):
                await self.tell()

    async def read(self) -> Mapping[str, float]:
        """What all processes have counted."""
        found = cast("dict[bytes, bytes]", await cast("Any", self._redis.hgetall(_KEY)))
        return {name.decode(): float(value) for name, value in found.items()}
