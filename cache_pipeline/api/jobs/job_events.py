"""Word that a job has changed, from workers to whoever waits for it: Redis carries it, the job row is what is true."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

_CHANNEL = "cache_pipeline:jobs:events"
_PAUSE_SECONDS = 1.0


class JobEvents:
    """One subscription for all that wait in this process. Word may be lost, so whoever waits also looks by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def announce(self, job_id: UUID) -> None:
        """Say that a job's row has changed."""
        with suppress(RedisError):
            await self._redis.publish(_CHANNEL, str(job_id))

    async def wait(self, changed: asyncio.Event, seconds: float) -> None:
        """Return when word comes, or after so many seconds at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        changed.clear()

    @asynccontextmanager
    async def watching(self, job_id: UUID) -> AsyncGenerator[asyncio.Event]:
        """An event that is set at every word of one job while the block lasts."""
        changed = asyncio.Event()
        name = str(job_id)
        self._waiting[name].add(changed)
        try:
            yield changed
        finally:
            self._waiting[name].discard(changed)
            if not self._waiting[name]:
                del self._waiting[name]

    async def listen(self) -> None:
        """Pass word on to those that wait, for ever; Redis may come and go."""
        while True:
            with suppress(RedisError):
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(_CHANNEL)
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            for changed in self._waiting.get(message["data"].decode(), ()):
                                changed.set()
            await asyncio.sleep(_PAUSE_SECONDS)
