"""Queries that clients of a vendor submitted at the vendor's own paths, to fetch the answers later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID


@dataclass(frozen=True)
class SubmittedQuery:
    """A submitted query.

    Attributes:
        id: Random, so that it cannot be guessed.
        tenant: The tenant whose data is read.
        caller: Id of the API key that submitted it, which alone may see it.
        path: The vendor's path at which it was submitted.
        body: Its body.
        job_id: The job that fetches what was not stored; None if everything was.
        submitted_at: When it was submitted.
        expires_at: When it is forgotten.
        answer: The answer in the vendor's form, compressed, once a page of several was read; None before that.
    """

    id: UUID
    tenant: str
    caller: str
    path: str
    body: dict[str, Any]
    job_id: UUID | None
    submitted_at: datetime
    expires_at: datetime
    answer: bytes | None = None


class SubmittedQueries(Protocol):
    """Queries that clients of a vendor submitted at the vendor's own paths, to fetch the answers later."""

    async def add(
        self, tenant: str, caller: str, path: str, body: object, job_id: UUID | None, lifetime: timedelta
    ) -> SubmittedQuery:
        """Store a query and return it; forget expired ones, and the oldest of very many."""
        ...

    async def find(self, query_id: UUID, tenant: str, caller: str, path: str) -> SubmittedQuery | None:
        """Return a query that a key submitted at a path, or None if there is none or it has expired."""
        ...

    async def keep_answer(self, query_id: UUID, answer: bytes) -> None:
        """Store the answer whose pages are read, unless one is stored already."""
        ...

    async def remove(self, query_id: UUID) -> None:
        """Forget a query."""
        ...
