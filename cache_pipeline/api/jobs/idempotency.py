"""A POST that is sent again with the same Idempotency-Key follows the same job (draft-ietf-httpapi-idempotency-key-header).

A question asked again is the same question without it: same meaning, same job. What the key adds is that whoever sends
again after the job has ended, since no answer came through, hears how that job ended; and that a key used for another
question is told as the mistake that it is. Nothing needs to be refused while the first request is still being served.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from redis.asyncio import Redis

from cache_pipeline.api.auth import Principal
from cache_pipeline.api.jobs.job import KEPT_FOR
from cache_pipeline.api.problems import Problem

#: A quoted string of structured fields, as the draft has it; many clients send the bare token.
_KEY = re.compile(r'^(?:"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([!#-+\--:<-\[\]-~]{1,255}))$')


def idempotency_key(header: str | None) -> str | None:
    """The key in a header, if there is one.

    Raises:
        Problem: 400, it is neither a quoted string nor a token of at most 255 characters.
    """
    if header is None:
        return None
    found = _KEY.match(header.strip())
    if found is None:
        raise Problem(
            "idempotency-key", 400, "Idempotency-Key must be one quoted string of 1 to 255 printable characters"
        )
    return found[1] or found[2]


@dataclass(frozen=True)
class IdempotencyStore:
    """Remembers, for as long as an ended job is, which job an idempotency key led to; each API key has keys of its own.

    Attributes:
        redis: where.
    """

    redis: Redis

    async def job_of(self, caller: Principal, key: str, meaning: str) -> UUID | None:
        """The job that a key led to before; None where it is new, or led to an answer at once.

        Args:
            caller: who sent it.
            key: as sent.
            meaning: of the question.

        Raises:
            Problem: 422, the key was sent with another question.
        """
        place, meaning = self._place(caller, key), _short(meaning)
        if await self.redis.set(place, f"{meaning} ", nx=True, ex=int(KEPT_FOR.total_seconds())):
            return None
        found = cast("bytes | None", await cast("Any", self.redis.get(place)))
        before, _, job = (found or b"").decode().partition(" ")
        if before and before != meaning:
            raise Problem(
                "idempotency-key", 422, "this Idempotency-Key was sent with another question: make a new one for each"
            )
        return UUID(job) if job else None

    async def note(self, caller: Principal, key: str, meaning: str, job_id: UUID) -> None:
        """Remember the job."""
        await self.redis.set(self._place(caller, key), f"{_short(meaning)} {job_id}", ex=int(KEPT_FOR.total_seconds()))

    @staticmethod
    def _place(caller: Principal, key: str) -> str:
        return f"cache_pipeline:idempotency:{caller.id}:{_short(key)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
