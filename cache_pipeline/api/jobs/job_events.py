"""Job change events: workers publish them over Redis, and callers that wait for a job receive them.

An event only says that a job's row may have changed. The row in PostgreSQL is what counts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

_CHANNEL = "cache_pipeline:jobs:events"
_RECONNECT_SECONDS = 1.0


class JobEvents:
    """One subscription, shared by all callers of this process. Events may be lost, so callers also poll the row."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._listeners: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def publish(self, job_id: UUID) -> None:
        """Announce that a job's row has changed."""
        with suppress(RedisError):
            await self._redis.publish(_CHANNEL, str(job_id))

    async def wait(self, changed: asyncio.Event, seconds: float) -> None:
        """Wait for an event, but no longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        changed.clear()

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
        """Pass events on to the listeners until cancelled, and reconnect whenever Redis was unavailable."""
        while True:
            with suppress(RedisError):
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(_CHANNEL)
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            for changed in self._listeners.get(message["data"].decode(), ()):
                                changed.set()
            await asyncio.sleep(_RECONNECT_SECONDS)
