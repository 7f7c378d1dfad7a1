"""Idempotency keys in Redis."""

from __future__ import annotations

import hashlib
from typing import Any, cast
from uuid import UUID

from redis.asyncio import Redis

from cache_pipeline.redis_errors import translated_failures
from cache_pipeline.storage.ports.idempotency import IdempotencyKeyReused
from cache_pipeline.storage.ports.jobs import JOB_RETENTION

_RETENTION_SECONDS = int(JOB_RETENTION.total_seconds())


class RedisIdempotencyKeys:
    """The job that each idempotency key led to. Only digests of keys and queries are stored."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def find_job(self, caller_id: str, key: str, query_key: str) -> UUID | None:
        """Return the job that a key led to before; see the port."""
        redis_key, fingerprint = _redis_key(caller_id, key), _digest(query_key)
        with translated_failures():
            if await self._redis.set(redis_key, f"{fingerprint} ", nx=True, ex=_RETENTION_SECONDS):
                return None
            found = cast("bytes | None", await cast("Any", self._redis.get(redis_key)))
        previous, _, job = (found or b"").decode().partition(" ")
        if previous and previous != fingerprint:
            raise IdempotencyKeyReused
        return UUID(job) if job else None

    async def store_job(self, caller_id: str, key: str, query_key: str, job_id: UUID) -> None:
        """Remember the job that a key led to."""
        with translated_failures():
            value = f"{_digest(query_key)} {job_id}"
            await self._redis.set(_redis_key(caller_id, key), value, ex=_RETENTION_SECONDS)


def _redis_key(caller_id: str, key: str) -> str:
    return f"cache_pipeline:idempotency:{caller_id}:{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
