"""Idempotency keys: a POST that is sent again follows the same job (draft-ietf-httpapi-idempotency-key-header).

Two equal queries share one job even without a key, because jobs are found by the query's meaning. A key adds two things.
A client that lost its connection and sends the request again after the job has finished still learns how that job ended.
And a key that is reused for a different query is rejected as a mistake. A request need not be refused while the first one
with its key is still being served.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from redis.asyncio import Redis

from cache_pipeline.api.problems import Problem
from cache_pipeline.storage.api_key import Principal
from cache_pipeline.storage.job import JOB_RETENTION

#: A quoted string of structured fields, as the draft requires; many clients send the bare token.
_KEY_PATTERN = re.compile(r'^(?:"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([!#-+\--:<-\[\]-~]{1,255}))$')


def parse_idempotency_key(header: str | None) -> str | None:
    """Return the key that a header holds, or None if there is no header.

    Raises:
        Problem: 400 if the header is neither a quoted string nor a token of at most 255 characters.
    """
    if header is None:
        return None
    found = _KEY_PATTERN.match(header.strip())
    if found is None:
        raise Problem(
            "idempotency-key", 400, "Idempotency-Key must be one quoted string of 1 to 255 printable characters"
        )
    return found[1] or found[2]


@dataclass(frozen=True)
class IdempotencyStore:
    """Remembers which job an idempotency key led to, for as long as a finished job is kept.

    Each API key has its own idempotency keys.

    Attributes:
        redis: The server that holds the keys.
    """

    redis: Redis

    async def find_job(self, caller: Principal, key: str, query_key: str) -> UUID | None:
        """Return the job that a key led to before, or None if the key is new or led to an immediate answer.

        Args:
            caller: The API key that sent the request.
            key: The idempotency key as sent.
            query_key: The key of the query's meaning.

        Raises:
            Problem: 422 if the key was sent with another query before.
        """
        redis_key, fingerprint = self._redis_key(caller, key), _digest(query_key)
        retention = int(JOB_RETENTION.total_seconds())
        if await self.redis.set(redis_key, f"{fingerprint} ", nx=True, ex=retention):
            return None
        found = cast("bytes | None", await cast("Any", self.redis.get(redis_key)))
        previous, _, job = (found or b"").decode().partition(" ")
        if previous and previous != fingerprint:
            raise Problem(
                "idempotency-key", 422, "this Idempotency-Key was sent with another query: use a new key for each query"
            )
        return UUID(job) if job else None

    async def store_job(self, caller: Principal, key: str, query_key: str, job_id: UUID) -> None:
        """Remember the job that a key led to."""
        value = f"{_digest(query_key)} {job_id}"
        await self.redis.set(self._redis_key(caller, key), value, ex=int(JOB_RETENTION.total_seconds()))

    @staticmethod
    def _redis_key(caller: Principal, key: str) -> str:
        return f"cache_pipeline:idempotency:{caller.id}:{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
