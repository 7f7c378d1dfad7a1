"""What is asked for through the API, counted in Redis by the hour, so that it can be fetched before it is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import CanonicalQuery

_KEPT_HOURS = 24
#: Different queries that one hour tells apart; whoever makes up intervals by the thousand fills no memory.
_MOST_QUERIES = 2000

# A query that is not counted yet is left out once the hour is full; one that is goes on counting.
_NOTE = """
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


@dataclass(frozen=True)
class Demand:
    """How often one interval of one series was asked for.

    Attributes:
        series: its id.
        report: name of the report.
        interval: as asked.
        asked: requests.
        missed: those of them that what is kept could not answer.
    """

    series: str
    report: str
    interval: Interval
    asked: int
    missed: int


class DemandCounter:
    """Counts requests by tenant, hour, series and interval; an hour is forgotten after a day."""

    def __init__(self, redis: Redis, tenant: str, clock: Callable[[], datetime]) -> None:
        self._redis = redis
        self._tenant = tenant
        self._clock = clock

    def _keys(self, hour: datetime) -> tuple[str, str]:
        """Where an hour's requests are counted, and those of them that missed; in one slot of a cluster."""
        name = f"analytics-demand:{{{self._tenant}:{hour.astimezone(UTC):%Y%m%d%H}}}"
        return f"{name}:asked", f"{name}:missed"

    async def note(self, query: CanonicalQuery, *, kept: bool) -> None:
        """Count one request, and whether what is kept could answer it."""
        await self.add([(query, 1, int(not kept))])

    async def add(self, counted: Iterable[tuple[CanonicalQuery, int, int]]) -> None:
        """Count requests, in one round trip: of each query how many asked, and how many of them in vain."""
        keys = self._keys(self._clock())
        async with self._redis.pipeline(transaction=False) as pipeline:
            for query, asked, missed in counted:
                subject = json.dumps([query.source_series.id, query.source_series.report.name, str(query.interval)])
                pipeline.eval(_NOTE, 2, *keys, subject, _KEPT_HOURS * 3600, _MOST_QUERIES, asked, missed)  # pyright: ignore[reportArgumentType]
            await pipeline.execute()

    async def recent(self, hours: int = 1) -> list[Demand]:
        """What was asked for in this hour and the ``hours`` before it, most missed first."""
        now = self._clock()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for back in range(hours + 1):
                for key in self._keys(now - timedelta(hours=back)):
                    pipeline.hgetall(key)
            answers = cast("list[dict[bytes, bytes]]", await pipeline.execute())
        asked, missed = _summed(answers[0::2]), _summed(answers[1::2])
        found: list[Demand] = []
        for subject, count in asked.items():
            series, report, interval = json.loads(subject)
            found.append(Demand(series, report, Interval.parse(interval), count, missed[subject]))
        return sorted(found, key=lambda demand: (-demand.missed, -demand.asked, demand.report, demand.interval))


def _summed(counts: Iterable[Mapping[bytes, bytes]]) -> Counter[bytes]:
    total = Counter[bytes]()
    for hour in counts:
        total.update({subject: int(count) for subject, count in hour.items()})
    return total
