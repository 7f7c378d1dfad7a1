"""The hot tier: finished answers in Redis for a few seconds, so that a crowd of dashboards costs one read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import cast

from redis.asyncio import Redis

from cache_pipeline.query.series import Query
from cache_pipeline.tiers.answer import Answer, Completeness
from cache_pipeline.tiers.ttl import HOT_TTL, HOT_TTL_TIER, jittered

_SEPARATOR = b"\n"


def _packed(answer: Answer) -> bytes:
    known = answer.completeness
    header = {
        "etag": answer.etag,
        "complete_through": known.complete_through.isoformat(),
        "provisional_from": known.provisional_from.isoformat() if known.provisional_from else None,
        "fetched_at": known.fetched_at.isoformat() if known.fetched_at else None,
    }
    return json.dumps(header).encode() + _SEPARATOR + answer.body


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _unpacked(value: bytes) -> Answer:
    head, _, body = value.partition(_SEPARATOR)
    header = json.loads(head)
    return Answer(
        body,
        header["etag"],
        Completeness(
            datetime.fromisoformat(header["complete_through"]),
            _instant(header["provisional_from"]),
            _instant(header["fetched_at"]),
        ),
    )


class HotTier:
    """Answers by the key of their meaning (G7). A header line of JSON precedes the body: never a pickle."""

    def __init__(self, redis: Redis, uniform: Callable[[], float] = random.random) -> None:
        self._redis = redis
        self._uniform = uniform

    async def get(self, query: Query) -> Answer | None:
        """The answer, where one is held."""
        value = cast("bytes | None", await self._redis.get(query.key(HOT_TTL_TIER)))
        return _unpacked(value) if value else None

    async def put(self, answers: Iterable[tuple[Query, Answer]]) -> None:
        """Keep answers for less than five seconds each (G8, G21), in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for query, answer in answers:
                life = jittered(HOT_TTL, self._uniform)
                pipeline.set(query.key(HOT_TTL_TIER), _packed(answer), px=int(life.total_seconds() * 1000))
            await pipeline.execute()

    async def drop(self, queries: Iterable[Query]) -> None:
        """Forget answers whose rows have changed."""
        keys = [query.key(HOT_TTL_TIER) for query in queries]
        if keys:
            await self._redis.delete(*keys)
