"""The status of reports and jobs, for the metrics and the operations page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from cache_pipeline.query.series import Series


@dataclass(frozen=True)
class ReportFreshness:
    """How fresh the stored data of one series is.

    Attributes:
        watermark: The latest watermark seen, or None.
        complete_from: Start of the final data, or None if there is none.
        complete_through: End of the final data, or None if there is none.
        provisional_fetched_at: When the oldest provisional figures were fetched, or None if there are none.
    """

    watermark: datetime | None
    complete_from: datetime | None
    complete_through: datetime | None
    provisional_fetched_at: datetime | None


@dataclass(frozen=True)
class JobBacklog:
    """Jobs that need an operator's attention.

    Attributes:
        oldest_seconds: How long the oldest job that could run has waited; 0 if none waits.
        dead_letters: Dead-lettered jobs and messages of the last day, by `job` and `message`.
        failed: Jobs that failed within the last hour, by the kind of problem.
    """

    oldest_seconds: float
    dead_letters: Mapping[str, int]
    failed: Mapping[str, int]


@dataclass(frozen=True)
class FailedJob:
    """A job that failed.

    Attributes:
        report: The report that it was to answer from.
        finished_at: When it failed.
        problem: Why, as problem details (RFC 9457).
    """

    report: str
    finished_at: datetime
    problem: Mapping[str, Any]


class StatusQueries(Protocol):
    """The status of reports and jobs, for the metrics and the operations page."""

    async def freshness(self, series: Iterable[Series]) -> dict[str, ReportFreshness]:
        """Return the freshness of stored data by series id; series that were never fetched are left out."""
        ...

    async def verdict_counts(self, series: Iterable[Series], now: datetime) -> dict[tuple[str, str], int]:
        """Count the vendor's answers of the last hour by series id and verdict."""
        ...

    async def vendor_requests(self, series: Iterable[Series], since: datetime) -> dict[str, int]:
        """Count the requests to the vendor behind the answers stored since an instant, by series id."""
        ...

    async def failed_jobs(self, tenant: str, limit: int) -> list[FailedJob]:
        """Return the last jobs of a tenant that failed, the latest first."""
        ...

    async def job_backlog(self) -> JobBacklog:
        """Return how long jobs wait, and which were dead-lettered or failed."""
        ...
