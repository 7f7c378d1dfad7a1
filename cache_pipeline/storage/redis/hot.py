"""The hot tier: finished answers in Redis for a few seconds, so that a crowd of dashboards costs one read.

Redis may be away: then nothing is held here, and history answers.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import cast

from redis.asyncio import Redis

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.redis.link import RedisLink
from cache_pipeline.storage.ttl import HOT_TTL_TIER, hot_life, is_due, jittered, report_freshness

_SEPARATOR = b"\n"


@dataclass(frozen=True)
class HotEntry:
    """An answer as it is held.

    Attributes:
        answer: what goes out.
        due: whether this reader should have it made anew, so that it never goes cold under load.
    """

    answer: Answer
    due: bool = False


def _packed(answer: Answer, written_at: float, life: float, cost: float) -> bytes:
    known = answer.completeness
    header = {
        "etag": answer.etag,
        "complete_through": known.complete_through.isoformat(),
        "provisional_from": known.provisional_from.isoformat() if known.provisional_from else None,
        "fetched_at": known.fetched_at.isoformat() if known.fetched_at else None,
        "written_at": written_at,
        "life": life,
        "cost": cost,
    }
    return json.dumps(header).encode() + _SEPARATOR + answer.body


@dataclass(frozen=True)
class _Head:
    etag: str
    completeness: Completeness
    written_at: float
    life: float
    cost: float


@lru_cache(maxsize=1024)
def _head(line: bytes) -> _Head:
    """Read what precedes a body; the same line is read by a whole crowd."""
    header = json.loads(line)
    known = Completeness(
        datetime.fromisoformat(header["complete_through"]),
        _instant(header["provisional_from"]),
        _instant(header["fetched_at"]),
    )
    return _Head(header["etag"], known, header["written_at"], header["life"], header["cost"])


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


class HotTier:
    """Answers by the key of their meaning (G7). A header line of JSON precedes the body: never a pickle.

    Args:
        redis: where they are.
        uniform: random, in [0, 1).
        now: seconds since the epoch. Machines that disagree by seconds make answers anew too early, or let them go cold;
            nothing worse.
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
        # A crowd that asks this process for one answer at one moment is served by one read.
        self._reads = Coalescer[bytes | None, None]()
        self._link = RedisLink("the hot tier holds nothing, and history answers")

    async def get(self, query: CanonicalQuery) -> Answer | None:
        """The answer, where one is held."""
        held = await self.look(query)
        return held.answer if held else None

    async def look(self, query: CanonicalQuery) -> HotEntry | None:
        """The answer, where one is held, and whether to make it anew."""
        return await self.look_up(query.cache_key(HOT_TTL_TIER))

    async def look_up(self, key: str) -> HotEntry | None:
        """The same by a key that is known already."""
        value = await self._reads.run(key, lambda _: self._read(key))
        if not value:
            return None
        line, _, body = value.partition(_SEPARATOR)
        head = _head(line)
        age = self._now() - head.written_at
        answer = Answer(body, head.etag, head.completeness)
        return HotEntry(answer, due=is_due(age, head.life, head.cost, self._uniform()))

    async def _read(self, key: str) -> bytes | None:
        return cast("bytes | None", await self._link.ask(lambda: self._redis.get(key), otherwise=None))

    async def put(self, answers: Iterable[tuple[CanonicalQuery, Answer]], as_of: datetime, cost: float = 0.0) -> None:
        """Keep answers for less than five seconds each (G8, G21), and none beyond its freshness (G11), in one round trip.

        Args:
            answers: with what they answer.
            as_of: the time by which their figures age.
            cost: seconds that making one of them takes.
        """

        async def write() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for query, answer in answers:
                    known = answer.completeness
                    oldest = known.fetched_at if known.provisional_from else None
                    longest = hot_life(oldest, report_freshness(query.source_series.report), as_of)
                    life = jittered(longest, self._uniform).total_seconds()
                    packed = _packed(answer, self._now(), life, cost)
                    pipeline.set(query.cache_key(HOT_TTL_TIER), packed, px=int(life * 1000))
                await pipeline.execute()

        await self._link.ask(write, otherwise=None)

    async def drop(self, queries: Iterable[CanonicalQuery]) -> None:
        """Forget answers whose rows have changed."""
        keys = [query.cache_key(HOT_TTL_TIER) for query in queries]
        if keys:
            await self._link.ask(lambda: self._redis.delete(*keys), otherwise=0)
