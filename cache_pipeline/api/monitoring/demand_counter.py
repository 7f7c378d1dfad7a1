"""What is asked for here, counted, and told once a second to where Dagster looks for what it should fetch ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.redis.demand import DemandCounter

_EVERY_SECONDS = 1.0
#: Different questions that are counted between two tellings; whoever makes up more of them fills no memory.
_MOST_QUESTIONS = 2000


@dataclass
class _Tally:
    query: CanonicalQuery
    asked: int = 0
    missed: int = 0


class DemandRecorder:
    """Counts questions by what they mean: a hot read pays for adding one to a number."""

    def __init__(self, counter_of: Callable[[str], DemandCounter]) -> None:
        """Keep where a tenant's questions are counted."""
        self._counter_of = counter_of
        self._tallies: dict[str, _Tally] = {}

    def asked(self, key: str, query: CanonicalQuery, *, kept: bool) -> None:
        """Count one question.

        Args:
            key: the same for the same meaning, and other for another tenant.
            query: what is asked.
            kept: whether what is kept could answer it.
        """
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= _MOST_QUESTIONS:
                return
            tally = self._tallies[key] = _Tally(query)
        tally.asked += 1
        tally.missed += not kept

    async def tell(self) -> None:
        """Tell what was counted here; where Redis is away it is lost, for it only says what to fetch ahead."""
        tallies, self._tallies = self._tallies, {}
        by_tenant: dict[str, list[_Tally]] = {}
        for tally in tallies.values():
            by_tenant.setdefault(tally.query.source_series.tenant, []).append(tally)
        for tenant, each in by_tenant.items():
            await self._counter_of(tenant).add((tally.query, tally.asked, tally.missed) for tally in each)

    async def run(self) -> None:
        """Tell once a second, for ever."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            with suppress(RedisError):
                await self.tell()
