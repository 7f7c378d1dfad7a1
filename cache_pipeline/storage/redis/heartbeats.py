"""Worker heartbeats in Redis, timed by Redis's own clock."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis.asyncio import Redis

from cache_pipeline.redis_connection import server_time
from cache_pipeline.redis_errors import REDIS_ERRORS, translated_failures
from cache_pipeline.storage.ports.workers import WorkerCounts

_KEY = "cache_pipeline:jobs:workers"
_HEARTBEATS_PER_LEASE = 3
#: How long a lost worker is still counted. By then the supervisor has restarted it and monitoring has seen it.
_LOST_RETENTION_SECONDS = 900


class RedisWorkerHeartbeats:
    """The workers of a deployment.

    Args:
        redis: The server that holds the heartbeats.
        lease_seconds: Silence after which a worker counts as lost, as its jobs then go to other workers.
    """

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._redis = redis
        self._lease_seconds = lease_seconds

    async def heartbeat(self, name: str) -> None:
        """Send a worker's heartbeat at regular intervals until cancelled."""
        while True:
            with suppress(*REDIS_ERRORS):
                await self._redis.zadd(_KEY, {name: await server_time(self._redis, _KEY)})
            await asyncio.sleep(self._lease_seconds / _HEARTBEATS_PER_LEASE)

    async def deregister(self, name: str) -> None:
        """Remove a worker that shuts down in order, so that it does not count as lost."""
        with suppress(*REDIS_ERRORS):
            await self._redis.zrem(_KEY, name)

    async def count(self) -> WorkerCounts:
        """Count the workers that are alive and those that were lost."""
        with translated_failures():
            now = await server_time(self._redis, _KEY)
            await self._redis.zremrangebyscore(_KEY, "-inf", now - _LOST_RETENTION_SECONDS)
            alive = int(await self._redis.zcount(_KEY, now - self._lease_seconds, "+inf"))
            return WorkerCounts(alive, int(await self._redis.zcard(_KEY)) - alive)
