"""Answers of vendors that several callers share for a short time, in Redis: compressed, and bounded in all.

They may name persons. Compressed text cannot be searched, so forgetting a person deletes all of them.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Any, cast

from redis.asyncio import Redis

from cache_pipeline.redis_errors import translated_failures

#: What all keys of this module begin with.
SHARED_PREFIX = "cache_pipeline:shared_jobs:"
_SIZES = f"{SHARED_PREFIX}sizes"
_MAX_BYTES = 64 * 1024 * 1024
_MAX_ENTRY_BYTES = 4 * 1024 * 1024


class RedisSharedAnswers:
    """Shared answers in Redis."""

    def __init__(self, redis: Redis, max_bytes: int = _MAX_BYTES) -> None:
        self._redis = redis
        self._max_bytes = max_bytes

    async def get(self, name: str) -> bytes | None:
        """Return an answer, or None if it is not kept."""
        with translated_failures():
            found = cast("bytes | None", await self._redis.get(SHARED_PREFIX + name))
        return None if found is None else await asyncio.to_thread(zlib.decompress, found)

    async def put(self, name: str, content: bytes, seconds: int) -> None:
        """Keep an answer for some seconds, unless it is too large or too much is kept already."""
        compressed = await asyncio.to_thread(zlib.compress, content)
        redis, now = cast("Any", self._redis), time.time()
        with translated_failures():
            await redis.zremrangebyscore(_SIZES, "-inf", now)
            kept = sum(int(cast("bytes", each).split(b" ", 1)[0]) for each in await redis.zrange(_SIZES, 0, -1))
            if len(compressed) > min(_MAX_ENTRY_BYTES, self._max_bytes - kept):
                return
            await redis.zadd(_SIZES, {f"{len(compressed)} {name}": now + seconds})
            await redis.set(SHARED_PREFIX + name, compressed, ex=seconds)

    async def remove(self, name: str) -> None:
        """Forget an answer."""
        with translated_failures():
            await self._redis.delete(SHARED_PREFIX + name)
