"""The counters that all processes of the HTTP API add to: of the metrics, and of the requests of each API key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


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
