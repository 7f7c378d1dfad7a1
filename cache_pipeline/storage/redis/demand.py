"""Demand: how often each interval is requested through the API, counted in Redis by hour, so that it can be prefetched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.redis_errors import translated_failures
from cache_pipeline.storage.ports.demand import Demand

_RETENTION_HOURS = 24
#: Different queries that are counted per hour, so that a caller who invents intervals by the thousand does not fill memory.
_MAX_QUERIES_PER_HOUR = 2000

# A new query is not counted once the hour is full; one that is counted already still is.
# KEYS: requests, misses. ARGV: query, lifetime in seconds, most queries, requests, misses.
_COUNT = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
    return 0
end
for index = 1, #KEYS do
    if ARGV[3 + index] ~= '0' then
        redis.call('HINCRBY', KEYS[index], ARGV[1], ARGV[3 + index])
        redis.call('EXPIRE', KEYS[index], ARGV[2])
    end
end
return 1
"""


class RedisDemandCounter:
    """Counts requests by tenant, hour, series and interval; the counts of an hour expire after a day."""

    def __init__(self, redis: Redis, tenant: str, clock: Callable[[], datetime]) -> None:
        self._redis = redis
        self._tenant = tenant
        self._clock = clock

    def _keys(self, hour: datetime) -> tuple[str, str]:
        """Return the keys of an hour's requests and misses; both are in one hash slot of a cluster."""
        name = f"cache_pipeline:demand:{{{self._tenant}:{hour.astimezone(UTC):%Y%m%d%H}}}"
        return f"{name}:requests", f"{name}:misses"

    async def add(self, counts: Iterable[tuple[CanonicalQuery, int, int]]) -> None:
        """Add each query's number of requests, and of those that missed, in one round trip."""
        keys = self._keys(self._clock())
        with translated_failures():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for query, requests, misses in counts:
                    subject = json.dumps([query.source_series.id, query.source_series.report.name, str(query.interval)])
                    pipeline.eval(
                        _COUNT, 2, *keys, subject, _RETENTION_HOURS * 3600, _MAX_QUERIES_PER_HOUR, requests, misses
                    )  # pyright: ignore[reportArgumentType]
                await pipeline.execute()

    async def recent(self, hours: int = 1) -> list[Demand]:
        """Return the demand of this hour and of the `hours` before it, most missed first."""
        now = self._clock()
        with translated_failures():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for back in range(hours + 1):
                    for key in self._keys(now - timedelta(hours=back)):
                        pipeline.hgetall(key)
                counts = cast("list[dict[bytes, bytes]]", await pipeline.execute())
        requests, misses = _sum_hours(counts[0::2]), _sum_hours(counts[1::2])
        demands: list[Demand] = []
        for subject, count in requests.items():
            series, report, interval = json.loads(subject)
            demands.append(Demand(series, report, Interval.parse(interval), count, misses[subject]))
        return sorted(demands, key=lambda demand: (-demand.misses, -demand.requests, demand.report, demand.interval))


def _sum_hours(counts: Iterable[Mapping[bytes, bytes]]) -> Counter[bytes]:
    total = Counter[bytes]()
    for hour in counts:
        total.update({subject: int(count) for subject, count in hour.items()})
    return total
