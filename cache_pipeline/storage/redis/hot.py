"""The hot tier: finished answers in Redis for a few seconds, so that many dashboards cost one read.

While Redis is unavailable this tier holds nothing, and history answers.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ports.hot import MAX_HOT_BYTES, HotEntry
from cache_pipeline.storage.redis.link import RedisLink
from cache_pipeline.storage.ttl import HOT_TTL_TIER, hot_ttl, is_refresh_due, jitter_ttl

_SEPARATOR = b"\n"


@dataclass(frozen=True)
class _StoredAnswer:
    answer: Answer
    written_at: float
    life: float
    cost: float


class RedisHotTier:
    """Answers by the key of their canonical query (G7). A line of JSON precedes the body: never a pickle.

    Args:
        redis: The Redis that holds them.
        uniform: Returns random numbers in [0, 1).
        now: Returns seconds since the epoch. Machines whose clocks differ by seconds recompute answers too early or let them
            expire; nothing worse happens.
    """

    def __init__(
        self,
        redis: Redis,
        uniform: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._uniform = uniform
        self._now = now
        # Callers of this process that want the same answer at the same moment share one read.
        self._reads = Coalescer[_StoredAnswer | None, None]()
        self._link = RedisLink("the hot tier holds nothing, and history answers")

    async def get(self, query: CanonicalQuery) -> Answer | None:
        """Return a query's answer, or None if none is stored."""
        entry = await self.get_entry(query.cache_key(HOT_TTL_TIER))
        return entry.answer if entry else None

    async def get_entry(self, key: str) -> HotEntry | None:
        """Return the answer with a key and whether to refresh it, or None if none is stored."""
        stored = await self._reads.run(key, lambda _: self._read(key))
        if stored is None:
            return None
        age = self._now() - stored.written_at
        return HotEntry(stored.answer, is_refresh_due(age, stored.life, stored.cost, self._uniform()))

    async def _read(self, key: str) -> _StoredAnswer | None:
        value = cast("bytes | None", await self._link.execute(lambda: self._redis.get(key), fallback=None))
        return _deserialize(value) if value else None

    async def put(self, answers: Iterable[tuple[CanonicalQuery, Answer]], as_of: datetime, cost: float = 0.0) -> None:
        """Store answers for less than five seconds each (G8, G21) and not beyond their freshness (G11), in one round trip.

        Answers of more than a megabyte are left out.

        Args:
            answers: Pairs of a query and its answer.
            as_of: The time from which the age of their rows is counted.
            cost: Seconds that computing one of them takes.
        """

        async def write() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for query, answer in answers:
                    if len(answer.body) > MAX_HOT_BYTES:
                        continue
                    completeness = answer.completeness
                    ttl = hot_ttl(completeness.fresh_until if completeness.provisional_from else None, as_of)
                    life = jitter_ttl(ttl, self._uniform).total_seconds()
                    value = _serialize(answer, self._now(), life, cost)
                    pipeline.set(query.cache_key(HOT_TTL_TIER), value, px=int(life * 1000))
                await pipeline.execute()

        await self._link.execute(write, fallback=None)

    async def put_for(self, key: str, answer: Answer, life: timedelta, cost: float = 0.0) -> None:
        """Store an answer of any size for a time of its own; without any time it is not stored. See the port for the arguments."""
        if life <= timedelta(0):
            return
        seconds = jitter_ttl(life, self._uniform).total_seconds()
        value = _serialize(answer, self._now(), seconds, cost)
        await self._link.execute(lambda: self._redis.set(key, value, px=int(seconds * 1000)), fallback=None)


def _serialize(answer: Answer, written_at: float, life: float, cost: float) -> bytes:
    completeness = answer.completeness
    header = {
        "etag": answer.etag,
        "complete_through": completeness.complete_through.isoformat(),
        "provisional_from": completeness.provisional_from.isoformat() if completeness.provisional_from else None,
        "fetched_at": completeness.fetched_at.isoformat() if completeness.fetched_at else None,
        "fresh_until": completeness.fresh_until.isoformat() if completeness.fresh_until else None,
        "written_at": written_at,
        "life": life,
        "cost": cost,
    }
    return json.dumps(header).encode() + _SEPARATOR + answer.body


def _deserialize(value: bytes) -> _StoredAnswer:
    line, _, body = value.partition(_SEPARATOR)
    header = json.loads(line)
    completeness = Completeness(
        datetime.fromisoformat(header["complete_through"]),
        _optional_instant(header["provisional_from"]),
        _optional_instant(header["fetched_at"]),
        # An answer that an older version wrote lacks it.
        _optional_instant(header.get("fresh_until")),
    )
    answer = Answer(body, header["etag"], completeness)
    return _StoredAnswer(answer, header["written_at"], header["life"], header["cost"])


def _optional_instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
