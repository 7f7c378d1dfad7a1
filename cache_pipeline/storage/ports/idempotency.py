"""Remembers idempotency keys, so that a request that is sent again leads to the job of the first."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from cache_pipeline.errors import CachePipelineError


class IdempotencyKeyReused(CachePipelineError):
    """An idempotency key was sent with another query before."""

    http_status = 422
    problem_type = "idempotency-key"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was sent with another query", remedy="use a new key for each query")


class IdempotencyKeys(Protocol):
    """Remembers which job an idempotency key led to, for as long as a finished job is kept. Each caller has its own keys."""

    async def find_job(self, caller_id: str, key: str, query_key: str) -> UUID | None:
        """Return the job that a key led to before, or None if the key is new or led to an immediate answer.

        Args:
            caller_id: The id of the API key that sent the request.
            key: The idempotency key as sent.
            query_key: The key of the query's meaning.

        Raises:
            IdempotencyKeyReused: The key was sent with another query before.
            RedisUnavailable: Nothing can be read.
        """
        ...

    async def store_job(self, caller_id: str, key: str, query_key: str, job_id: UUID) -> None:
        """Remember the job that a key led to.

        Raises:
            RedisUnavailable: It was not stored.
        """
        ...
