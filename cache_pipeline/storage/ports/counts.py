"""Counts that the processes of the HTTP API share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


class MetricCounts(Protocol):
    """The counts of the metrics, by names that the caller chooses."""

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add to counts and to sums of seconds, all or none of them.

        Raises:
            RedisUnavailable: Nothing was added.
        """
        ...

    async def read(self) -> dict[str, float]:
        """Return the counts and sums by name.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...

    async def read_today(self) -> dict[str, float]:
        """Return the counts of the present day in UTC by name.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...


class RequestCounts(Protocol):
    """The requests of each API key by minute."""

    async def add(self, minute: int, requests: Mapping[str, int]) -> dict[str, int]:
        """Add the requests of some keys in a minute since the epoch, and return the totals of these keys.

        Raises:
            RedisUnavailable: Nothing is known of other processes.
        """
        ...
