"""Changes of jobs over Redis: workers announce them, and callers that wait for a job are woken."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from redis.asyncio import Redis

from cache_pipeline.redis_connection import subscription_to
from cache_pipeline.redis_errors import REDIS_ERRORS

_CHANNEL = "cache_pipeline:jobs:events"
_RECONNECT_SECONDS = 1.0


class RedisJobEvents:
    """One subscription, shared by all callers of this process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._listeners: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def publish(self, job_id: UUID) -> None:
        """Announce that a job's row has changed."""
        with suppress(*REDIS_ERRORS):
            await self._redis.publish(_CHANNEL, str(job_id))

    @asynccontextmanager
    async def subscribe(self, job_id: UUID) -> AsyncGenerator[asyncio.Event]:
        """Yield an `asyncio.Event` that is set whenever the job changes while the block lasts."""
        changed = asyncio.Event()
        name = str(job_id)
        self._listeners[name].add(changed)
        try:
            yield changed
        finally:
            self._listeners[name].discard(changed)
            if not self._listeners[name]:
                del self._listeners[name]

    async def listen(self) -> None:
        """Pass events on to the subscribers until cancelled, and reconnect whenever Redis was unavailable."""
        while True:
            with suppress(*REDIS_ERRORS):
                async with subscription_to(self._redis, _CHANNEL) as subscription:
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            for changed in self._listeners.get(message["data"].decode(), ()):
                                changed.set()
            await asyncio.sleep(_RECONNECT_SECONDS)
