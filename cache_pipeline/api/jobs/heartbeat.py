"""Which workers are there: each says so every few seconds, and takes its leave when it ends in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

_KEY = "cache_pipeline:jobs:workers"
_BEATS_A_LEASE = 3
#: A worker that fell silent is told of for so long; whoever restarts it has then seen it.
_REMEMBERED_SECONDS = 900


@dataclass(frozen=True)
class WorkerHeartbeat:
    """Workers at one moment: those that are there, and those that fell silent lately without taking leave."""

    alive: int
    vanished: int


class WorkerHeartbeats:
    """The workers of a deployment, by Redis's own clock.

    Args:
        redis: where they say that they are there.
        lease_seconds: a worker that was silent for so long is gone, as its jobs then go to others.
    """

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._redis = redis
        self._lease_seconds = lease_seconds

    async def beating(self, name: str) -> None:
        """Say that a worker is there, again and again."""
        while True:
            with suppress(RedisError):
                await self._redis.zadd(_KEY, {name: await self._now()})
            await asyncio.sleep(self._lease_seconds / _BEATS_A_LEASE)

    async def leave(self, name: str) -> None:
        """Say that a worker ends in order."""
        with suppress(RedisError):
            await self._redis.zrem(_KEY, name)

    async def present(self) -> WorkerHeartbeat:
        """Who is there.

        Raises:
            RedisError: nobody can say.
        """
        now = await self._now()
        await self._redis.zremrangebyscore(_KEY, "-inf", now - _REMEMBERED_SECONDS)
        alive = int(await self._redis.zcount(_KEY, now - self._lease_seconds, "+inf"))
        return WorkerHeartbeat(alive, int(await self._redis.zcard(_KEY)) - alive)

    async def _now(self) -> float:
        seconds, micros = cast("tuple[int, int]", await cast("Any", self._redis.time()))
        return seconds + micros / 1e6
