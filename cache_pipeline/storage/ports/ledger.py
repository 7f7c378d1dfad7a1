"""The ledger of upstream queries."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series


class LedgerState(StrEnum):
    """State of an entry. The first four are open, the others have ended.

    Attributes:
        intent: About to be sent.
        ambiguous: It is unknown whether the vendor accepted it.
        submitted: The vendor has a job for it.
        ready: The answer is verified and can be read at the vendor.
        stored: Its rows are in history.
        answered: It was answered without a job, and the answer is not in history.
        superseded: Its answer would be too old.
        lost: Its owner ended before it recorded a handle.
        expired: The vendor no longer has the job.
        failed: The vendor refused it, or its answer is unusable.
        abandoned: Its caller no longer needs it.
    """

    intent = "intent"
    ambiguous = "ambiguous"
    submitted = "submitted"
    ready = "ready"
    stored = "stored"
    answered = "answered"
    superseded = "superseded"
    lost = "lost"
    expired = "expired"
    failed = "failed"
    abandoned = "abandoned"


class QueryInFlight(CachePipelineError):
    """Another process is working on the same query; retry when its lease has lapsed."""

    retryable = True


class LeaseLost(CachePipelineError):
    """Another process has taken an entry over, because its owner did not renew the lease."""


@dataclass(frozen=True)
class JobHandle:
    """The vendor's id of a job, and the OAuth client that may read it."""

    id: str
    oauth_client: str


@dataclass(frozen=True)
class LedgerRequest:
    """A query that is to be sent to a vendor.

    Attributes:
        series: The series of its rows.
        interval: The interval of the upstream query.
        lane: The request's priority lane.
        requested_at: The current time.
        min_requested_at: An open entry that was requested earlier would give an answer that is too old.
    """

    series: Series
    interval: Interval
    lane: str
    requested_at: datetime
    min_requested_at: datetime


@dataclass(frozen=True)
class LedgerClaim:
    """An entry that this process holds.

    Attributes:
        id: The entry's id.
        fence: The fencing token, which increases with every owner; a change with an older one is refused.
        interval: The interval of the query.
        requested_at: The time that the rows reflect.
        handle: The vendor's job, to be resumed. None if it must still be submitted.
        superseded_job: An earlier job that may still run and whose answer would be too old.
    """

    id: int
    fence: int
    interval: Interval
    requested_at: datetime
    handle: JobHandle | None = None
    superseded_job: JobHandle | None = None


@dataclass(frozen=True)
class OpenJob:
    """An open entry as other processes see it.

    Attributes:
        interval: The interval of the query.
        requested_at: The time that the rows reflect.
        is_alive: Whether a process is working on it.
    """

    interval: Interval
    requested_at: datetime
    is_alive: bool


class Ledger(Protocol):
    """The record of every upstream query, shared by all processes and machines. Every method blocks."""

    @property
    def threads(self) -> Executor | None:
        """The threads to call it in; None if it does not block."""
        ...

    @property
    def lease(self) -> timedelta:
        """How long an entry is held unless it is renewed."""
        ...

    def claim(self, request: LedgerRequest) -> LedgerClaim:
        """Record the intent to send a query, or take over the entry that a dead process has left.

        Raises:
            QueryInFlight: A live process holds the entry.
            HistoryUnavailable: The store cannot be reached.
        """
        ...

    def mark_submitted(self, claim: LedgerClaim, handle: JobHandle) -> None:
        """Record the vendor's handle.

        Raises:
            LeaseLost: Another process has taken the entry over.
        """
        ...

    def mark_ready(self, claim: LedgerClaim) -> None:
        """Record that the answer is verified and ready at the vendor, and release the entry, so that any process may read it.

        An answer that came with the response to the submit cannot be read again, so its entry ends.
        """
        ...

    def mark_ambiguous(self, claim: LedgerClaim, detail: str) -> None:
        """Record that it is unknown whether the vendor accepted the query; the entry stays open until it is sent again."""
        ...

    def end(self, claim: LedgerClaim, state: LedgerState, detail: str | None = None) -> None:
        """End an entry, unless another process has taken it over."""
        ...

    def renew(self, claims: Iterable[LedgerClaim]) -> None:
        """Hold entries for another lease, except those that another process has taken over."""
        ...

    def release(self, claims: Iterable[LedgerClaim]) -> None:
        """Release entries but leave them open, so that the next process that needs them resumes them."""
        ...

    def open_jobs(self, series: Series, interval: Interval) -> list[OpenJob]:
        """Return the jobs on an interval that the vendor has, or that are being submitted now, longest first."""
        ...

    def open_by_state(self) -> dict[LedgerState, int]:
        """Count the open queries of all series by state."""
        ...
