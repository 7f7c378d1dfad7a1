"""A job of the HTTP API: one query that is not ready, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from cache_pipeline.query.lane import Lane

#: A finished job can be looked at for so long.
KEPT_FOR = timedelta(days=1)


class JobState(StrEnum):
    """Where a job stands."""

    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self not in (JobState.queued, JobState.running)


@dataclass(frozen=True)
class NewJob:
    """What is put on the queue.

    Attributes:
        key: of the query's meaning; while a job of it is open, there is no second.
        tenant: whose.
        report: name of the declaration.
        request: the query in canonical form, for the worker to ask.
        lane: who asks.
        requested_by: id of the API key.
        context: correlation id and trace of the request.
    """

    key: str
    tenant: str
    report: str
    request: dict[str, Any]
    lane: Lane
    requested_by: str
    context: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class ApiJob:
    """A job as its row says.

    Attributes:
        id: random, so that it cannot be guessed.
        tenant, report, request, lane, requested_by: as it was put on the queue.
        state: where it stands.
        percent: 0 to 100.
        chunks_done, chunks_total: upstream queries; the total is None until it is known.
        attempts: how often a worker has begun with it.
        owner: the worker that has it, or had it last.
        problem: of a failed job, as problem details (RFC 9457).
        context: correlation id and trace of the first request for it.
    """

    id: UUID
    tenant: str
    report: str
    request: dict[str, Any]
    lane: Lane
    requested_by: tuple[str, ...]
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    owner: str | None
    percent: float
    chunks_done: int
    chunks_total: int | None
    problem: dict[str, Any] | None
    context: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def expires_at(self) -> datetime | None:
        """When an ended job is forgotten."""
        return self.finished_at + KEPT_FOR if self.finished_at else None
