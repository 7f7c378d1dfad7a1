"""Demand: how often the callers of the HTTP API request which queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import CanonicalQuery


@dataclass(frozen=True)
class Demand:
    """How often one interval of one series was requested.

    Attributes:
        series: The series' id.
        report: The report's name.
        interval: The interval as requested.
        requests: Number of requests.
        misses: How many of them could not be answered from the stores.
    """

    series: str
    report: str
    interval: Interval
    requests: int
    misses: int


class DemandCounter(Protocol):
    """Counts which queries a tenant's callers send, for a day."""

    async def add(self, counts: Iterable[tuple[CanonicalQuery, int, int]]) -> None:
        """Add each query's number of requests, and of those that missed.

        Raises:
            RedisUnavailable: The counts are lost.
        """
        ...

    async def recent(self, hours: int = 1) -> list[Demand]:
        """Return the demand of this hour and of the `hours` before it, most missed first.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...
