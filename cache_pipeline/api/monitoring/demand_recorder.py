"""Records which queries the API receives, so that Dagster knows what to prefetch.

Each process counts in memory and adds its counts to Redis once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cache_pipeline.errors import RedisUnavailable
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.ports.demand import DemandCounter

_FLUSH_SECONDS = 1.0
#: Different queries counted between two flushes, so that a caller who invents queries cannot fill the memory.
_MAX_QUERIES = 2000


@dataclass
class _QueryCount:
    query: CanonicalQuery
    requests: int = 0
    misses: int = 0


class DemandRecorder:
    """Counts requests by the meaning of their query. A hot read only increments a number."""

    def __init__(self, counter_for: Callable[[str], DemandCounter]) -> None:
        """Create the recorder.

        Args:
            counter_for: Returns the shared counter of a tenant.
        """
        self._counter_for = counter_for
        self._counts: dict[str, _QueryCount] = {}

    def record(self, key: str, query: CanonicalQuery, *, is_hit: bool) -> None:
        """Count one request.

        Args:
            key: Equal for queries of the same meaning, and different for each tenant.
            query: The query.
            is_hit: Whether stored data could answer it.
        """
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= _MAX_QUERIES:
                return
            count = self._counts[key] = _QueryCount(query)
        count.requests += 1
        count.misses += not is_hit

    async def flush(self) -> None:
        """Add the counts to Redis. They are lost if Redis is unavailable, as they only suggest what to prefetch."""
        counts, self._counts = self._counts, {}
        by_tenant: dict[str, list[_QueryCount]] = {}
        for count in counts.values():
            by_tenant.setdefault(count.query.source_series.tenant, []).append(count)
        for tenant, tenant_counts in by_tenant.items():
            await self._counter_for(tenant).add((count.query, count.requests, count.misses) for count in tenant_counts)

    async def run(self) -> None:
        """Flush once a second until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            with suppress(RedisUnavailable):
                await self.flush()
