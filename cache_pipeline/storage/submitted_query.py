"""A query that a client of a vendor submitted at the vendor's own path, to fetch its answer later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
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
