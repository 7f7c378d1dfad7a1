"""The series of queries that no declared report holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column


@dataclass(frozen=True)
class AdHocSeriesInfo:
    """A series of queries that no declared report holds.

    Attributes:
        name: Its name, and that of its table.
        tenant: The tenant whose rows it holds.
        declaration: The declaration of a report that would hold them.
        metrics: All metrics that were asked for.
        requests: How often it was asked for.
        created_at: When it was first asked for.
        last_requested_at: When it was last asked for.
    """

    name: str
    tenant: str
    declaration: Mapping[str, Any]
    metrics: Sequence[str]
    requests: int
    created_at: datetime
    last_requested_at: datetime


class AdHocSeriesRegister(Protocol):
    """The ad hoc series of all tenants, and their tables."""

    async def prepare(
        self, declaration: Mapping[str, Any], report: Report, columns: tuple[Column, ...], tenant: str, most: int
    ) -> None:
        """Register a series and create its table, unless both are done.

        Raises:
            TooManyAdHocSeries: The tenant has as many already.
        """
        ...

    async def count_requests(self, requests: Mapping[tuple[str, str], int]) -> None:
        """Add to the requests of series, by name and tenant."""
        ...

    async def drop_expired(self, keep: timedelta) -> list[str]:
        """Drop the series that were not asked for within a time, with their rows, and return their names."""
        ...

    async def all(self, tenant: str | None = None) -> list[AdHocSeriesInfo]:
        """Return every series, or those of a tenant, the most requested first."""
        ...
